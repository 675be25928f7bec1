"""Where examples come from, one at a time: a prepared split, read back from memory-mapped tensors, or another source.

Which source a task reads is said by ``source`` in its data module; windows of tokens are in `lt25.data.packing`.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

from lt25.data.batches import Item
from lt25.data.shards import shard_path
from lt25.errors import UserError

if TYPE_CHECKING:
    import pandas


class PreparedSplit(Dataset):
    """A split of a prepared dataset.

    ``split[i]`` is ``{"input": Tensor [T, ...], "label": Tensor}``: a view of the memory map, as stored (float16 or float32
    features [T, C], int16 samples [n], uint16 or int32 token ids [T]); the label is int64 [] for classification, int32 [L] for
    speech, and absent for language modelling.

    Attributes:
        path: the prepared dataset's folder.
        split: its name.
        shards: the split's tensors by name: ``inputs``, ``input_offsets``, and where there are labels ``labels`` and, if
            they are sequences, ``label_offsets``; none of text that is tokenized as training goes.

    Raises:
        UserError: if the folder has no such split, or its file is cut off. `lt25.data.shards.believe` compares its content.
    """

    def __init__(self, processed_dir: Path | str, split: str) -> None:
        self.path, self.split = Path(processed_dir), split
        self.shards: dict[str, torch.Tensor]
        file = shard_path(self.path, split)
        if (self.path / f"{split}.json").is_file():
            # Text that is tokenized as training goes (`lt25.data.documents`).
            self.shards, self._ends = {}, {}
            return
        if not file.is_file():
            raise UserError(f"{file}: no such prepared split: run `lt25 prepare` on the experiment first")
        try:
            with safe_open(file, framework="pt") as tensors:
                self.shards = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{file}: damaged ({error}): run `lt25 prepare` on the experiment again") from None
        self._ends = {
            name: self.shards[name].tolist() for name in ("input_offsets", "label_offsets") if name in self.shards
        }

    def __reduce__(self):
        # A process that is sent this dataset maps the file itself: the tensors are not copied.
        return PreparedSplit, (self.path, self.split)

    def __len__(self) -> int:
        return len(self.shards["input_offsets"]) - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.split} has {len(self)} examples, not {index}")
        ends = self._ends["input_offsets"]
        item = {"input": self.shards["inputs"][ends[index] : ends[index + 1]]}
        if "label_offsets" in self._ends:
            ends = self._ends["label_offsets"]
            item["label"] = self.shards["labels"][ends[index] : ends[index + 1]]
        elif "labels" in self.shards:
            item["label"] = self.shards["labels"][index]
        return item

    @cached_property
    def lengths(self) -> np.ndarray:
        """Lengths of the inputs, int64 [n]."""
        return np.diff(self.shards["input_offsets"].numpy())

    def table(self) -> "pandas.DataFrame":
        """Return what is known of each example: one row each, in order."""
        import pandas

        return pandas.read_parquet(self.path / f"{self.split}.parquet")


class Source(Protocol):
    """Where examples come from.

    An example is asked for by a number. A source that has a ``count`` is read in a random order, epoch by epoch; one that has
    none, a stream, is read once, in order: 0, 1, 2, ...; a process is asked for its share of the numbers only.

    Attributes:
        name: what a message calls it.
        unit: what a message calls its examples, in the plural.
        count: how many examples there are; None if there is no end.
        lengths: of the examples, int64 [count], in the steps that a model sees; None if they are all alike.
    """

    name: str
    unit: str

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
        lengths: of the examples as the model sees them, int64 [n]; by default as they are stored, and none if they are all alike.
    """

    unit = "examples"

    def __init__(self, split: PreparedSplit, lengths: np.ndarray | None = None) -> None:
        self.split, self.count, self.name = split, len(split), f"{split.path}: the training split"
        alike = lengths is None and not (self.count and split.lengths.min() < split.lengths.max())
        self.lengths = None if alike else split.lengths if lengths is None else lengths

    def __getitem__(self, index: int) -> Item:
        return self.split[index]

    def stacked(self, indices: list[int]) -> Item:
        """Return many examples at once, stacked; only where all lengths are alike and every label is one number.

        Many short sequences take longer one by one than the step that they are for.
        """
        inputs, labels = self.split.shards["inputs"], self.split.shards["labels"]
        inputs = inputs.view(len(labels), -1, *inputs.shape[1:])
        return {"input": inputs[indices], "label": labels[indices]}
