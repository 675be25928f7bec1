"""Reading a prepared split back: a map-style torch dataset over memory-mapped tensors."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

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
