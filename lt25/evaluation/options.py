"""The `evaluation` section of an experiment file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lt25.errors import UserError


@dataclass(frozen=True)
class Options:
    """What to evaluate, and on how much of it.

    splits: prepared splits, in this order; the headline number is that of "test", or of the last if it is not there.
    batch_size: examples (documents, for language models) in a batch.
    max_bytes: language models only: evaluate whole documents, drawn in a fixed random order, until they hold this many
        bytes; None means all of them.
    prompts: language models only: texts to continue; an empty list takes the first lines of three evaluated documents.
    new_tokens: language models only: the most tokens a continuation has; 0 writes no samples.
    """

    splits: tuple[str, ...] = ("validation", "test")
    batch_size: int = 64
    max_bytes: int | None = None
    prompts: tuple[str, ...] = ()
    new_tokens: int = 96

    @property
    def headline(self) -> str:
        """The split whose numbers stand for the model."""
        return "test" if "test" in self.splits else self.splits[-1]


def read_options(section: dict, where: str) -> Options:
    """Turn the `evaluation` section into `Options`.

    section: the mapping as read; where: the experiment file, for messages.
    Raises UserError for an unknown key or a value of the wrong kind.
    """
    known = {field.name: field for field in dataclasses.fields(Options)}
    checks = {
        "splits": (lambda v: isinstance(v, list) and v and all(isinstance(s, str) for s in v), "a list of split names"),
        "batch_size": (lambda v: isinstance(v, int) and v > 0, "a whole number above 0"),
        "max_bytes": (lambda v: v is None or (isinstance(v, int) and v > 0), "a whole number above 0, or null for all"),
        "prompts": (lambda v: isinstance(v, list) and all(isinstance(s, str) and s for s in v), "a list of texts"),
        "new_tokens": (lambda v: isinstance(v, int) and v >= 0, "a whole number, 0 for no samples"),
    }
    for key, value in section.items():
        if key not in known:
            raise UserError(f"{where}: evaluation.{key}: unknown key; known are {', '.join(known)}")
        right, expected = checks[key]
        if isinstance(value, bool) or not right(value):
            raise UserError(f"{where}: evaluation.{key}: expected {expected}, found {value!r}")
    return Options(**{key: tuple(value) if isinstance(value, list) else value for key, value in section.items()})
