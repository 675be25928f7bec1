"""Cross entropy of a language model, whose metric is the loss itself: nats per token."""

from typing import Any

from torch import Tensor

from lt25.training.losses import summed_cross_entropy

METRIC, DIRECTION, COMPILES = "loss", "min", True


def select(output: Any) -> Tensor:
    """Return the logits, float [1, N, V]."""
    return output.logits


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross entropy: logits [1, N, V], labels int64 [1, N], the tokens to predict."""
    return summed_cross_entropy(output, labels)


def metric(output: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return nothing: the loss says it all."""
    return {}
