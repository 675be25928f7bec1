"""The index of the largest element of a row: one program to a row, where torch.argmax takes several that wait for each other."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lt25.ops.backends import on_hopper

_BLOCK = 16384


@triton.jit
def _argmax(x, y, V, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    column = tl.arange(0, BLOCK)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = x + tl.program_id(0).to(tl.int64) * V
    largest, at = tl.full((BLOCK,), -float("inf"), tl.float32), column
    for start in range(0, V, BLOCK):
        value = tl.load(row + start + column, mask=start + column < V, other=-float("inf")).to(tl.float32)
        at = tl.where(value > largest, start + column, at)
        largest = tl.maximum(value, largest)
    first = tl.min(tl.where(largest == tl.max(largest, 0), at, V), 0)
    tl.store(y + tl.program_id(0), first.to(tl.int64))


def forward(x: Tensor) -> Tensor:
    """Argument and result of :func:`lt25.ops.argmax`."""
    x, y = x.contiguous(), x.new_empty(len(x), 1, dtype=torch.int64)
    block = min(triton.next_power_of_2(x.shape[1]), _BLOCK)
    # It is launched while the kernel before it still runs; the interpreter knows no such launch.
    early = {"EARLY": True, "launch_pdl": True} if x.is_cuda and on_hopper() else {"EARLY": False}
    _argmax[(len(x),)](x, y, x.shape[1], BLOCK=block, num_warps=max(1, min(32, block // 256)), **early)
    return y
