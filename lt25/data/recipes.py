"""The options of preparation: what `prepare:` in an experiment file may say, for each task."""

import difflib
from typing import Any

from lt25.errors import UserError
from lt25.experiment import Experiment

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"

DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {
        "layout": "pixels",  # one pixel a step | "rows": one image row a step | "series": the input is a list of numbers
        "size": None,  # [height, width] that images are resized to; None: they must all have one size
    },
    "speech_recognition": {
        "n_mels": 80,  # 40 | 80
        "sample_rate": 16000,  # Hz; audio is resampled to it
        "units": "characters",
        "alphabet": ALPHABET,  # the characters of a transcript in lower case, besides the space between words
        "faulty": "stop",  # "exclude": leave out, and count, unreadable audio and transcripts outside the alphabet
    },
    "language_modeling": {
        "vocab_size": 4096,  # of the byte-level BPE, 257 at least: the bytes and the end of a document
        "documents": "whole",  # a text is a document | "paragraphs" | "lines": it is cut into them
    },
}

_ALLOWED: dict[str, Any] = {
    "layout": ("pixels", "rows", "series"),
    "n_mels": (40, 80),
    "units": ("characters",),
    "faulty": ("stop", "exclude"),
    "documents": ("whole", "paragraphs", "lines"),
}


def resolve(experiment: Experiment) -> dict[str, Any]:
    """Return the recipe of an experiment, defaults filled in.

    Raises:
        UserError: for a key or value that the recipe of its task does not know.
    """
    defaults = DEFAULTS[experiment.task]
    for key, value in experiment.prepare.items():
        where = f"{experiment.path}: prepare.{key}"
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"{where}: unknown key: {hint}Allowed for {experiment.task}: {', '.join(defaults)}")
        if key in _ALLOWED and value not in _ALLOWED[key]:
            raise UserError(f"{where}: found {value!r}, allowed: {', '.join(map(str, _ALLOWED[key]))}")
        if expected := _complaint(key, value):
            raise UserError(f"{where}: found {value!r}, expected {expected}")
    return {**defaults, **experiment.prepare}


def _complaint(key: str, value: Any) -> str | None:
    def whole(number: Any, least: int) -> bool:
        return isinstance(number, int) and not isinstance(number, bool) and number >= least

    if key == "sample_rate" and not whole(value, 4000):
        return "a number of samples a second, at least 4000"
    if key == "vocab_size" and not whole(value, 257):
        return "a whole number, at least 257"
    if key == "size" and value is not None:
        fits = isinstance(value, list) and len(value) == 2 and all(whole(side, 1) for side in value)
        return None if fits else "[height, width] in pixels"
    if key == "alphabet":
        fits = isinstance(value, str) and value == value.lower() and 0 < len(value) == len(set(value) - {" ", "|"})
        return None if fits else "different characters in lower case, without the space and |"
    return None
