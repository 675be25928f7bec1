"""Cross entropy and accuracy of a classifier."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lt25.training.losses import count, summed_cross_entropy

METRIC, DIRECTION, COMPILES = "accuracy", "max", True
OPTIONS, TARGETS = ("label_smoothing",), ("partners", "shares")


def select(output: Any) -> Tensor:
    """Return the logits, float [B, classes]."""
    return output.logits


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross entropy: logits [B, classes], labels int64 [B]; or what `of_training` made, as it is."""
    return summed_cross_entropy(output, labels) if output.ndim else output


def of_training(
    run: Callable[..., Any],
    labels: Tensor,
    label_smoothing: float = 0.0,
    partners: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Return the summed cross entropy with targets that are softer than the labels.

    Args:
        run: computes the model, whose logits are float [B, classes].
        labels: int64 [B].
        label_smoothing: part of the probability that is spread over all classes.
        partners: int64 [B], the class of what was mixed into each example, if anything was.
        shares: float [B], in 0..1, its part in the example.
    """
    logits = run().logits.float()
    if partners is None or shares is None:
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    own, other = (
        F.cross_entropy(logits, of, reduction="none", label_smoothing=label_smoothing) for of in (labels, partners)
    )
    return own.lerp(other, shares).sum()


def metric(output: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return how many of a batch are right, and how many there are."""
    return {"accuracy": ((output.argmax(-1) == labels).sum().double(), count(labels))}
