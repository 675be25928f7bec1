"""A sequence of gates and inputs reduced to one map of the state, on a GPU: what processes that share sequences exchange.

It reads the pre-activations i and f once, four bytes a channel and step, and writes next to nothing. A program takes some
channels of a segment of time and goes through it in tiles, as the scan does. The maps of the segments are composed afterwards.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_scan import _across_warps, _gates, _last_warp, _processors

# Steps of a warp in a tile, warps of a tile, and channels of a program.
_ROWS, _WARPS, _CHANNELS = 8, 4, 64
# Steps of a segment at least, and programs for each multiprocessor.
_SEGMENT, _SHARE = 512, 8


@triton.jit(do_not_specialize=("T", "segments", "length"))
def _reduce(
    i, f, lower_bound, valid, inner, product, end, T, segments, length,
    D: tl.constexpr, FORWARD: tl.constexpr, STRIDE: tl.constexpr, R: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    MASKED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    FORWARD_BLOCKS: tl.constexpr = triton.cdiv(FORWARD, C)
    BLOCKS: tl.constexpr = FORWARD_BLOCKS + triton.cdiv(D - FORWARD, C)
    item, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    sequence, segment = item // segments, item % segments
    reverse = block >= FORWARD_BLOCKS
    channel = tl.where(reverse, FORWARD + (block - FORWARD_BLOCKS) * C, block * C) + tl.arange(0, C)
    there = channel < tl.where(reverse, D, FORWARD)
    begin = segment * length
    stop = tl.minimum(begin + length, T)
    if PACKED:
        begin = tl.where(reverse, begin, tl.maximum(begin, tl.load(inner).to(tl.int32)))
        stop = tl.where(reverse, tl.minimum(stop, tl.load(inner + 1).to(tl.int32)), stop)
    origin = sequence.to(tl.int64) * T
    open_gate = 1.0 - tl.load(lower_bound + channel, mask=there, other=0.0)[None, :]
    kept = tl.full([C], 1.0, tl.float32)
    state = tl.zeros([C], tl.float32)
    for n in range(tl.cdiv(stop - begin, R * W)):
        f_run = tl.full([W, C], 1.0, tl.float32)
        h_run = tl.zeros([W, C], tl.float32)
        for r in tl.static_range(R):
            step = n * (R * W) + tl.arange(0, W) * R + r
            row = origin + tl.where(reverse, stop - 1 - step, begin + step)
            counts = step < stop - begin
            if MASKED:
                counts = counts & (tl.load(valid + row, mask=counts, other=0) != 0)
            place = row[:, None] * STRIDE + channel[None, :]
            mask = counts[:, None] & there[None, :]
            # A gate of infinity keeps the state.
            gate = tl.load(f + place, mask=mask, other=float("inf"))
            keep, x = _gates(tl.load(i + place, mask=mask, other=0.0), gate, open_gate, True)
            h_run = keep * h_run + x
            f_run = f_run * keep
        f_to, h_to, _, _ = _across_warps(f_run, h_run, W, C)
        factor = _last_warp(f_to, W)
        state = factor * state + _last_warp(h_to, W)
        kept *= factor
    place = item.to(tl.int64) * D + channel
    tl.store(product + place, kept, mask=there)
    tl.store(end + place, state, mask=there)


@settled
def _launch(
    batch: int, time: int, width: int, stride: int, masked: bool, packed: bool, bidirectional: bool
) -> tuple[int, Launch]:
    """The number of segments, and the launch of a program for some channels of each, of ifg [batch, time, width]."""
    channels = width // 3
    forward = channels // 2 if bidirectional else channels
    blocks = triton.cdiv(forward, _CHANNELS) + triton.cdiv(channels - forward, _CHANNELS)
    segments = max(1, min(_SHARE * _processors() // (batch * blocks), time // _SEGMENT))
    return segments, Launch(
        _reduce, (batch * segments * blocks,), time, segments, -(-time // segments),
        D=channels, FORWARD=forward, STRIDE=stride, R=_ROWS, W=_WARPS, C=_CHANNELS,
        MASKED=masked, PACKED=packed, num_warps=_WARPS,
    )  # fmt: skip


def summarise(
    ifg: Tensor, lower_bound: Tensor | None, mask: Tensor | None, inner: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """Reduce the steps of each sequence to one map of the state, state -> product * state + end.

    Args:
        ifg: [B, T, 3 D].
        lower_bound: float32 [D] or None.
        mask: bool [B, T] or None.
        inner: int64 [2], the step to begin with, and for channels that are reversed the one to end before; None for all steps.
        bidirectional: whether the second half of the channels is reversed.

    Returns:
        product and end, float32 [B, D].
    """
    ifg, batch = ifg.contiguous(), len(ifg)
    segments, launch = _launch(*ifg.shape, ifg.stride(1), mask is not None, inner is not None, bidirectional)
    i, f, _ = ifg.chunk(3, -1)
    channels = i.shape[2]
    if lower_bound is None:
        lower_bound = torch.zeros(channels, device=ifg.device)
    product, end = torch.empty(2, batch, segments, channels, device=ifg.device)
    mask, inner = ifg if mask is None else mask.contiguous(), ifg if inner is None else inner
    launch(i, f, lower_bound.contiguous(), mask, inner, product, end)
    if bidirectional:
        # In the order in which time goes through them.
        product, end = (
            torch.cat((each[..., : channels // 2], each[..., channels // 2 :].flip(1)), -1) for each in (product, end)
        )
    after = product.flip(1).cumprod(1).flip(1)
    later = torch.cat((after[:, 1:], torch.ones_like(after[:, :1])), 1)
    return after[:, 0], (end * later).sum(1)
