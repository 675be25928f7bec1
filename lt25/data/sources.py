"""Where examples come from, one at a time; windows of tokens are in `lt25.data.packing`.

Which of them a task reads is said by ``source`` in its data module.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lt25.data.collation import Item
from lt25.data.prepared import PreparedSplit


class Source(Protocol):
    """Where examples come from.

    An example is asked for by a number. A source that has a ``count`` is read in a random order, epoch by epoch; one that has
    none, a stream, is read once, in order: 0, 1, 2, ...; a process is asked for its share of the numbers only.

    Attributes:
        name: what a message calls it.
        unit: what a message calls its examples, in the plural.
        count: how many examples there are; None if there is no end.
        stride: examples begin at every ``stride``-th number, from a first one below it that is drawn in every epoch.
        lengths: of the examples, int64 [count], in the steps that a model sees; None if they are all alike.
    """

    name: str
    unit: str
    stride: int

    @property
    def count(self) -> int | None: ...

    @property
    def lengths(self) -> np.ndarray | None: ...

    def __getitem__(self, index: int) -> Item:
        """Return an example."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what decides, beside the numbers asked for, which examples come next: nothing, for most sources.

        A source that has a state is read in the trainer's own process.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        ...

    def close(self) -> None:
        """End what is under way."""
        ...


class Stateless:
    """What a source whose examples depend on their number alone need not say."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert not state, state

    def close(self) -> None:
        """Do nothing."""


class PreparedExamples(Stateless):
    """The examples of a prepared split, by their number in it.

    Args:
        split: a prepared split.
        lengths: of the examples as the model sees them, int64 [n]; by default as they are stored.
    """

    unit, stride = "examples", 1

    def __init__(self, split: PreparedSplit, lengths: np.ndarray | None = None) -> None:
        self.split, self.count, self.name = split, len(split), _name(split.path)
        lengths = split.lengths if lengths is None else lengths
        self.lengths = lengths if self.count and lengths.min() < lengths.max() else None

    def __getitem__(self, index: int) -> Item:
        return self.split[index]

    def stacked(self, indices: list[int]) -> Item:
        """Return many examples at once, stacked; only where all lengths are alike and every label is one number.

        Many short sequences take longer one by one than the step that they are for.
        """
        inputs, labels = self.split.shards["inputs"], self.split.shards["labels"]
        inputs = inputs.view(len(labels), -1, *inputs.shape[1:])
        return {"input": inputs[indices], "label": labels[indices]}


def _name(path: Path) -> str:
    return f"{path}: the training split"
