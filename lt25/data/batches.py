"""Examples on their way to a model: as tensors, transformed, and joined to batches that a task's ``collate`` pads.

Which transforms there are is said by ``transforms`` in a task's data module. What a transform draws at random comes from a
generator that depends on the run's seed and on the place of the example or batch in the run, and on nothing else: a run that
is resumed sees what an undisturbed one sees, however many processes load.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that has none; the same number as torch's and torchtitan's."""

Item = dict[str, Tensor]
"""One example as tensors: ``input`` [T, ...], and ``label`` where it has one."""

Batch = dict[str, Tensor]
"""Tensors under the names of a model's arguments; ``labels`` among them."""


def in_windows(packed: Tensor, length: int) -> Tensor:
    """Return windows of one length that are packed, [1, N], as a batch, [B, length]; a single one may be shorter, [1, N]."""
    return packed.view(-1, min(length, packed.shape[1]))


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


NO_GRID = Grid()
"""No further padding."""


def pad(sequences: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
    """Join sequences of features.

    Args:
        sequences: each [T, ...], of any dtype of floating point.
        grid: its ``time`` decides to how many steps they are padded.

    Returns:
        Features float32 [B, T, ...], zero where there is padding, and a mask int64 [B, T], 1 where there is none.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    steps = longest + -longest % grid.time
    features = torch.empty(len(sequences), steps, *sequences[0].shape[1:])
    for row, sequence in zip(features, sequences, strict=True):
        row[: len(sequence)], row[len(sequence) :] = sequence, 0
    # By numpy, in this thread alone: torch would wake all of its own for so small an array, and wait for each.
    return features, torch.from_numpy((np.arange(steps) < lengths[:, None]).astype(np.int64))


def longest_first(lengths: np.ndarray, batch_size: int, batch_steps: int = 0) -> list[np.ndarray]:
    """Cut examples into batches of like length, so that little time goes into padding.

    The longest come first: a batch that does not fit into memory then fails at once and not after an hour. All batches are as
    large as their longest example lets them be, but for the last.

    Args:
        lengths: int [n].
        batch_size: the most examples of a batch.
        batch_steps: the most steps of a batch of several examples, padding counted; 0: any number.

    Returns:
        Numbers of examples, int64 arrays that together hold each of 0..n-1 once. Examples of one length keep their order.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        fitting = max(batch_steps // max(int(lengths[order[start]]), 1), 1) if batch_steps else batch_size
        batches.append(order[start : start + min(batch_size, fitting)])
        start += len(batches[-1])
    return batches


ItemTransform = Callable[[Item, torch.Generator], Item]
BatchTransform = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True)
class Transforms:
    """What is done, in order. A transform returns a new dictionary, and changes no tensor that it is given.

    Attributes:
        item: of one example, on the CPU, where it is loaded. The generator is a CPU's.
        batch: of a batch as the task's ``collate`` made it, on the device of the model, whose generator it gets.
        length: how many steps the example of a number has after ``item``, where that is drawn: it draws what the first of
            ``item`` draw, from a generator like theirs.
    """

    item: tuple[ItemTransform, ...] = ()
    batch: tuple[BatchTransform, ...] = ()
    length: Callable[[int, torch.Generator], int] | None = None

    def of_item(self, item: Item, seed: int = 0, epoch: int = 0, index: int = 0) -> Item:
        """Transform an example.

        Args:
            item: the example as its source gives it.
            seed: of the run.
            epoch: in which it is seen.
            index: its number in the source.
        """
        if self.item:
            generator = _of_place(seed, epoch, index)
            for transform in self.item:
                item = transform(item, generator)
        return item

    def lengths(self, indices: Iterable[int], seed: int, epoch: int) -> np.ndarray:
        """Return how many steps `of_item` gives examples, int64 [n], before any is read; only where ``length`` is known.

        Args:
            indices: their numbers in the source.
            seed: of the run.
            epoch: in which they are seen.
        """
        assert self.length is not None
        return np.array([self.length(index, _of_place(seed, epoch, index)) for index in indices], np.int64)

    def of_batch(self, batch: Batch, seed: int, step: int, part: int) -> Batch:
        """Transform a batch.

        Args:
            batch: its tensors, on one device.
            seed: of the run.
            step: in which it is seen, from 0.
            part: which of the step's batches it is, over all micro-batches and ranks.
        """
        if self.batch:
            generator = seeded(batch["labels"].device, seed, step, part)
            for transform in self.batch:
                batch = transform(batch, generator)
        return batch


def _of_place(seed: int, epoch: int, index: int) -> torch.Generator:
    """Return what an example's transforms draw from in an epoch."""
    return seeded(torch.device("cpu"), seed, epoch, index)


def seeded(device: torch.device, *place: int) -> torch.Generator:
    """Return a generator on a device that depends on some whole numbers, none negative, and nothing else."""
    (seed,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed >> np.uint64(1)))
