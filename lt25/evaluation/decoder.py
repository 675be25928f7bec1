"""What ``evaluation.decoder`` may ask of the search for the likeliest text, before torch is imported."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lt25.data.transcripts import normalise
from lt25.errors import UserError
from lt25.experiment import Experiment

ESTIMATED = ("words", "symbols")
"""Language models that are estimated from the transcripts of the training split."""


def require(options: Mapping[str, Any], where: str = "evaluation.decoder.") -> None:
    """Refuse a search that cannot be made, before anything is imported or read.

    Args:
        options: ``evaluation.decoder``, resolved and `settled`.
        where: what a message begins with, before the name of a key.

    Raises:
        UserError: if the search needs a package that is not installed, a file that is missing, or keys do not go together.
    """
    model = options["language_model"]
    if options["boost"] and model in (None, "symbols"):
        raise UserError(
            f"{where}boost: needs a language model of words: set language_model beside it to words or to a file"
        )
    if options["alternatives"] > options["beam"]:
        raise UserError(
            f"{where}alternatives: found {options['alternatives']}, and beam is {options['beam']}: expected at most as many: "
            f"set beam to {options['alternatives']} or more"
        )
    if model not in (None, *ESTIMATED) and not Path(model).is_file():
        raise UserError(f"{where}language_model: {model}: no such file: expected words, symbols or an ARPA file")
    if importlib.util.find_spec("flashlight") is None:
        raise UserError(f"{where}beam: flashlight-text is not installed: run `pip install flashlight-text`")


def located(options: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return ``evaluation.decoder`` with a language model's file as a path from the project's root."""
    model = options["language_model"]
    return {**options, "language_model": model if model in (None, *ESTIMATED) else str(root / Path(model).expanduser())}


def settled(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment's ``evaluation`` section, where ``decoder`` is as the search reads it.

    A language model's file is a path from the project's root, and words to boost are written as its transcripts are.

    Raises:
        UserError: if a word cannot be written so.
    """
    options = experiment.evaluation.get("decoder")
    if not options:
        return experiment.evaluation
    where = f"{experiment.path}: evaluation.decoder.boost"
    boost = written(options["boost"], experiment.prepare["transcripts"], experiment.prepare["alphabet"], where)
    return {**experiment.evaluation, "decoder": {**located(options, experiment.root), "boost": boost}}


def written(words: Iterable[str], transcripts: Mapping[str, Any], alphabet: str, where: str) -> list[str]:
    """Return words to boost, each once, as transcripts have them: what becomes several words is several.

    Args:
        words: as people write them.
        transcripts: ``prepare.transcripts``, resolved.
        alphabet: ``prepare.alphabet``.
        where: what a message begins with.

    Raises:
        UserError: if nothing is left of a word, or it has characters outside the alphabet.
    """
    found: list[str] = []
    for word in words:
        text = normalise(word, transcripts, alphabet)
        if not text:
            raise UserError(
                f"{where}: {word!r}: nothing is left of it as transcripts are written: expected a word, or remove it"
            )
        if outside := sorted(set(text) - set(alphabet) - {" "}):
            raise UserError(
                f"{where}: {word!r}: {outside[0]!r} is outside the alphabet {alphabet} (prepare.alphabet): write it in these "
                f"letters"
            )
        found += text.split()
    return list(dict.fromkeys(found))


def reads_training_texts(options: Mapping[str, Any] | None) -> bool:
    """Whether a language model is estimated."""
    return options is not None and options["language_model"] in ESTIMATED


def training_texts(folder: Path) -> list[str]:
    """Return the transcripts of the training split of prepared data."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder / "train.parquet", columns=["text"])["text"].to_pylist()
