"""Cross entropy of rows of logits on a GPU, and its gradient in their place.

Each program reads a row twice. It comes from memory once: the second time it still stands in the GPU's cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2

# Columns that a program holds at once.
_BLOCK = 4096


@triton.jit
def _rows(logits, labels, losses, z_loss, classes, DIFFERENTIABLE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = logits + row.to(tl.int64) * classes
    column = tl.arange(0, BLOCK)
    label = tl.load(labels + row)
    peak = float("-inf")
    total = 0.0
    for first in range(0, classes, BLOCK):
        score = tl.load(at + first + column, mask=first + column < classes, other=float("-inf")).to(tl.float32) * LOG2_E
        higher = tl.maximum(peak, tl.max(score, 0))
        total = total * tl.exp2(peak - higher) + tl.sum(exp2(score - higher), 0)
        peak = higher
    norm = peak + tl.log2(total)
    nats = norm / LOG2_E
    real = label >= 0
    # A label that is no class makes the loss NaN, and so the step is left out.
    chosen = tl.load(at + label, mask=real & (label < classes), other=float("nan")).to(tl.float32)
    tl.store(losses + row, tl.where(real, nats - chosen + z_loss * nats * nats, 0.0))
    if DIFFERENTIABLE:
        slope = tl.where(real, 1.0 + 2.0 * z_loss * nats, 0.0)
        for first in range(0, classes, BLOCK):
            inside = first + column < classes
            score = tl.load(at + first + column, mask=inside, other=0.0).to(tl.float32) * LOG2_E
            grad = exp2(score - norm) * slope - tl.where(first + column == label, 1.0, 0.0)
            tl.store(at + first + column, grad.to(logits.dtype.element_ty), mask=inside)


@settled
def _launch(count: int, classes: int, z_loss: float, differentiable: bool) -> Launch:
    return Launch(_rows, (count,), z_loss, classes, DIFFERENTIABLE=differentiable, BLOCK=_BLOCK, num_warps=8)


def rows(logits: Tensor, labels: Tensor, z_loss: float, losses: Tensor, differentiable: bool) -> None:
    """Compute the losses of rows and, in place of the logits, their gradients.

    Args:
        logits: [N, V], contiguous; become the gradients if these are wanted.
        labels: int64 [N], negative where there is none.
        z_loss: as of :func:`lt25.ops.linear_cross_entropy`.
        losses: float32 [N], is written.
        differentiable: whether gradients are wanted.
    """
    _launch(*logits.shape, z_loss, differentiable)(logits, labels, losses)
