"""Cross entropy of a language model, whose metric is the loss itself: nats per token."""

from typing import Any

from torch import Tensor

from lt25.ops import linear_cross_entropy
from lt25.training.losses import summed_cross_entropy

METRIC, DIRECTION, COMPILES = "loss", "min", True


def select(output: Any) -> Tensor:
    """Return the logits, float [B, T, V]."""
    return output.logits


def of_head(hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float) -> Tensor:
    """Return the summed cross entropy, without logits that lie whole in memory.

    Args:
        hidden: float [B, T, H], what the head reads.
        weight: float [V, H], the head's.
        labels: int64 [B, T], the tokens to predict.
        z_loss: as of :func:`lt25.ops.linear_cross_entropy`.
    """
    return linear_cross_entropy(hidden, weight, labels, z_loss)


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross entropy: of logits [B, T, V] and as many labels, int64; or the loss of `of_head` itself."""
    return output if output.ndim == 0 else summed_cross_entropy(output, labels)


def metric(output: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return nothing: the loss says it all."""
    return {}
