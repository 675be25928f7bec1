"""The short convolutions on a GPU: one pass over the data forward, and one backward.

Neighboring steps are read again for each lag, from the cache. Each program sums the gradient of the weight over the rows that it
processes; a second kernel sums over programs, always in the same order. The kernels take the weight as [K, 2 D], so that
neighboring channels are neighbors in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_rows import sum_parts

_ROWS, _WARPS = 32, 4
# With so many lags or more a program takes more rows, so that it reads the weight and sums over rows less often.
_MANY, _MANY_ROWS, _MANY_WARPS = 9, 128, 8
_CHANNELS = 64
# Programs of the backward pass along the rows; each sums its own gradient of the weight.
_PROGRAMS = 256


@triton.jit
def _sequence(row, cu_seqlens, sequences, T, PACKED: tl.constexpr, HALVINGS: tl.constexpr):
    """First row and end of the sequence that each row belongs to."""
    if PACKED:
        # Bisection for the last n with cu_seqlens[n] <= row, which skips empty sequences.
        low = tl.zeros_like(row)
        high = low + sequences
        for _ in tl.static_range(HALVINGS):
            middle = (low + high) // 2
            right = tl.load(cu_seqlens + middle).to(row.dtype) <= row
            low = tl.where(right, middle, low)
            high = tl.where(right, high, middle)
        return tl.load(cu_seqlens + low).to(row.dtype), tl.load(cu_seqlens + low + 1).to(row.dtype)
    start = row // T * T
    return start, start + T


@triton.jit
def _looks_ahead(channel, D: tl.constexpr, BOTH: tl.constexpr):
    """1 for a channel that reads later steps, -1 for one that reads earlier steps."""
    return tl.where(BOTH & (channel % D >= D // 2), 1, -1)


@triton.jit
def _signs(channel, D: tl.constexpr, BOTH: tl.constexpr, CHANNELS: tl.constexpr, ONE_WAY: tl.constexpr):
    # Where all channels of a program read the same way, it is one number, so that neighbouring channels are loaded together.
    if ONE_WAY:
        return _looks_ahead(tl.program_id(1) * CHANNELS, D, BOTH)
    else:
        return _looks_ahead(channel, D, BOTH)[None, :]


@triton.jit
def _forward(
    x, weight, mask, cu_seqlens, y, rows, sequences, T, D: tl.constexpr, K: tl.constexpr, BOTH: tl.constexpr,
    MASKED: tl.constexpr, PACKED: tl.constexpr, HALVINGS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ONE_WAY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    start, end = _sequence(tl.minimum(row, rows - 1), cu_seqlens, sequences, T, PACKED, HALVINGS)
    end = tl.where(row < rows, end, start)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    convolved = channel < 2 * D
    sign = _signs(channel, D, BOTH, CHANNELS, ONE_WAY)
    value = tl.zeros([ROWS, CHANNELS], tl.float32)
    if tl.program_id(1) * CHANNELS < 2 * D:
        for lag in tl.static_range(K):
            source = row[:, None] + sign * lag
            inside = (source >= start[:, None]) & (source < end[:, None])
            if MASKED:
                inside &= tl.load(mask + source, mask=inside, other=0) != 0
            inside = inside & convolved[None, :]
            tap = tl.load(weight + (K - 1 - lag) * (2 * D) + channel, mask=convolved, other=0.0).to(tl.float32)
            value += tap[None, :] * tl.load(x + source * (3 * D) + channel[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
    at = row[:, None] * (3 * D) + channel[None, :]
    here = (row < rows)[:, None] & (channel < 3 * D)[None, :]
    passed = tl.load(x + at, mask=here & (channel >= 2 * D)[None, :], other=0.0).to(tl.float32)
    tl.store(y + at, (value + passed).to(y.dtype.element_ty), mask=here)


@triton.jit
def _backward(
    grad_y, x, weight, mask, cu_seqlens, grad_x, grad_weight, rows, sequences, T,
    D: tl.constexpr, K: tl.constexpr, BOTH: tl.constexpr, MASKED: tl.constexpr, PACKED: tl.constexpr,
    HALVINGS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ONE_WAY: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    convolved = channel < 2 * D
    sign = _signs(channel, D, BOTH, CHANNELS, ONE_WAY)
    tap_index = tl.arange(0, TAPS)
    grad_taps = tl.zeros([TAPS, CHANNELS], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        start, end = _sequence(tl.minimum(row, rows - 1), cu_seqlens, sequences, T, PACKED, HALVINGS)
        counts = row < rows
        if MASKED:
            counts &= tl.load(mask + row, mask=counts, other=0) != 0
        end = tl.where(counts, end, start)
        at = row[:, None] * (3 * D) + channel[None, :]
        here = (row < rows)[:, None] & (channel < 3 * D)[None, :]
        value = tl.load(x + at, mask=here & convolved[None, :], other=0.0).to(tl.float32)
        grad = tl.load(grad_y + at, mask=here & (channel >= 2 * D)[None, :], other=0.0).to(tl.float32)
        if tl.program_id(1) * CHANNELS < 2 * D:
            for lag in tl.static_range(K):
                target = row[:, None] - sign * lag
                inside = (target >= start[:, None]) & (target < end[:, None]) & convolved[None, :]
                pulled = tl.load(grad_y + target * (3 * D) + channel[None, :], mask=inside, other=0.0).to(tl.float32)
                tap = tl.load(weight + (K - 1 - lag) * (2 * D) + channel, mask=convolved, other=0.0).to(tl.float32)
                grad += tap[None, :] * pulled
                grad_taps += tl.where(tap_index == K - 1 - lag, 1.0, 0.0)[:, None] * tl.sum(value * pulled, 0)[None, :]
        tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=here)
    at = (tl.program_id(0) * (2 * D) + channel)[None, :] * K + tap_index[:, None]
    tl.store(grad_weight + at, grad_taps, mask=convolved[None, :] & (tap_index < K)[:, None])


@settled
def _launch(
    backward: bool,
    batch: int,
    time: int,
    width: int,
    size: int,
    sequences: int | None,
    masked: bool,
    bidirectional: bool,
) -> Launch:
    """Of ifg [batch, time, width] and a weight [..., size]; sequences is None without packing."""
    rows, half, many = batch * time, width // 6, size >= _MANY
    # The most channels of a program that all read the same way, if there are enough of these.
    channels = next((some for some in (_CHANNELS, _CHANNELS // 2) if half % some == 0), _CHANNELS)
    constants = {
        "D": width // 3,
        "K": size,
        "BOTH": bidirectional,
        "MASKED": masked,
        "PACKED": sequences is not None,
        # Halvings from all sequences to one.
        "HALVINGS": max(1, sequences or 0).bit_length(),
        "ROWS": _MANY_ROWS if many else _ROWS,
        "num_warps": _MANY_WARPS if many else _WARPS,
        "CHANNELS": channels,
        "ONE_WAY": not bidirectional or half % channels == 0,
    }
    programs, numbers = triton.cdiv(rows, constants["ROWS"]), (rows, sequences or 0, time)
    if not backward:
        return Launch(_forward, (programs, triton.cdiv(width, channels)), *numbers, **constants)
    grid, taps = (min(_PROGRAMS, programs), triton.cdiv(width, channels)), triton.next_power_of_2(size)
    return Launch(_backward, grid, *numbers, TAPS=taps, **constants)


def _settle(
    backward: bool, x: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool
) -> tuple[Launch, tuple[Tensor, ...]]:
    """The launch, and the weight, the mask and the boundaries as kernels take them."""
    sequences = None if cu_seqlens is None else len(cu_seqlens) - 1
    launch = _launch(backward, *x.shape, weight.shape[1], sequences, mask is not None, bidirectional)
    mask, cu_seqlens = (x if each is None else each.contiguous() for each in (mask, cu_seqlens))
    return launch, (weight.t().contiguous(), mask, cu_seqlens)


def forward(ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool) -> Tensor:
    """i and f convolved, and g, [B, T, 3 D] in ifg's dtype."""
    ifg = ifg.contiguous()
    y = torch.empty_like(ifg)
    launch, others = _settle(False, ifg, weight, mask, cu_seqlens, bidirectional)
    launch(ifg, *others, y)
    return y


def backward(
    grad_y: Tensor,
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ifg and weight, in their dtypes."""
    grad_y, ifg = grad_y.contiguous(), ifg.contiguous()
    grad = torch.empty_like(ifg)
    launch, others = _settle(True, ifg, weight, mask, cu_seqlens, bidirectional)
    grad_weight = torch.empty(launch.grid[0], weight.numel(), dtype=torch.float32, device=ifg.device)
    launch(grad_y, ifg, *others, grad, grad_weight)
    return grad, sum_parts(grad_weight).view(weight.shape).to(weight.dtype)
