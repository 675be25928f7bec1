"""Cross entropy and accuracy of a classifier."""

from typing import Any

from torch import Tensor

from lt25.training.losses import count, summed_cross_entropy

METRIC, DIRECTION, COMPILES = "accuracy", "max", True


def select(output: Any) -> Tensor:
    """Return the logits, float [B, classes]."""
    return output.logits


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross entropy: logits [B, classes], labels int64 [B]."""
    return summed_cross_entropy(output, labels)


def metric(output: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return how many of a batch are right, and how many there are."""
    return {"accuracy": ((output.argmax(-1) == labels).sum().double(), count(labels))}
