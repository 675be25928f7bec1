"""From a prepared split to batches.

The order of the examples is a pure function of the seed and the step: nothing depends on how many processes read, and the
whole state of a loader is the number of steps it has served.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.experiment import Task

IGNORE = -100
"""Label of a position that has none; the same number as torch's and torchtitan's."""

MAIN_INPUT = {
    "classification": "input_features",
    "speech_recognition": "input_features",
    "language_modeling": "input_ids",
}

Batch = dict[str, torch.Tensor]

# Lengths that a batch on a grid can have, and boundaries of packed sequences to a step of the grid.
_LENGTHS, _BOUNDARIES = 16, 64

# Examples of like length are sought among this many global batches: less padding, and still a fresh mix every epoch.
_SORT_AMONG = 16


@dataclass(frozen=True)
class Grid:
    """To what batches are padded, so that they come in few shapes.

    Attributes:
        time: steps of a batch are a multiple of this.
        labels: a transcript's labels are padded to this many.
        boundaries: boundaries of packed sequences are a multiple of this, made up by empty sequences at the end.
    """

    time: int = 1
    labels: int = 0
    boundaries: int = 1


def collate(task: Task, items: list[dict[str, torch.Tensor]], grid: Grid = Grid()) -> Batch:
    """Join examples into one batch, under the names of the models' arguments.

    Args:
        task: decides the shapes.
        items: examples ``{"input": [T, ...], "label": [] or [L]}``; of a language model ``{"input": [T], "label": [T],
            "starts": [n]}`` with the offsets at which its sequences begin.
        grid: further padding.

    Returns:
        classification: ``input_features`` float32 [B, T, C], ``attention_mask`` int64 [B, T] (left out when all lengths
        are equal), ``labels`` int64 [B].
        speech recognition: ``input_features`` float32 [B, T, F], ``attention_mask`` int64 [B, T], ``labels`` int64 [B, L]
        padded with `IGNORE`.
        language modelling: ``input_ids`` and ``labels`` int64 [1, N], ``cu_seqlens`` int64 [n + 1].
    """
    inputs = [item["input"] for item in items]
    lengths = torch.tensor([len(sequence) for sequence in inputs])
    if task == "language_modeling":
        ends = lengths.cumsum(0)
        starts = torch.cat(
            [item["starts"] + end - length for item, end, length in zip(items, ends, lengths, strict=True)]
        )
        empty = -(len(starts) + 1) % grid.boundaries
        return {
            "input_ids": torch.cat(inputs).long()[None],
            "labels": torch.cat([item["label"] for item in items]).long()[None],
            "cu_seqlens": torch.cat([starts, ends[-1:].expand(1 + empty)]),
        }
    longest = int(lengths.max())
    steps = longest + -longest % grid.time
    features = torch.empty(len(inputs), steps, *inputs[0].shape[1:])
    for row, sequence in zip(features, inputs, strict=True):
        row[: len(sequence)], row[len(sequence) :] = sequence, 0
    batch = {"input_features": features}
    if task == "speech_recognition" or lengths.min() < steps:
        batch["attention_mask"] = (torch.arange(steps) < lengths[:, None]).long()
    labels = [item["label"] for item in items]
    if task == "classification":
        batch["labels"] = torch.stack(labels).long()
    else:
        most = max(grid.labels, *map(len, labels))
        batch["labels"] = torch.full((len(labels), most), IGNORE)
        for row, label in zip(batch["labels"], labels, strict=True):
            row[: len(label)] = label
    return batch


class TokenWindows(Dataset):
    """Windows of a token stream, indexed by the position of their first token; a label is the next token.

    Every document ends in the end token, and the end token before a document is what the document is predicted from. So a
    document's sequence begins one place before its first token, and nothing is predicted from another document's tokens.
    """

    def __init__(self, split: PreparedSplit, seq_len: int):
        self.seq_len = seq_len
        self.tokens = split.shards["inputs"]
        self.begins = split.shards["input_offsets"].numpy()[1:-1] - 1

    def __getitem__(self, start: int) -> dict[str, torch.Tensor]:
        window = self.tokens[start : start + self.seq_len + 1].long()
        first, last = np.searchsorted(self.begins, [start + 1, start + self.seq_len])
        begins = torch.from_numpy(self.begins[first:last] - start)
        return {
            "input": window[:-1],
            "label": window[1:],
            "starts": torch.cat([torch.zeros(1, dtype=torch.int64), begins]),
        }


class Batches(Dataset):
    """Batches by the lists of their examples."""

    def __init__(self, dataset: Dataset, task: Task, grid: Grid):
        self.dataset, self.task, self.grid = dataset, task, grid
        self.even = task == "classification" and dataset.lengths.min() == dataset.lengths.max()

    def __getitem__(self, indices: list[int]) -> Batch:
        if not self.even:
            return collate(self.task, [self.dataset[index] for index in indices], self.grid)
        # Many short sequences of one length would take longer one by one than the step that they are for.
        inputs, labels = self.dataset.shards["inputs"], self.dataset.shards["labels"]
        inputs = inputs.view(len(labels), -1, *inputs.shape[1:])
        return {"input_features": inputs[indices].float(), "labels": labels[indices].long()}


class StepBatches:
    """The training batches of one rank, as torchtitan's trainer wants them: ``({"input": ..., ...}, labels)``.

    Each step takes ``local_batch_size * accumulation * world_size`` examples of the epoch's order; this rank gets its share
    of each of the step's ``accumulation`` micro-batches. Every epoch has an order of its own; examples left over at its end
    that fill no step are dropped.

    Args:
        split: the training split.
        task: decides the collation.
        seq_len: length of a language model's windows, in tokens.
        local_batch_size: examples in a micro-batch of a rank.
        accumulation: micro-batches in a step.
        rank, world_size: this reader among all.
        seed: of the order.
        options: further arguments of `torch.utils.data.DataLoader` (``num_workers``, ``pin_memory``, ...).
        few_shapes: pad batches to a grid, for what is made once for each shape.
        feed: what passes the batches on, as `collate` makes them, for example to a device and ahead of their use.

    Raises:
        UserError: if a step takes more examples than the split has.
    """

    def __init__(
        self,
        split: PreparedSplit,
        task: Task,
        *,
        seq_len: int,
        local_batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
        seed: int,
        options: dict[str, Any] | None = None,
        few_shapes: bool = False,
        feed: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    ):
        self.task, self.seed = task, seed
        self.local, self.accumulation, self.rank, self.world_size = local_batch_size, accumulation, rank, world_size
        self.options, self.feed = options or {}, feed
        if task == "language_modeling":
            self.dataset: Dataset = TokenWindows(split, seq_len)
            self.seq_len, self.count = seq_len, (len(self.dataset.tokens) - 1) // seq_len - 1
            self.lengths = None
        else:
            self.dataset, self.count = split, len(split)
            self.lengths = split.lengths if split.lengths.min() < split.lengths.max() else None
        self.step_size = local_batch_size * accumulation * world_size
        if self.count < self.step_size:
            unit = "windows of training.seq_len tokens" if task == "language_modeling" else "examples"
            raise UserError(
                f"{split.path}: the training split has {max(self.count, 0)} {unit}, a step takes {self.step_size}: "
                f"lower training.local_batch_size or training.global_batch_size"
            )
        self.batches = Batches(self.dataset, task, self._grid(split) if few_shapes else Grid())
        self.served = 0

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        batches = DataLoader(
            self.batches,
            sampler=self._indices(self.served // self.accumulation),
            batch_size=None,
            # A generator of its own: otherwise a new iterator draws from the one that dropout draws from.
            generator=torch.Generator(),
            **self.options,
        )
        for batch in self.feed(iter(batches)):
            self.served += 1
            labels = batch.pop("labels")
            batch["input"] = batch.pop(MAIN_INPUT[self.task])
            yield batch, labels

    def _grid(self, split: PreparedSplit) -> Grid:
        # A multiple of 8 suits matrix products.
        time = 1 if self.lengths is None else 8 * -(-int(self.lengths.max()) // (8 * _LENGTHS))
        offsets = split.shards.get("label_offsets")
        return Grid(time, 0 if offsets is None else int(offsets.diff().max()), _BOUNDARIES)

    def _indices(self, step: int) -> Iterator[list[int]]:
        """Yield this rank's micro-batches of examples, from a step on, for ever."""
        steps = self.count // self.step_size
        epoch, step = divmod(step, steps)
        while True:
            order = self.epoch_order(epoch)
            for row in order[step:]:
                for micro in row.reshape(self.accumulation, self.world_size, self.local)[:, self.rank]:
                    yield micro.tolist()
            epoch, step = epoch + 1, 0

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return an epoch's examples, int64 [steps, examples in a step]."""
        rng = np.random.default_rng([self.seed, epoch])
        steps = self.count // self.step_size
        order = rng.permutation(self.count)[: steps * self.step_size]
        if self.lengths is not None:
            block = _SORT_AMONG * self.step_size
            blocks = [order[at : at + block] for at in range(0, len(order), block)]
            order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in blocks])
            return rng.permutation(order.reshape(steps, self.step_size))
        order = order.reshape(steps, self.step_size)
        if self.task == "language_modeling":
            return order * self.seq_len + rng.integers(self.seq_len)
        return order

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.served // self.accumulation}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.served = state["steps"] * self.accumulation
