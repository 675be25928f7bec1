"""What the tasks' collations share: the shapes of batches, padding, and the label of what has none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that has none; the same number as torch's and torchtitan's."""

Item = dict[str, Tensor]
"""One example as tensors: ``input`` [T, ...], and ``label`` where it has one."""

Batch = dict[str, Tensor]
"""Tensors under the names of a model's arguments; ``labels`` among them."""


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
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    steps = longest + -longest % grid.time
    features = torch.empty(len(sequences), steps, *sequences[0].shape[1:])
    for row, sequence in zip(features, sequences, strict=True):
        row[: len(sequence)], row[len(sequence) :] = sequence, 0
    return features, (torch.arange(steps) < lengths[:, None]).long()
