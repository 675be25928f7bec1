"""Squared error, and the mean absolute error that validation reports."""

from typing import Any

from torch import Tensor

METRIC, DIRECTION, COMPILES = "absolute_error", "min", True


def select(output: Any) -> Tensor:
    """Return the predicted numbers, float [B]."""
    return output.logits[:, 0]


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed squared error: predictions and labels [B]."""
    return (output.float() - labels).square().sum()


def metric(output: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the summed absolute error of a batch, and how many numbers there are."""
    errors = (output.float() - labels).abs()
    return {"absolute_error": (errors.sum().double(), errors.new_tensor(len(errors)).double())}
