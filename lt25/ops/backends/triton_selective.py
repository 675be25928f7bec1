"""Mamba's selective scan on a GPU: one pass over the data forward, and one backward.

A program takes 64 neighboring channels of one sequence and goes through time in tiles of 64 steps, as the scan of
`lt25.ops.backends.triton_scan` does: each of its W warps holds R consecutive steps in registers. For one of the N states after
the other, the warp reduces its steps to one affine map of the state, a scan over the W maps gives every warp the state that
enters it, and from this it computes its steps, of which nothing but their share of y remains. So no state leaves the registers
but those between tiles: they are kept in memory, for the next tile and for the backward pass, which goes through the tiles from
the last to the first and computes the states within a tile anew.

What it costs at B = 8, T = 4096, D = 2048, N = 16 in bfloat16, by count: B T D N = 1.07e9 states, each with one exponential
forward and one backward, 0.3 ms at the 16 a clock of each of an H200's 132 multiprocessors. Forward reads x, dt and z and writes
y, 537 MB, and the states between tiles, 67 MB: 0.15 ms at 4 TB/s. So the exponentials and the dozen of instructions around each
of them decide. To split time into pieces, whose states a first pass computes, would double the exponentials; tiles need them
once, and make of B D / 64 = 256 sequences of steps as many programs of several warps each. Backward, the gradients of B and C are
sums over channels: ten shuffles for each state within a warp, then float32 sums of each 64 channels, 2 x 67 MB, that one
reduction adds up in the same order each time.

Texts packed along time are sequences like those of a batch, of other lengths, and programs begin the longest first. Very many
sequences are shared among programs, each of which walks some of them one after the other, for what remains of a program is its
sums of the gradients of A, D and dt_bias. A single long text is one sequence: all its tiles are walked one after the other, by
D / 64 programs, and most of a GPU has nothing to do.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends import count_sequences
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2, reciprocal, sigmoid
from lt25.ops.backends.triton_scan import _across_warps, _then_exclusive

# Steps of a tile.
_TILE = 64
# Arguments on whose values Triton does not specialize, so that batches of other lengths need no new compilation.
_NUMBERS = ("T", "total", "sequences", "groups")
# About so many programs a launch has at most: several for each place on a GPU, to balance sequences of different lengths. Each
# has sums of gradients of A, 32 kB with 16 states.
_PROGRAMS = 2048


class Cut(NamedTuple):
    """How a program cuts its tile of 64 steps.

    Attributes:
        warps: warps of a program, each with its part of the steps.
        channels: channels of a program.
        registers: the most registers of a thread.
    """

    warps: int
    channels: int
    registers: int


FORWARD, BACKWARD = Cut(4, 64, 240), Cut(8, 64, 255)


@triton.jit
def _softplus(u):
    """log(1 + exp(u)), accurate relative to itself: with e = exp(-|u|), log(1 + e) = 2 artanh(e / (2 + e))."""
    e = exp2(-tl.abs(u) * LOG2_E)
    s = e * reciprocal(2.0 + e)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(u, 0.0) + 2.0 * s * series


@triton.jit
def _step(dt, bias, mask):
    """dt of a step [W, C], before and after softplus. Beyond the end that is 0, over which no state decays."""
    u = tl.load(dt, mask=mask, other=float("-inf")).to(tl.float32) + bias
    return u, _softplus(u)


@triton.jit
def _sequence(bounds, order, turn, T, PACKED: tl.constexpr):
    """The sequence whose turn it is, its first step and how many it has."""
    sequence = tl.cast(turn, tl.int64)
    first = sequence * T
    length = T
    if PACKED:
        sequence = tl.load(order + turn)
        first = tl.load(bounds + sequence).to(tl.int64)
        length = (tl.load(bounds + sequence + 1) - first).to(tl.int32)
    return sequence, first, length


@triton.jit(do_not_specialize=_NUMBERS)
def _forward(
    x, dt, A, B, C, skip, dt_bias, z, y, states, bounds, order, T, total, sequences, groups,
    D: tl.constexpr, N: tl.constexpr, Z_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr, C_STRIDE: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr,
    GATED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = (C_t h_t + D x_t) silu(z_t)."""
    BLOCKS: tl.constexpr = triton.cdiv(D, WIDTH)
    group = tl.program_id(0) // BLOCKS
    lane = ((tl.program_id(0) % BLOCKS) * WIDTH + tl.arange(0, WIDTH))[None, :]
    there = lane < D
    warp = tl.arange(0, W)[:, None]
    straight = tl.load(skip + lane, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(dt_bias + lane, mask=there, other=0.0).to(tl.float32)
    for turn in range(group, sequences, groups):
        sequence, first, length = _sequence(bounds, order, turn, T, PACKED)
        tiles = tl.cdiv(length, R * W)
        for tile in range(tiles):
            step = tile * (R * W) + warp * R
            at = first + step
            here = at * D + lane
            before = states + (sequences + first // (R * W) + tile - 1) * N * D
            after = states + tl.where(tile == tiles - 1, sequence, sequences + first // (R * W) + tile) * N * D
            ages = ()
            moved = ()
            y_rows = ()
            for r in tl.static_range(R):
                inside = step + r < length
                _, passed = _step(dt + here + r * D, bias, inside & there)
                value = tl.load(x + here + r * D, mask=inside & there, other=0.0).to(tl.float32)
                ages = ages + (passed,)  # noqa: RUF005
                moved = moved + (passed * value,)  # noqa: RUF005
                y_rows = y_rows + (straight * value,)  # noqa: RUF005
            for n in range(N):
                rate = tl.load(A + n * D + lane, mask=there, other=0.0) * LOG2_E
                entering = tl.load(before + n * D + lane, mask=there & (tile > 0), other=0.0)
                f_run = tl.full([W, WIDTH], 1.0, tl.float32)
                h_run = tl.zeros([W, WIDTH], tl.float32)
                decays = ()
                added = ()
                reads = ()
                for r in tl.static_range(R):
                    inside = step + r < length
                    b = tl.load(B + at * B_STRIDE + n + r * B_STRIDE, mask=inside, other=0.0).to(tl.float32)
                    c = tl.load(C + at * C_STRIDE + n + r * C_STRIDE, mask=inside, other=0.0).to(tl.float32)
                    decay = exp2(ages[r] * rate)
                    more = moved[r] * b
                    h_run = decay * h_run + more
                    f_run = f_run * decay
                    decays = decays + (decay,)  # noqa: RUF005
                    added = added + (more,)  # noqa: RUF005
                    reads = reads + (c,)  # noqa: RUF005
                f_to, h_to, f_before, h_before = _across_warps(f_run, h_run, W, WIDTH)
                tl.store(after + n * D + lane + warp * 0, f_to * entering + h_to, mask=there & (warp == W - 1))
                state = f_before * entering + h_before
                sums = ()
                for r in tl.static_range(R):
                    state = decays[r] * state + added[r]
                    sums = sums + (y_rows[r] + reads[r] * state,)  # noqa: RUF005
                y_rows = sums
            for r in tl.static_range(R):
                value = y_rows[r]
                mask = (step + r < length) & there
                if GATED:
                    gate = tl.load(z + at * Z_STRIDE + lane + r * Z_STRIDE, mask=mask, other=0.0).to(tl.float32)
                    value *= gate * sigmoid(gate)
                tl.store(y + here + r * D, value.to(y.dtype.element_ty), mask=mask)
            # All warps read the states that the last has written.
            tl.debug_barrier()


@triton.jit(do_not_specialize=_NUMBERS)
def _backward(
    grad_y, grad_final, x, dt, A, B, C, skip, dt_bias, z, states,
    grad_x, grad_dt, grad_z, A_parts, B_parts, C_parts, skip_parts, bias_parts, carried,
    bounds, order, T, total, sequences, groups,
    D: tl.constexpr, N: tl.constexpr, Z_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr, C_STRIDE: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr,
    GATED: tl.constexpr, PACKED: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """Scan against time: with a_t = exp(dt_t A), the gradient of h_t is g_t = C_t dy_t + a_{t+1} g_{t+1}."""
    BLOCKS: tl.constexpr = triton.cdiv(D, WIDTH)
    group = (tl.program_id(0) // BLOCKS).to(tl.int64)
    block = tl.program_id(0) % BLOCKS
    lane = (block * WIDTH + tl.arange(0, WIDTH))[None, :]
    there = lane < D
    warp = tl.arange(0, W)[:, None]
    straight = tl.load(skip + lane, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(dt_bias + lane, mask=there, other=0.0).to(tl.float32)
    carried += group * N * D
    A_parts += (group * W + warp) * N * D
    B_parts += block.to(tl.int64) * N * total
    C_parts += block.to(tl.int64) * N * total
    place = tl.arange(0, WIDTH)[None, :]
    skip_sum = tl.zeros([W, WIDTH], tl.float32)
    bias_sum = tl.zeros([W, WIDTH], tl.float32)
    for turn in range(group, sequences, groups):
        sequence, first, length = _sequence(bounds, order, turn, T, PACKED)
        tiles = tl.cdiv(length, R * W)
        final = grad_final + sequence * N * D
        for done in range(tiles):
            tile = tiles - 1 - done
            step = tile * (R * W) + warp * R
            at = first + step
            here = at * D + lane
            before = states + (sequences + first // (R * W) + tile - 1) * N * D
            ages = ()
            moved = ()
            grads = ()
            y_rows = ()
            into = ()
            through = ()
            for r in tl.static_range(R):
                mask = (step + r < length) & there
                _, passed = _step(dt + here + r * D, bias, mask)
                value = tl.load(x + here + r * D, mask=mask, other=0.0).to(tl.float32)
                grad = tl.load(grad_y + here + r * D, mask=mask, other=0.0).to(tl.float32)
                if GATED:
                    gate = tl.load(z + at * Z_STRIDE + lane + r * Z_STRIDE, mask=mask, other=0.0).to(tl.float32)
                    grad *= gate * sigmoid(gate)
                skip_sum += grad * value
                ages = ages + (passed,)  # noqa: RUF005
                moved = moved + (passed * value,)  # noqa: RUF005
                grads = grads + (grad,)  # noqa: RUF005
                y_rows = y_rows + (straight * value,)  # noqa: RUF005
                into = into + (tl.zeros([W, WIDTH], tl.float32),)  # noqa: RUF005
                through = through + (tl.zeros([W, WIDTH], tl.float32),)  # noqa: RUF005
            for n in range(N):
                own = tl.load(A + n * D + lane, mask=there, other=0.0)
                rate = own * LOG2_E
                entering = tl.load(before + n * D + lane, mask=there & (tile > 0), other=0.0)
                returning = tl.load(carried + n * D + lane, mask=there & (done > 0), other=0.0)
                if FINAL:
                    returning += tl.load(final + n * D + lane, mask=there & (done == 0), other=0.0)
                A_sum = tl.load(A_parts + n * D + lane, mask=there, other=0.0)
                f_run = tl.full([W, WIDTH], 1.0, tl.float32)
                h_run = tl.zeros([W, WIDTH], tl.float32)
                decays = ()
                writes = ()
                reads = ()
                for r in tl.static_range(R):
                    inside = step + r < length
                    b = tl.load(B + at * B_STRIDE + n + r * B_STRIDE, mask=inside, other=0.0).to(tl.float32)
                    c = tl.load(C + at * C_STRIDE + n + r * C_STRIDE, mask=inside, other=0.0).to(tl.float32)
                    decay = exp2(ages[r] * rate)
                    h_run = decay * h_run + moved[r] * b
                    f_run = f_run * decay
                    decays = decays + (decay,)  # noqa: RUF005
                    writes = writes + (b,)  # noqa: RUF005
                    reads = reads + (c,)  # noqa: RUF005
                g_run = tl.zeros([W, WIDTH], tl.float32)
                for r in tl.static_range(R):
                    g_run = decays[R - 1 - r] * (reads[R - 1 - r] * grads[R - 1 - r] + g_run)
                _, _, f_before, h_before = _across_warps(f_run, h_run, W, WIDTH)
                f_back, g_back, f_after, g_after = _back_across_warps(f_run, g_run, W, WIDTH)
                # What the first warp writes here the others have read before the scans.
                tl.store(carried + n * D + lane + warp * 0, f_back * returning + g_back, mask=there & (warp == 0))
                state = f_before * entering + h_before
                g = f_after * returning + g_after
                # Lane r of a warp keeps the sum over channels of its step r.
                C_sums = tl.zeros([W, WIDTH], tl.float32)
                B_sums = tl.zeros([W, WIDTH], tl.float32)
                left = ()
                sums = ()
                for r in tl.static_range(R):
                    kept = decays[r] * state
                    state = kept + moved[r] * writes[r]
                    left = left + (kept,)  # noqa: RUF005
                    C_sums = tl.where(place == r, tl.sum(grads[r] * state, 1)[:, None], C_sums)
                    if GATED:
                        sums = sums + (y_rows[r] + reads[r] * state,)  # noqa: RUF005
                if GATED:
                    y_rows = sums
                into_sums = ()
                through_sums = ()
                for k in tl.static_range(R):
                    g = reads[R - 1 - k] * grads[R - 1 - k] + g
                    B_sums = tl.where(place == R - 1 - k, tl.sum(g * moved[R - 1 - k], 1)[:, None], B_sums)
                    product = g * left[R - 1 - k]
                    into_sums = (into[R - 1 - k] + g * writes[R - 1 - k],) + into_sums  # noqa: RUF005
                    through_sums = (through[R - 1 - k] + own * product,) + through_sums  # noqa: RUF005
                    A_sum += ages[R - 1 - k] * product
                    g = decays[R - 1 - k] * g
                into = into_sums
                through = through_sums
                tl.store(A_parts + n * D + lane, A_sum, mask=there)
                mine = (place < R) & (step + place < length)
                tl.store(B_parts + n * total + at + place, B_sums, mask=mine)
                tl.store(C_parts + n * total + at + place, C_sums, mask=mine)
            for r in tl.static_range(R):
                mask = (step + r < length) & there
                u, passed = _step(dt + here + r * D, bias, mask)
                value = tl.load(x + here + r * D, mask=mask, other=0.0).to(tl.float32)
                grad = straight * grads[r] + passed * into[r]
                tl.store(grad_x + here + r * D, grad.to(grad_x.dtype.element_ty), mask=mask)
                grad = (through[r] + value * into[r]) * sigmoid(u)
                bias_sum += grad
                tl.store(grad_dt + here + r * D, grad.to(grad_dt.dtype.element_ty), mask=mask)
                if GATED:
                    gate = tl.load(z + at * Z_STRIDE + lane + r * Z_STRIDE, mask=mask, other=0.0).to(tl.float32)
                    share = sigmoid(gate)
                    grad = tl.load(grad_y + here + r * D, mask=mask, other=0.0).to(tl.float32) * y_rows[r]
                    grad *= share * (1.0 + gate * (1.0 - share))
                    tl.store(grad_z + here + r * D, grad.to(grad_z.dtype.element_ty), mask=mask)
            # All warps read what the first has carried back.
            tl.debug_barrier()
    tl.store(skip_parts + (group * W + warp) * D + lane, skip_sum, mask=there)
    tl.store(bias_parts + (group * W + warp) * D + lane, bias_sum, mask=there)


@triton.jit
def _back_across_warps(f_run, g_run, W: tl.constexpr, C: tl.constexpr):
    """Scan maps [W, C] from the last warp to the first: as `_across_warps` does the other way."""
    ones = tl.full([W, C], 1.0, tl.float32)
    nothing = tl.zeros([W, C], tl.float32)
    return tl.associative_scan((f_run, g_run, ones, nothing), 0, _then_exclusive, reverse=True)


def _launch(
    forward: bool, x: Tensor, rows: Sequence[Tensor], cu_seqlens: Tensor | None, *arguments: Tensor, **constants: bool
) -> None:
    """Launch a kernel with tensors of the shape of x; rows are z, B and C."""
    sequences, bounds, order = count_sequences(x, cu_seqlens), x, x
    if cu_seqlens is not None:
        # The longest are begun first, so that programs end at about the same time.
        bounds = cu_seqlens.contiguous()
        order = bounds.diff().argsort(descending=True, stable=True)
    strides = dict(zip(("Z_STRIDE", "B_STRIDE", "C_STRIDE"), (each.stride(1) for each in rows), strict=True))
    packed = cu_seqlens is not None
    launch = _settle(forward, *x.shape, sequences, N=rows[1].shape[2], PACKED=packed, **strides, **constants)
    launch(*arguments, bounds, order)


@settled
def _settle(forward: bool, batch: int, steps: int, channels: int, sequences: int, **constants: int) -> Launch:
    kernel, cut = (_forward, FORWARD) if forward else (_backward, BACKWARD)
    groups = _groups(sequences, channels, cut)
    return Launch(
        kernel, (groups * triton.cdiv(channels, cut.channels),), steps, batch * steps, sequences, groups,
        D=channels, R=_TILE // cut.warps, W=cut.warps, WIDTH=cut.channels,
        num_warps=cut.warps, maxnreg=cut.registers, **constants,
    )  # fmt: skip


def _groups(sequences: int, channels: int, cut: Cut) -> int:
    """How many programs share the sequences, for each block of channels: group g of G takes those in turn g, g + G, ..."""
    return min(sequences, triton.cdiv(_PROGRAMS, triton.cdiv(channels, cut.channels)))


def kept(sequences: int, steps: int) -> int:
    """How many states of a channel `forward` returns for so many sequences of so many steps together."""
    return sequences + steps // _TILE


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    z: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute y [B, T, D] in x's dtype, and states, float32 [kept, N, D].

    These are the last of each of the S sequences, 0 of an empty one, and then those between tiles: of a sequence that begins at
    step t of all, the state after its tile i lies at S + t // 64 + i. No two share a place, since between t and the next
    sequence's t' there are at least as many multiples of 64 as boundaries between tiles. Places that are left over are undefined.

    Of x and dt contiguous copies are made where they are not; the channels of z, B and C must lie side by side.
    """
    x, dt = x.contiguous(), dt.contiguous()
    rows = [_rows(each) for each in (x if z is None else z, B, C)]
    y = torch.empty_like(x)
    sequences = count_sequences(x, cu_seqlens)
    places = kept(sequences, x.shape[0] * x.shape[1])
    states = torch.empty(places, A.shape[1], x.shape[2], dtype=torch.float32, device=x.device)
    states[:sequences].zero_()
    _launch(
        True, x, rows, cu_seqlens,
        x, dt, *_constants(A, D, dt_bias, rows), y, states, GATED=z is not None,
    )  # fmt: skip
    return y, states


def backward(
    grad_y: Tensor,
    grad_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    z: Tensor | None,
    cu_seqlens: Tensor | None,
    states: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients from those of y and of the last states, [S, N, D] or None.

    Returns:
        Those of x, dt, A, B, C, D, dt_bias and z, empty without one, in the dtypes of these.
    """
    x, dt, grad_y = x.contiguous(), dt.contiguous(), grad_y.contiguous()
    rows = [_rows(each) for each in (x if z is None else z, B, C)]
    batch, steps, channels = x.shape
    count, blocks = A.shape[1], triton.cdiv(channels, BACKWARD.channels)
    groups = _groups(count_sequences(x, cu_seqlens), channels, BACKWARD)

    def room(*sizes: int) -> Tensor:
        return torch.empty(*sizes, dtype=torch.float32, device=x.device)

    grad_x, grad_dt = torch.empty_like(x), torch.empty_like(dt)
    grad_z = torch.empty(0 if z is None else z.shape, dtype=rows[0].dtype, device=x.device)
    A_parts = room(groups * BACKWARD.warps, count, channels).zero_()
    skip_parts, bias_parts = (room(groups * BACKWARD.warps, channels) for _ in range(2))
    B_parts, C_parts = (room(blocks, count, batch * steps) for _ in range(2))
    _launch(
        False, x, rows, cu_seqlens,
        grad_y, x if grad_final is None else grad_final.float().contiguous(),
        x, dt, *_constants(A, D, dt_bias, rows), states,
        grad_x, grad_dt, grad_z, A_parts, B_parts, C_parts, skip_parts, bias_parts, room(groups, count, channels),
        GATED=z is not None, FINAL=grad_final is not None,
    )  # fmt: skip
    grad_B, grad_C = (parts.sum(0).t().contiguous().view(batch, steps, count) for parts in (B_parts, C_parts))
    return (
        grad_x,
        grad_dt,
        A_parts.sum(0).t().contiguous().to(A.dtype),
        grad_B.to(B.dtype),
        grad_C.to(C.dtype),
        skip_parts.sum(0).to(D.dtype),
        bias_parts.sum(0).to(dt_bias.dtype),
        grad_z,
    )


def _constants(A: Tensor, D: Tensor, dt_bias: Tensor, rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A as kernels read it, [N, D], and what follows it among their arguments."""
    z, B, C = rows
    return A.t().float().contiguous(), B, C, D.contiguous(), dt_bias.contiguous(), z


def _rows(x: Tensor) -> Tensor:
    """x [B, T, C] with its rows at one distance, and the elements of each side by side; a copy if it is not so."""
    apart = x.stride(1)
    return x if x.stride(2) == 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * apart) else x.contiguous()
