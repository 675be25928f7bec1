"""The scan on a GPU: one pass over the data forward, and one backward.

A program takes 64 (or 32) neighboring channels of one sequence and goes through time in tiles. In a tile, each of its W warps
holds R consecutive steps in registers. The warp reduces them to one affine map of the state, state -> F * state + H. A scan over
the W maps gives every warp the state that enters it, from which it computes its R steps, still in registers. Meanwhile the next
tile is loaded from memory.

Where channels and sequences are too few to fill the GPU, time is split into segments that are scanned in parallel, each from a
state of zero. A second launch of the kernel, the repair, corrects them. From the maps of the earlier segments it computes the
state that really enters its own, and scans again until this state and the one that started from zero are equal, bit for bit; all
later results are already right. With gates that forget, that takes a few tiles. With gates that keep everything through a whole
segment, it costs a second pass, but the result is still right.

The same kernels serve `hgrn_scan`, which passes x and log f, and `hgrn_mix`, which passes the pre-activations i and f (GATED):
then the gates are computed in registers and never stored.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends import count_sequences
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2, reciprocal, sigmoid
from lt25.ops.backends.triton_rows import sum_parts

# Arguments on whose values Triton does not specialize, so that batches of other lengths need no new compilation.
_NUMBERS = ("T", "sequences", "items", "segments", "tiles")


@triton.jit
def _then_exclusive(f_a, h_a, f_ax, h_ax, f_b, h_b, f_bx, h_bx):
    """Compose two affine maps, a first; the same for their exclusive versions (x), which leave out the last element."""
    return f_b * f_a, f_b * h_a + h_b, f_bx * f_a, f_bx * h_a + h_bx


@triton.jit
def _load(
    pointer,
    row,
    length,
    channel_mask,
    whole,
    other: tl.constexpr,
    step: tl.constexpr,
    EVEN: tl.constexpr,
    R: tl.constexpr,
    counts=None,
):
    """R tensors [W, C]: tensor r holds step row + r of every warp, and `other` from step `length` on.

    `whole` says that no step of the tile is beyond the end, EVEN that no channel is. `counts` comes from `_counting`; steps that
    do not count are `other` too.
    """
    if counts is not None:
        rows = ()
        for r in tl.static_range(R):
            rows = rows + (tl.load(pointer + r * step, mask=counts[r] & channel_mask, other=other),)  # noqa: RUF005
    elif whole:
        rows = ()
        for r in tl.static_range(R):
            if EVEN:
                rows = rows + (tl.load(pointer + r * step),)  # noqa: RUF005
            else:
                rows = rows + (tl.load(pointer + r * step, mask=channel_mask, other=other),)  # noqa: RUF005
    else:
        rows = ()
        for r in tl.static_range(R):
            mask = ((row + r) < length)[:, None] & channel_mask
            rows = rows + (tl.load(pointer + r * step, mask=mask, other=other),)  # noqa: RUF005
    return rows


@triton.jit
def _store(pointer, rows, row, length, channel_mask, whole, step: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr):
    """Store R tensors [W, C] in the layout of `_load`."""
    if whole:
        for r in tl.static_range(R):
            if EVEN:
                tl.store(pointer + r * step, rows[r])
            else:
                tl.store(pointer + r * step, rows[r], mask=channel_mask)
    else:
        for r in tl.static_range(R):
            mask = ((row + r) < length)[:, None] & channel_mask
            tl.store(pointer + r * step, rows[r], mask=mask)


@triton.jit
def _counting(valid, row, length, MASKED: tl.constexpr, SIGN: tl.constexpr, R: tl.constexpr):
    """Whether each of the R steps of every warp counts, R tensors bool [W, 1]; None without a mask."""
    counts = None
    if MASKED:
        counts = ()
        for r in tl.static_range(R):
            here = tl.load(valid + (row + r) * SIGN, mask=(row + r) < length, other=0) != 0
            counts = counts + (here[:, None],)  # noqa: RUF005
    return counts


@triton.jit
def _gates(a, b, open_gate, GATED: tl.constexpr):
    """f and x of a step, from x and log f or from the pre-activations i and f of the gates."""
    if GATED:
        # One division for both sigmoids. The exponents are clamped at 60, where a sigmoid of 2**-60 is negligible.
        i = a.to(tl.float32)
        shut = 1.0 + exp2(tl.minimum(b.to(tl.float32) * LOG2_E, 60.0, propagate_nan=tl.PropagateNan.ALL))
        closed = 1.0 + exp2(tl.minimum(i * -LOG2_E, 60.0, propagate_nan=tl.PropagateNan.ALL))
        both = open_gate * reciprocal(shut * closed)
        f = 1.0 - both * closed
        x = i * both
    else:
        f = exp2(b.to(tl.float32) * LOG2_E)
        x = a.to(tl.float32)
    return f, x


@triton.jit
def _place(item, block, cu_seqlens, segment_sequence, segment_first, T, sequences, segments,
           D: tl.constexpr, FORWARD: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """A program's sequence, its first row and length, segment, the item of its first segment, channels and their mask."""
    sequence = item
    segment = 0
    first_item = item
    if SPLIT:
        if PACKED:
            sequence = tl.load(segment_sequence + item).to(tl.int32)
            first_item = tl.load(segment_first + tl.minimum(sequence, sequences - 1)).to(tl.int32)
        else:
            sequence = item // segments
            first_item = sequence * segments
        segment = item - first_item
    if PACKED:
        last = tl.minimum(sequence, sequences - 1)
        start = tl.load(cu_seqlens + last).to(tl.int64)
        length = (tl.load(cu_seqlens + last + 1) - start).to(tl.int32)
    else:
        start = sequence.to(tl.int64) * T
        length = T
    # Blocks of the channels that are scanned forward come first, then those scanned backward.
    FORWARD_BLOCKS: tl.constexpr = triton.cdiv(FORWARD, C)
    first = block * C
    end = D
    if FORWARD_BLOCKS > 0 and FORWARD < D:
        first = tl.where(block < FORWARD_BLOCKS, first, first + (FORWARD - FORWARD_BLOCKS * C))
        end = tl.where(block < FORWARD_BLOCKS, FORWARD, D)
    channel = first + tl.arange(0, C)
    return sequence, start, length, segment, first_item, channel, channel < end


@triton.jit
def _across_warps(f_run, h_run, W: tl.constexpr, C: tl.constexpr):
    """Scan the maps [W, C] over warps: for each, the maps of all warps up to it, including it and excluding it."""
    ones = tl.full([W, C], 1.0, tl.float32)
    nothing = tl.zeros([W, C], tl.float32)
    return tl.associative_scan((f_run, h_run, ones, nothing), 0, _then_exclusive)


@triton.jit
def _last_warp(values, W: tl.constexpr):
    """Row W - 1 of [W, C], as [C]."""
    return tl.sum(tl.where((tl.arange(0, W) == W - 1)[:, None], values, 0.0), 0)


@triton.jit
def _entering(maps, first_item, segment, channel, channel_mask, items, C: tl.constexpr, D: tl.constexpr):
    """The state [C] that enters a segment, from the maps of the segments before it; `maps` is float32 [2, items, D]."""
    f = maps + first_item.to(tl.int64) * D + channel
    h = f + items.to(tl.int64) * D
    state = tl.zeros([C], tl.float32)
    for _ in range(segment):
        state = tl.load(f, mask=channel_mask, other=0.0) * state + tl.load(h, mask=channel_mask, other=0.0)
        f += D
        h += D
    return state


@triton.jit
def _forward_walk(
    a, b, h, lower_bound, valid, initial, final, maps,
    item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
    D: tl.constexpr, STRIDE: tl.constexpr, R: tl.constexpr, W: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr,
    MASKED: tl.constexpr, STATE: tl.constexpr, SPLIT: tl.constexpr, REPAIR: tl.constexpr,
    EVEN: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = R * W
    # Steps beyond the end must keep the state: log f = 0, or a pre-activation f of infinity.
    BEYOND: tl.constexpr = float("inf") if GATED else 0.0
    first = segment * tiles
    last = tl.maximum(tl.cdiv(length, TILE), 1)
    end = tl.minimum(first + tiles, last)
    origin = start
    if SIGN < 0:
        origin = start + length - 1
    row = first * TILE + tl.arange(0, W) * R
    wide = channel_mask[None, :]
    step = row[:, None].to(tl.int64) * SIGN
    a += (origin + step) * STRIDE + channel[None, :]
    b += (origin + step) * STRIDE + channel[None, :]
    h += (origin + step) * D + channel[None, :]
    valid += origin
    open_gate = tl.full([1, C], 1.0, tl.float32)
    if GATED:
        open_gate = 1.0 - tl.load(lower_bound + channel, mask=channel_mask, other=0.0)[None, :]

    carry = tl.zeros([C], tl.float32)
    if STATE:  # noqa: SIM102  one is known when the kernel is compiled
        if segment == 0:
            carry = tl.load(initial + sequence * D + channel, mask=channel_mask, other=0.0).to(tl.float32)
    # The map of the first segment already includes its initial state.
    product = tl.zeros([C], tl.float32) + tl.where(segment == 0, 0.0, 1.0)
    if REPAIR:
        carry = _entering(maps, first_item, segment, channel, channel_mask, items, C, D)
        before = tl.zeros([C], tl.float32)
        differs = first < end

    whole = (first + 1) * TILE <= length
    if not REPAIR:
        counts = _counting(valid, row, length, MASKED, SIGN, R)
        a_rows = _load(a, row, length, wide, whole, 0.0, SIGN * STRIDE, EVEN, R, counts)
        b_rows = _load(b, row, length, wide, whole, BEYOND, SIGN * STRIDE, EVEN, R, counts)
    for n in range(first, end):
        if REPAIR:
            whole = (n + 1) * TILE <= length
            if differs:
                counts = _counting(valid, row, length, MASKED, SIGN, R)
                a_rows = _load(a, row, length, wide, whole, 0.0, SIGN * STRIDE, EVEN, R, counts)
                b_rows = _load(b, row, length, wide, whole, BEYOND, SIGN * STRIDE, EVEN, R, counts)
                f_rows, x_rows, f_run, h_run = _summarise(a_rows, b_rows, open_gate, R, W, C, GATED)
                f_to, h_to, f_before, h_before = _across_warps(f_run, h_run, W, C)
                out = _replay(f_before * carry[None, :] + h_before, f_rows, x_rows, h.dtype.element_ty, R)
                _store(h, out, row, length, wide, whole, SIGN * D, EVEN, R)
                carry = _last_warp(f_to * carry[None, :] + h_to, W)
                before = _last_warp(f_to * before[None, :] + h_to, W)
                differs = tl.max((carry != before).to(tl.int32), 0) != 0
            a += SIGN * TILE * STRIDE
            b += SIGN * TILE * STRIDE
        else:
            # Loaded early, so that the loads that depend on it do not wait.
            ahead = _counting(valid, row + TILE, length, MASKED, SIGN, R)
            f_rows, x_rows, f_run, h_run = _summarise(a_rows, b_rows, open_gate, R, W, C, GATED)
            whole_now = whole
            whole = (n + 2) * TILE <= length
            a += SIGN * TILE * STRIDE
            b += SIGN * TILE * STRIDE
            a_rows = _load(a, row + TILE, length, wide, whole, 0.0, SIGN * STRIDE, EVEN, R, ahead)
            b_rows = _load(b, row + TILE, length, wide, whole, BEYOND, SIGN * STRIDE, EVEN, R, ahead)
            f_to, h_to, f_before, h_before = _across_warps(f_run, h_run, W, C)
            state = f_before * carry[None, :] + h_before
            carry = _last_warp(f_to * carry[None, :] + h_to, W)
            if SPLIT:
                product *= _last_warp(f_to, W)
            _store(
                h,
                _replay(state, f_rows, x_rows, h.dtype.element_ty, R),
                row,
                length,
                wide,
                whole_now,
                SIGN * D,
                EVEN,
                R,
            )
        h += SIGN * TILE * D
        row += TILE
    if SPLIT and not REPAIR:
        tl.store(maps + item.to(tl.int64) * D + channel, product, mask=channel_mask)
        tl.store(maps + (items + item).to(tl.int64) * D + channel, carry, mask=channel_mask)
    if REPAIR:
        if (end == last) & differs:
            tl.store(final + sequence * D + channel, carry, mask=channel_mask)
    elif end == last:
        tl.store(final + sequence * D + channel, carry, mask=channel_mask)


@triton.jit
def _summarise(
    a_rows, b_rows, open_gate, R: tl.constexpr, W: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr
):  # fmt: skip
    """f and x of each step, and for each warp the map of all its steps."""
    f_run = tl.full([W, C], 1.0, tl.float32)
    h_run = tl.zeros([W, C], tl.float32)
    f_rows = ()
    x_rows = ()
    for r in tl.static_range(R):
        f, x = _gates(a_rows[r], b_rows[r], open_gate, GATED)
        h_run = f * h_run + x
        f_run = f_run * f
        f_rows = f_rows + (f,)  # noqa: RUF005
        x_rows = x_rows + (x,)  # noqa: RUF005
    return f_rows, x_rows, f_run, h_run


@triton.jit
def _replay(state, f_rows, x_rows, DTYPE: tl.constexpr, R: tl.constexpr):
    """The states after each step, from the states [W, C] before the first."""
    out = ()
    for r in tl.static_range(R):
        state = f_rows[r] * state + x_rows[r]
        out = out + (state.to(DTYPE),)  # noqa: RUF005
    return out


@triton.jit(do_not_specialize=_NUMBERS)
def _forward(
    a, b, h, lower_bound, valid, initial, final, cu_seqlens, maps, segment_sequence, segment_first,
    T, sequences, items, segments, tiles,
    D: tl.constexpr, FORWARD: tl.constexpr, STRIDE: tl.constexpr, R: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    GATED: tl.constexpr, MASKED: tl.constexpr, PACKED: tl.constexpr, STATE: tl.constexpr,
    SPLIT: tl.constexpr, REPAIR: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """h_t = f_t h_{t-1} + x_t; time runs forward for the first FORWARD channels, backward for the others."""
    BLOCKS: tl.constexpr = triton.cdiv(FORWARD, C) + triton.cdiv(D - FORWARD, C)
    item = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    sequence, start, length, segment, first_item, channel, channel_mask = _place(
        item, block, cu_seqlens, segment_sequence, segment_first, T, sequences, segments, D, FORWARD, C, PACKED, SPLIT
    )
    # A packed batch may have fewer segments than items. The first segment of a sequence needs no repair.
    if (sequence < sequences) & ((segment > 0) | (not REPAIR)):
        if FORWARD == D:
            _forward_walk(
                a, b, h, lower_bound, valid, initial, final, maps,
                item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, R, W, C, GATED, MASKED, STATE, SPLIT, REPAIR, EVEN, 1,
            )  # fmt: skip
        elif FORWARD == 0:
            _forward_walk(
                a, b, h, lower_bound, valid, initial, final, maps,
                item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, R, W, C, GATED, MASKED, STATE, SPLIT, REPAIR, EVEN, -1,
            )  # fmt: skip
        elif block < triton.cdiv(FORWARD, C):
            _forward_walk(
                a, b, h, lower_bound, valid, initial, final, maps,
                item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, R, W, C, GATED, MASKED, STATE, SPLIT, REPAIR, EVEN, 1,
            )  # fmt: skip
        else:
            _forward_walk(
                a, b, h, lower_bound, valid, initial, final, maps,
                item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, R, W, C, GATED, MASKED, STATE, SPLIT, REPAIR, EVEN, -1,
            )  # fmt: skip


@triton.jit
def _open(b, GATED: tl.constexpr):
    """exp(log f), or if gated sigmoid(-f), how far the gate is open to the input."""
    power = exp2(b.to(tl.float32) * LOG2_E)
    if GATED:
        power = reciprocal(1.0 + power)
    return power


@triton.jit
def _summarise_backward(
    b_rows, g_rows, open_gate, R: tl.constexpr, W: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr
):  # fmt: skip
    """The value of `_open` for each step, and for each warp the map of c over all its steps."""
    f_run = tl.full([W, C], 1.0, tl.float32)
    c_run = tl.zeros([W, C], tl.float32)
    gate_rows = ()
    for r in tl.static_range(R):
        gate = _open(b_rows[r], GATED)
        f = gate
        if GATED:
            f = 1.0 - open_gate * gate
        c_run = f * (c_run + g_rows[r].to(tl.float32))
        f_run = f_run * f
        gate_rows = gate_rows + (gate,)  # noqa: RUF005
    return gate_rows, f_run, c_run


@triton.jit
def _differentiate(
    c, gate_rows, a_rows, g_rows, h_rows, open_gate, first_state, row, length,
    A: tl.constexpr, B: tl.constexpr, R: tl.constexpr, GATED: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """From c [W, C] before the first step: the gradients of a and b at each step, and their part of the bound's gradient."""
    a_out = ()
    b_out = ()
    bound = tl.zeros_like(c)
    for r in tl.static_range(R):
        gate = gate_rows[r]
        before = h_rows[r].to(tl.float32)
        if STATE:
            before = tl.where(((row + r) == length - 1)[:, None], first_state, before)
        g = g_rows[r].to(tl.float32) + c
        if GATED:
            take = open_gate * gate
            i = a_rows[r].to(tl.float32)
            sigmoid_i = sigmoid(i)
            grad_f = g * (before - i * sigmoid_i)
            c = (1.0 - take) * g
            grad_a = g * take * sigmoid_i * (1.0 + i * (1.0 - sigmoid_i))
            grad_b = grad_f * take * (1.0 - gate)
            bound += grad_f * gate
        else:
            c = gate * g
            grad_a = g
            grad_b = c * before
        a_out = a_out + (grad_a.to(A),)  # noqa: RUF005
        b_out = b_out + (grad_b.to(B),)  # noqa: RUF005
    return a_out, b_out, bound


@triton.jit
def _backward_walk(
    a, b, h, lower_bound, valid, initial, grad_h, grad_final, grad_a, grad_b, grad_lower_bound, grad_initial, maps,
    item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
    D: tl.constexpr, STRIDE: tl.constexpr, GRAD_STRIDE: tl.constexpr, R: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    GATED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr, FINAL: tl.constexpr, SPLIT: tl.constexpr,
    REPAIR: tl.constexpr, EVEN: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = R * W
    BEYOND: tl.constexpr = float("inf") if GATED else 0.0
    first = segment * tiles
    last = tl.maximum(tl.cdiv(length, TILE), 1)
    end = tl.minimum(first + tiles, last)
    origin = start
    if SIGN < 0:
        origin = start + length - 1
    row = first * TILE + tl.arange(0, W) * R
    wide = channel_mask[None, :]
    step = row[:, None].to(tl.int64) * SIGN
    a += (origin + step) * STRIDE + channel[None, :]
    b += (origin + step) * STRIDE + channel[None, :]
    # The backward pass goes against time, so the state before a step is in the next row that it visits.
    h += (origin + SIGN + step) * D + channel[None, :]
    grad_h += (origin + step) * D + channel[None, :]
    grad_a += (origin + step) * GRAD_STRIDE + channel[None, :]
    grad_b += (origin + step) * GRAD_STRIDE + channel[None, :]
    valid += origin
    open_gate = tl.full([1, C], 1.0, tl.float32)
    if GATED:
        open_gate = 1.0 - tl.load(lower_bound + channel, mask=channel_mask, other=0.0)[None, :]
    first_state = tl.zeros([1, C], tl.float32)
    if STATE:
        first_state = tl.load(initial + sequence * D + channel, mask=channel_mask, other=0.0).to(tl.float32)[None, :]

    carry = tl.zeros([C], tl.float32)
    if FINAL:  # noqa: SIM102  one is known when the kernel is compiled
        if segment == 0:
            carry = tl.load(grad_final + sequence * D + channel, mask=channel_mask, other=0.0).to(tl.float32)
    # The map of the first segment already includes its initial state.
    product = tl.zeros([C], tl.float32) + tl.where(segment == 0, 0.0, 1.0)
    grad_bound = tl.zeros([W, C], tl.float32)
    if REPAIR:
        carry = _entering(maps, first_item, segment, channel, channel_mask, items, C, D)
        before = tl.zeros([C], tl.float32)
        differs = first < end

    # One step more than the tile has, since h is read one step ahead.
    whole = (first + 1) * TILE < length
    if not REPAIR:
        counts = _counting(valid, row, length, MASKED, SIGN, R)
        b_rows = _load(b, row, length, wide, whole, BEYOND, SIGN * STRIDE, EVEN, R, counts)
        a_rows = b_rows
        if GATED:
            a_rows = _load(a, row, length, wide, whole, 0.0, SIGN * STRIDE, EVEN, R, counts)
        g_rows = _load(grad_h, row, length, wide, whole, 0.0, SIGN * D, EVEN, R)
        h_rows = _load(h, row, length - 1, wide, whole, 0.0, SIGN * D, EVEN, R)
    for n in range(first, end):
        if REPAIR:
            whole = (n + 1) * TILE < length
            if differs:
                counts = _counting(valid, row, length, MASKED, SIGN, R)
                b_rows = _load(b, row, length, wide, whole, BEYOND, SIGN * STRIDE, EVEN, R, counts)
                a_rows = b_rows
                if GATED:
                    a_rows = _load(a, row, length, wide, whole, 0.0, SIGN * STRIDE, EVEN, R, counts)
                g_rows = _load(grad_h, row, length, wide, whole, 0.0, SIGN * D, EVEN, R)
                h_rows = _load(h, row, length - 1, wide, whole, 0.0, SIGN * D, EVEN, R)
                gate_rows, f_run, c_run = _summarise_backward(b_rows, g_rows, open_gate, R, W, C, GATED)
                f_to, c_to, f_before, c_before = _across_warps(f_run, c_run, W, C)
                if GATED:
                    _, _, bound = _differentiate(
                        f_before * before[None, :] + c_before, gate_rows, a_rows, g_rows, h_rows, open_gate, first_state,
                        row, length, grad_a.dtype.element_ty, grad_b.dtype.element_ty, R, GATED, STATE,
                    )  # fmt: skip
                    grad_bound -= bound
                a_out, b_out, bound = _differentiate(
                    f_before * carry[None, :] + c_before, gate_rows, a_rows, g_rows, h_rows, open_gate, first_state,
                    row, length, grad_a.dtype.element_ty, grad_b.dtype.element_ty, R, GATED, STATE,
                )  # fmt: skip
                grad_bound += bound
                _store(grad_a, a_out, row, length, wide, whole, SIGN * GRAD_STRIDE, EVEN, R)
                _store(grad_b, b_out, row, length, wide, whole, SIGN * GRAD_STRIDE, EVEN, R)
                carry = _last_warp(f_to * carry[None, :] + c_to, W)
                before = _last_warp(f_to * before[None, :] + c_to, W)
                differs = tl.max((carry != before).to(tl.int32), 0) != 0
            a += SIGN * TILE * STRIDE
            b += SIGN * TILE * STRIDE
            h += SIGN * TILE * D
            grad_h += SIGN * TILE * D
        else:
            ahead = _counting(valid, row + TILE, length, MASKED, SIGN, R)
            gate_rows, f_run, c_run = _summarise_backward(b_rows, g_rows, open_gate, R, W, C, GATED)
            whole_now = whole
            whole = (n + 2) * TILE < length
            a += SIGN * TILE * STRIDE
            b += SIGN * TILE * STRIDE
            h += SIGN * TILE * D
            grad_h += SIGN * TILE * D
            b_rows = _load(b, row + TILE, length, wide, whole, BEYOND, SIGN * STRIDE, EVEN, R, ahead)
            a_next = b_rows
            if GATED:
                a_next = _load(a, row + TILE, length, wide, whole, 0.0, SIGN * STRIDE, EVEN, R, ahead)
            g_next = _load(grad_h, row + TILE, length, wide, whole, 0.0, SIGN * D, EVEN, R)
            h_next = _load(h, row + TILE, length - 1, wide, whole, 0.0, SIGN * D, EVEN, R)
            f_to, c_to, f_before, c_before = _across_warps(f_run, c_run, W, C)
            c = f_before * carry[None, :] + c_before
            carry = _last_warp(f_to * carry[None, :] + c_to, W)
            if SPLIT:
                product *= _last_warp(f_to, W)
            a_out, b_out, bound = _differentiate(
                c, gate_rows, a_rows, g_rows, h_rows, open_gate, first_state, row, length,
                grad_a.dtype.element_ty, grad_b.dtype.element_ty, R, GATED, STATE,
            )  # fmt: skip
            grad_bound += bound
            _store(grad_a, a_out, row, length, wide, whole_now, SIGN * GRAD_STRIDE, EVEN, R)
            _store(grad_b, b_out, row, length, wide, whole_now, SIGN * GRAD_STRIDE, EVEN, R)
            a_rows = a_next
            g_rows = g_next
            h_rows = h_next
        grad_a += SIGN * TILE * GRAD_STRIDE
        grad_b += SIGN * TILE * GRAD_STRIDE
        row += TILE
    if GATED:
        grad_lower_bound += item.to(tl.int64) * D + channel
        bound = tl.sum(grad_bound, 0)
        if REPAIR:
            bound += tl.load(grad_lower_bound, mask=channel_mask, other=0.0)
        tl.store(grad_lower_bound, bound, mask=channel_mask)
    if SPLIT and not REPAIR:
        tl.store(maps + item.to(tl.int64) * D + channel, product, mask=channel_mask)
        tl.store(maps + (items + item).to(tl.int64) * D + channel, carry, mask=channel_mask)
    if REPAIR:
        if (end == last) & differs:
            tl.store(grad_initial + sequence * D + channel, carry, mask=channel_mask)
    elif end == last:
        tl.store(grad_initial + sequence * D + channel, carry, mask=channel_mask)


@triton.jit(do_not_specialize=_NUMBERS)
def _backward(
    a, b, h, lower_bound, valid, initial, cu_seqlens, grad_h, grad_final, grad_a, grad_b, grad_lower_bound, grad_initial,
    maps, segment_sequence, segment_first, T, sequences, items, segments, tiles,
    D: tl.constexpr, FORWARD: tl.constexpr, STRIDE: tl.constexpr, GRAD_STRIDE: tl.constexpr, R: tl.constexpr,
    W: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr, MASKED: tl.constexpr,
    PACKED: tl.constexpr, STATE: tl.constexpr, FINAL: tl.constexpr, SPLIT: tl.constexpr, REPAIR: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Scan against time: with g_t = dh_t + c_{t+1} and c_t = f_t g_t, dx_t = g_t and df_t = g_t h_{t-1}."""
    BLOCKS: tl.constexpr = triton.cdiv(FORWARD, C) + triton.cdiv(D - FORWARD, C)
    item = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    sequence, start, length, segment, first_item, channel, channel_mask = _place(
        item, block, cu_seqlens, segment_sequence, segment_first, T, sequences, segments, D, FORWARD, C, PACKED, SPLIT
    )
    if (sequence < sequences) & ((segment > 0) | (not REPAIR)):
        if FORWARD == D:
            _backward_walk(
                a, b, h, lower_bound, valid, initial, grad_h, grad_final, grad_a, grad_b, grad_lower_bound, grad_initial,
                maps, item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, GRAD_STRIDE, R, W, C, GATED, MASKED, STATE, FINAL, SPLIT, REPAIR, EVEN, -1,
            )  # fmt: skip
        elif FORWARD == 0:
            _backward_walk(
                a, b, h, lower_bound, valid, initial, grad_h, grad_final, grad_a, grad_b, grad_lower_bound, grad_initial,
                maps, item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, GRAD_STRIDE, R, W, C, GATED, MASKED, STATE, FINAL, SPLIT, REPAIR, EVEN, 1,
            )  # fmt: skip
        elif block < triton.cdiv(FORWARD, C):
            _backward_walk(
                a, b, h, lower_bound, valid, initial, grad_h, grad_final, grad_a, grad_b, grad_lower_bound, grad_initial,
                maps, item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, GRAD_STRIDE, R, W, C, GATED, MASKED, STATE, FINAL, SPLIT, REPAIR, EVEN, -1,
            )  # fmt: skip
        else:
            _backward_walk(
                a, b, h, lower_bound, valid, initial, grad_h, grad_final, grad_a, grad_b, grad_lower_bound, grad_initial,
                maps, item, items, sequence, start, length, segment, first_item, tiles, channel, channel_mask,
                D, STRIDE, GRAD_STRIDE, R, W, C, GATED, MASKED, STATE, FINAL, SPLIT, REPAIR, EVEN, 1,
            )  # fmt: skip


class Plan(NamedTuple):
    """Tile sizes and launch options of a scan.

    Attributes:
        rows: steps of a warp in a tile.
        warps: warps of a tile.
        channels: channels of a program.
        segments: segments of time that are scanned in parallel.
        registers: the most registers of a thread.
    """

    rows: int
    warps: int
    channels: int = 64
    segments: int = 1
    registers: int = 128


@settled
def _plan(forward: bool, gated: bool, wide: bool, sequences: int, time: int, channels: tuple[int, int]) -> Plan:
    """Choose tile sizes by shape, from measurements on an H200 (benchmarks/RESULTS.md).

    Args:
        forward: for the forward pass, not the backward pass.
        gated: for `hgrn_mix`.
        wide: elements have four bytes.
        sequences: number of sequences.
        time: steps of the batch.
        channels: number of channels scanned forward in time, and backward.
    """
    rows = (16 if forward else 8) // (2 if wide else 1)
    programs, processors = sequences * _blocks(channels, 64), _processors()
    plan = Plan(rows, 4 if programs > 3 * processors else 8)
    if gated and not forward:
        plan = Plan(rows, 4, registers=168)
    if programs < processors * 3 // 2:
        plan = Plan(rows, 8, 32)
    programs = sequences * _blocks(channels, plan.channels)
    if programs < processors:
        # Segments shorter than the gates' memory would be scanned twice.
        share = 6 if forward else 8
        plan = Plan(rows, 4, segments=max(1, min(share * processors // programs, time // 512)))
        if gated and not forward:
            plan = plan._replace(registers=168)
    return plan


@functools.cache
def _processors() -> int:
    """Multiprocessors of the GPU; all GPUs of one machine are assumed to be equal."""
    return torch.cuda.get_device_properties(0).multi_processor_count if torch.cuda.is_available() else 1


def _blocks(channels: tuple[int, int], width: int) -> int:
    """The number of blocks of `width` channels; no block mixes the two directions."""
    return sum(-(-some // width) for some in channels)


class _Launches:
    """The launch of a scan, and a second one for the repair if time is split into segments: all but their tensors.

    Args:
        forward: for the forward pass, not the backward pass.
        plan: tile sizes and launch options.
        time: T.
        channels: D.
        forward_channels: the channels before this one are scanned forward in time, the others backward.
        sequences: number of sequences.
        packed: whether they are packed along time.
        constants: what else the kernel is compiled for.
    """

    def __init__(
        self,
        forward: bool,
        plan: Plan,
        time: int,
        channels: int,
        forward_channels: int,
        sequences: int,
        packed: bool,
        **constants: Any,
    ) -> None:
        directions = (forward_channels, channels - forward_channels)
        tile = plan.rows * plan.warps
        self.split = plan.segments > 1
        # Tiles of a segment; at least one, even if there are no steps.
        tiles = max(-(-time // (tile * plan.segments)), 1)
        self.length = tile * tiles
        segments = max(-(-time // self.length), 1) if self.split else 1
        # Packed, an upper bound: rounding up adds at most one segment per sequence. The exact number stays on the device, since
        # reading it would synchronize.
        self.items = time // self.length + sequences if self.split and packed else sequences * segments
        constants |= {
            "D": channels,
            "FORWARD": forward_channels,
            "R": plan.rows,
            "W": plan.warps,
            "C": plan.channels,
            "PACKED": packed,
            "SPLIT": self.split,
            "EVEN": all(some % plan.channels == 0 for some in directions),
            "num_warps": plan.warps,
            "maxnreg": plan.registers,
        }
        kernel, grid = _forward if forward else _backward, (self.items * _blocks(directions, plan.channels),)
        numbers = time, sequences, self.items, segments, tiles
        repairs = (False, True) if self.split else (False,)
        self.launches = [Launch(kernel, grid, *numbers, REPAIR=repair, **constants) for repair in repairs]

    def __call__(self, like: Tensor, cu_seqlens: Tensor | None, *tensors: Tensor) -> None:
        """Launch them; like is [B, T, D]."""
        maps = sequence = first = like
        if self.split:
            if cu_seqlens is not None:
                each = (-(-cu_seqlens.diff() // self.length)).clamp_min(1)
                after = each.cumsum(0)
                first = after - each
                sequence = torch.searchsorted(after, torch.arange(self.items, device=like.device), right=True)
            maps = torch.empty(2, self.items, like.shape[2], dtype=torch.float32, device=like.device)
        for launch in self.launches:
            launch(*tensors, maps, sequence, first)


_launches = settled(_Launches)


def launch_forward(
    a: Tensor,
    b: Tensor,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    forward_channels: int,
    gated: bool,
) -> tuple[Tensor, Tensor]:
    """Run the forward kernel.

    Args:
        a: x, or if gated the pre-activation i: [B, T, D] with contiguous rows and no gap between sequences.
        b: log f, or if gated the pre-activation f; laid out like a.
        lower_bound: float32 [D], contiguous; None unless gated.
        mask: bool [B, T], contiguous, or None.
        initial_state: [N, D], contiguous, or None.
        cu_seqlens: int [N + 1], contiguous, or None.
        forward_channels: the channels before this one are scanned forward in time, the others backward.
        gated: whether a and b are pre-activations.

    Returns:
        h [B, T, D] in a's dtype, the final state [N, D] in float32.
    """
    wide = max(a.element_size(), b.element_size()) > 2
    _, time, channels = a.shape
    sequences = count_sequences(a, cu_seqlens)
    plan = _plan(True, gated, wide, sequences, time, (forward_channels, channels - forward_channels))
    launches = _launches(
        True, plan, time, channels, forward_channels, sequences, cu_seqlens is not None,
        STRIDE=a.stride(1), GATED=gated, MASKED=mask is not None, STATE=initial_state is not None,
    )  # fmt: skip
    h = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    final = torch.empty(sequences, channels, dtype=torch.float32, device=a.device)
    launches(
        a, cu_seqlens,
        a, b, h, _or(lower_bound, a), _or(mask, a), _or(initial_state, a), final, _or(cu_seqlens, a),
    )  # fmt: skip
    return h, final


def launch_backward(
    grad_h: Tensor,
    grad_final: Tensor | None,
    a: Tensor,
    b: Tensor,
    h: Tensor,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    forward_channels: int,
    gated: bool,
    grad_a: Tensor,
    grad_b: Tensor,
) -> tuple[Tensor | None, Tensor]:
    """Run the backward kernel; writes grad_a and grad_b [B, T, D], which have equal strides.

    The other arguments are as in `launch_forward`, with its result h and the gradients of its results.

    Returns:
        The gradients of the lower bound, float32 [D] (None if not gated), and of the initial state, float32 [N, D].
    """
    wide = max(b.element_size(), h.element_size(), grad_h.element_size()) > 2
    _, time, channels = h.shape
    sequences = count_sequences(h, cu_seqlens)
    plan = _plan(False, gated, wide, sequences, time, (forward_channels, channels - forward_channels))
    launches = _launches(
        False, plan, time, channels, forward_channels, sequences, cu_seqlens is not None,
        STRIDE=b.stride(1), GRAD_STRIDE=grad_a.stride(1), GATED=gated,
        MASKED=mask is not None, STATE=initial_state is not None, FINAL=grad_final is not None,
    )  # fmt: skip
    grad_initial = torch.empty(sequences, channels, dtype=torch.float32, device=h.device)
    grad_bound = None
    if gated:
        # A packed batch may have fewer segments than items; the others must add 0.
        room = torch.zeros if launches.split and cu_seqlens is not None else torch.empty
        grad_bound = room(launches.items, channels, dtype=torch.float32, device=h.device)
    launches(
        h, cu_seqlens,
        a, b, h, _or(lower_bound, a), _or(mask, a), _or(initial_state, a), _or(cu_seqlens, a), grad_h,
        _or(grad_final, a), grad_a, grad_b, _or(grad_bound, a), grad_initial,
    )  # fmt: skip
    return None if grad_bound is None else sum_parts(grad_bound), grad_initial


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """The tensor, or a stand-in for None: kernels need a pointer, which they then do not read."""
    return stand_in if tensor is None else tensor


def forward(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in x's dtype and the final state [N, D] in float32."""
    x, log_f, initial_state, cu_seqlens = _contiguous(x, log_f, initial_state, cu_seqlens)
    return launch_forward(x, log_f, None, None, initial_state, cu_seqlens, 0 if reverse else x.shape[2], False)


def backward(
    grad_h: Tensor,
    grad_final: Tensor | None,
    log_f: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and log_f, in their dtypes, and of the initial state, given the gradients of h and of the final state."""
    grad_h, grad_final, log_f, h, initial_state, cu_seqlens = _contiguous(
        grad_h, grad_final, log_f, h, initial_state, cu_seqlens
    )
    grad_x, grad_log_f = torch.empty_like(h), torch.empty_like(log_f)
    _, grad_state = launch_backward(
        grad_h, grad_final, log_f, log_f, h, None, None, initial_state, cu_seqlens, 0 if reverse else h.shape[2], False,
        grad_x, grad_log_f,
    )  # fmt: skip
    return grad_x, grad_log_f, grad_state


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]
