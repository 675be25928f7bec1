"""One step of gates, recurrence and gated norm on a GPU: one launch, a program for each sequence."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2, reciprocal, sigmoid


@triton.jit
def _step(
    ifg, weight, state, lower_bound, y, new_state, eps, D: tl.constexpr, BLOCK: tl.constexpr, BOUNDED: tl.constexpr
):
    n = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    mask = channel < D
    ifg += n * (3 * D) + channel
    i = tl.load(ifg, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(ifg + D, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(ifg + 2 * D, mask=mask, other=0.0).to(tl.float32)
    take = reciprocal(1.0 + exp2(f * LOG2_E))
    if BOUNDED:
        take *= 1.0 - tl.load(lower_bound + channel, mask=mask, other=0.0)
    h = (1.0 - take) * tl.load(state + n * D + channel, mask=mask, other=0.0) + i * sigmoid(i) * take
    tl.store(new_state + n * D + channel, h, mask=mask)
    scale = tl.rsqrt(tl.sum(h * h, 0) / D + eps)
    out = h * scale * tl.load(weight + channel, mask=mask, other=0.0).to(tl.float32) * g * sigmoid(g)
    tl.store(y + n * D + channel, out.to(y.dtype.element_ty), mask=mask)


@settled
def _launch(batch: int, channels: int, eps: float, bounded: bool) -> Launch:
    block, warps = triton.next_power_of_2(channels), 4 if channels <= 1024 else 8
    return Launch(_step, (batch,), eps, D=channels, BLOCK=block, BOUNDED=bounded, num_warps=warps)


def forward(
    ifg: Tensor, weight: Tensor, eps: float, state: Tensor, lower_bound: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y [B, D] in ifg's dtype and the new state [B, D] in float32."""
    ifg, weight, state = ifg.contiguous(), weight.contiguous(), state.contiguous()
    batch, channels = state.shape
    y = torch.empty(batch, channels, dtype=ifg.dtype, device=ifg.device)
    new_state = torch.empty_like(state)
    bound = weight if lower_bound is None else lower_bound.float().contiguous()
    _launch(batch, channels, eps, lower_bound is not None)(ifg, weight, state, bound, y, new_state)
    return y, new_state
