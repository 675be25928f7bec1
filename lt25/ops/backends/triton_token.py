"""The index of a row's largest element, and a row of a matrix: kernels of one program for a row.

torch.argmax takes several to a row, which wait for each other. These are launched while the kernel before them still runs, as
those of triton_row.py, and let the one after them read its weights early.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends import on_hopper
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_row import launched, meet

_BLOCK = 16384


@triton.jit
def _argmax(x, y, V, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    column = tl.arange(0, BLOCK)
    meet(EARLY)
    row = x + tl.program_id(0).to(tl.int64) * V
    largest, at = tl.full((BLOCK,), -float("inf"), tl.float32), column
    for start in range(0, V, BLOCK):
        value = tl.load(row + start + column, mask=start + column < V, other=-float("inf")).to(tl.float32)
        at = tl.where(value > largest, start + column, at)
        largest = tl.maximum(value, largest)
    first = tl.min(tl.where(largest == tl.max(largest, 0), at, V), 0)
    tl.store(y + tl.program_id(0), first.to(tl.int64))


@triton.jit
def _embedding(index, weight, y, V, D: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    column = tl.arange(0, BLOCK)
    meet(EARLY)
    row = tl.load(index)
    # Nothing is read beyond the weight.
    value = tl.load(weight + row * D + column, mask=(column < D) & (row >= 0) & (row < V), other=float("nan"))
    tl.store(y + column, value, mask=column < D)


@settled
def _choice(rows: int, classes: int, early: bool) -> Launch:
    block = min(triton.next_power_of_2(classes), _BLOCK)
    warps = max(1, min(32, block // 256))
    return Launch(_argmax, (rows,), classes, BLOCK=block, num_warps=warps, **launched(early))


@settled
def _row(rows: int, width: int, early: bool) -> Launch:
    return Launch(_embedding, (1,), rows, D=width, BLOCK=triton.next_power_of_2(width), **launched(early))


def argmax(x: Tensor) -> Tensor:
    """Argument and result of :func:`lt25.ops.argmax`."""
    x, y = x.contiguous(), x.new_empty(len(x), 1, dtype=torch.int64)
    _choice(*x.shape, x.is_cuda and on_hopper())(x, y)
    return y


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Arguments and result of :func:`lt25.ops.embedding`, of a single token."""
    weight = weight.contiguous()
    rows, width = weight.shape
    y = weight.new_empty(*ids.shape, width)
    _row(rows, width, weight.is_cuda and on_hopper())(ids, weight, y)
    return y
