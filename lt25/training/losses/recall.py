"""Cross entropy of the symbols that are asked for, and how many of them are right."""

from typing import Any

from torch import Tensor

from lt25.training.losses import IGNORE, count, summed_cross_entropy

METRIC, DIRECTION, COMPILES = "accuracy", "max", True


def select(output: Any) -> Tensor:
    """Return the logits, float [B, T, V]."""
    return output.logits


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross entropy: logits [B, T, V], labels int64 [B, T]."""
    return summed_cross_entropy(output, labels)


def metric(output: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return how many symbols are right, and how many were asked for."""
    right = (output.argmax(-1) == labels) & (labels != IGNORE)
    return {"accuracy": (right.sum().double(), count(labels))}
