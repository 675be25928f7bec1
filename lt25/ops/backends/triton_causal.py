"""The short causal convolution on a GPU, `lt25.ops.causal_conv`: one pass over the data forward, and one backward.

Each warp of a program goes through a run of steps one after the other. It keeps in registers what later steps need: the last
K - 1 inputs, and backward also the sums that are to be the gradients of these. So every step is read once, and its exponential
is computed once, but for the K - 1 before a run, and backward those after it. A program sums the gradients of weight and bias
over its steps; a second kernel sums over programs, always in the same order. The kernels take the weight as [K, C], so that
neighboring channels are neighbors in memory.

At 8 x 4096 steps of 2304 channels in bfloat16 forward reads and writes 302 MB, 0.075 ms at 4 TB/s, and backward 453 MB and, for
its sums, twice 6 MB.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_conv import _sequence
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import sigmoid
from lt25.ops.backends.triton_rows import sum_parts

# Arguments on whose values Triton does not specialize, so that batches of other lengths need no new compilation.
_NUMBERS = ("T", "tiles")


class Cut(NamedTuple):
    """What a program takes.

    Attributes:
        warps: warps of a program, each with a run of steps of its own.
        channels: channels of a program: four to a thread make loads of 8 bytes in half precision.
        run: steps of a warp.
        chunk: steps of which a warp reads all before it computes the first; divides a run.
    """

    warps: int
    channels: int
    run: int
    chunk: int


FORWARD, BACKWARD = Cut(4, 128, 16, 8), Cut(4, 64, 64, 8)


@triton.jit(do_not_specialize=("steps", "sequences"))
def _ages(cu_seqlens, ages, steps, sequences, HALVINGS: tl.constexpr, BLOCK: tl.constexpr):
    """How many steps of its sequence are before each step."""
    step = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    start, _ = _sequence(tl.minimum(step, steps - 1), cu_seqlens, sequences, steps, True, HALVINGS)
    tl.store(ages + step, step - start, mask=step < steps)


@triton.jit
def _place(tiles, C: tl.constexpr, W: tl.constexpr, RUN: tl.constexpr, WIDTH: tl.constexpr):
    """The sequence of a program, the first step of each of its warps [W, 1], and its channels [1, WIDTH]."""
    # Programs that begin together have neighbouring channels of the same steps.
    BLOCKS: tl.constexpr = triton.cdiv(C, WIDTH)
    part = tl.program_id(0) // BLOCKS
    channel = (tl.program_id(0) % BLOCKS) * WIDTH + tl.arange(0, WIDTH)[None, :]
    return part // tiles, (part % tiles) * (W * RUN) + tl.arange(0, W)[:, None] * RUN, channel


@triton.jit
def _parameters(
    weight, bias, channel, C: tl.constexpr, K: tl.constexpr, BIASED: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr
):
    """The taps by their lags and the bias, each [W, WIDTH], the same for all warps."""
    lane = channel + tl.zeros([W, WIDTH], tl.int32)
    taps = ()
    for lag in tl.static_range(K):
        taps = taps + (tl.load(weight + (K - 1 - lag) * C + lane, mask=lane < C, other=0.0).to(tl.float32),)  # noqa: RUF005
    start = tl.zeros([W, WIDTH], tl.float32)
    if BIASED:
        start = tl.load(bias + lane, mask=lane < C, other=0.0).to(tl.float32)
    return taps, start


@triton.jit
def _before(x, step, T, there, K: tl.constexpr, STRIDE: tl.constexpr):
    """The K - 1 inputs before a step, by their lags from 1 on."""
    earlier = ()
    for lag in tl.static_range(1, K):
        value = tl.load(x - lag * STRIDE, mask=(step >= lag) & (step < T) & there, other=0.0)
        earlier = earlier + (value.to(tl.float32),)  # noqa: RUF005
    return earlier


@triton.jit
def _within(seen, age, K: tl.constexpr, PACKED: tl.constexpr):
    """Of inputs by their lags, those of the step's own sequence, and 0."""
    if PACKED:
        own = ()
        for lag in tl.static_range(K):
            own = own + (tl.where(age >= lag, seen[lag], 0.0),)  # noqa: RUF005
        return own
    else:
        return seen


@triton.jit(do_not_specialize=_NUMBERS)
def _forward(
    x, weight, bias, ages, y, apart, T, tiles,
    C: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BIASED: tl.constexpr, PACKED: tl.constexpr,
    SILU: tl.constexpr, W: tl.constexpr, RUN: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, step, channel = _place(tiles, C, W, RUN, WIDTH)
    taps, start = _parameters(weight, bias, channel, C, K, BIASED, W, WIDTH)
    there = channel < C
    x += tl.cast(row, tl.int64) * apart + tl.cast(step, tl.int64) * STRIDE + channel
    y += (tl.cast(row, tl.int64) * T + step) * C + channel
    ages += step
    earlier = _before(x, step, T, there, K, STRIDE)
    for at in range(0, tl.minimum(RUN, T), CHUNK):
        values = ()
        for r in tl.static_range(CHUNK):
            mask = (step + at + r < T) & there
            values = values + (tl.load(x + at * STRIDE + r * STRIDE, mask=mask, other=0.0),)  # noqa: RUF005
        for r in tl.static_range(CHUNK):
            seen = (values[r].to(tl.float32),) + earlier  # noqa: RUF005
            age = tl.load(ages + at + r, mask=step + at + r < T, other=0) if PACKED else 0
            own = _within(seen, age, K, PACKED)
            total = start
            for lag in tl.static_range(K):
                total += taps[lag] * own[lag]
            if SILU:
                total *= sigmoid(total)
            tl.store(y + at * C + r * C, total.to(y.dtype.element_ty), mask=(step + at + r < T) & there)
            earlier = seen[: K - 1]


@triton.jit
def _step_back(
    value, grad, age, earlier, later, taps, start,
    K: tl.constexpr, PACKED: tl.constexpr, SILU: tl.constexpr, W: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Go on by a step: the gradient of what goes into SiLU, the inputs by their lags, and the sums for the gradients of these."""
    seen = (value.to(tl.float32),) + earlier  # noqa: RUF005
    own = _within(seen, age, K, PACKED)
    grad = grad.to(tl.float32)
    if SILU:
        total = start
        for lag in tl.static_range(K):
            total += taps[lag] * own[lag]
        share = sigmoid(total)
        grad *= share * (1.0 + total * (1.0 - share))
    open_sums = (tl.zeros([W, WIDTH], tl.float32),) + later  # noqa: RUF005
    sums = ()
    for lag in tl.static_range(K):
        reached = tl.where(age >= lag, grad, 0.0) if PACKED else grad
        sums = sums + (open_sums[lag] + taps[lag] * reached,)  # noqa: RUF005
    return grad, seen, own, sums


@triton.jit(do_not_specialize=_NUMBERS)
def _backward(
    grad_y, x, weight, bias, ages, grad_x, parts, apart, T, tiles,
    C: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BIASED: tl.constexpr, PACKED: tl.constexpr,
    SILU: tl.constexpr, W: tl.constexpr, RUN: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, step, channel = _place(tiles, C, W, RUN, WIDTH)
    taps, start = _parameters(weight, bias, channel, C, K, BIASED, W, WIDTH)
    there = channel < C
    x += tl.cast(row, tl.int64) * apart + tl.cast(step, tl.int64) * STRIDE + channel
    here = (tl.cast(row, tl.int64) * T + step) * C + channel
    grad_y += here
    # Of the earliest input that a step reads, whose gradient is then complete.
    grad_x += here - (K - 1) * C
    ages += step
    earlier = _before(x, step, T, there, K, STRIDE)
    later = ()
    for _ in tl.static_range(K - 1):
        later = later + (tl.zeros([W, WIDTH], tl.float32),)  # noqa: RUF005
    tap_sums = ()
    for _ in tl.static_range(K):
        tap_sums = tap_sums + (tl.zeros([W, WIDTH], tl.float32),)  # noqa: RUF005
    bias_sum = tl.zeros([W, WIDTH], tl.float32)
    for at in range(0, RUN, CHUNK):
        values = ()
        grads = ()
        for r in tl.static_range(CHUNK):
            mask = (step + at + r < T) & there
            values = values + (tl.load(x + at * STRIDE + r * STRIDE, mask=mask, other=0.0),)  # noqa: RUF005
            grads = grads + (tl.load(grad_y + at * C + r * C, mask=mask, other=0.0),)  # noqa: RUF005
        for r in tl.static_range(CHUNK):
            age = tl.load(ages + at + r, mask=step + at + r < T, other=0) if PACKED else 0
            grad, seen, own, sums = _step_back(
                values[r], grads[r], age, earlier, later, taps, start, K, PACKED, SILU, W, WIDTH
            )
            mask = (at + r >= K - 1) & (step + at + r - (K - 1) < T) & there
            tl.store(grad_x + at * C + r * C, sums[K - 1].to(grad_x.dtype.element_ty), mask=mask)
            added = ()
            for lag in tl.static_range(K):
                added = added + (tap_sums[lag] + grad * own[lag],)  # noqa: RUF005
            tap_sums = added
            bias_sum += grad
            earlier = seen[: K - 1]
            later = sums[: K - 1]
    # Steps of the next run read the last of this one.
    for r in tl.static_range(K - 1):
        mask = (step + RUN + r < T) & there
        value = tl.load(x + (RUN + r) * STRIDE, mask=mask, other=0.0)
        grad = tl.load(grad_y + (RUN + r) * C, mask=mask, other=0.0)
        age = tl.load(ages + RUN + r, mask=step + RUN + r < T, other=0) if PACKED else 0
        _, seen, _, sums = _step_back(value, grad, age, earlier, later, taps, start, K, PACKED, SILU, W, WIDTH)
        mask = (RUN + r >= K - 1) & (step + RUN + r - (K - 1) < T) & there
        tl.store(grad_x + (RUN + r) * C, sums[K - 1].to(grad_x.dtype.element_ty), mask=mask)
        earlier = seen[: K - 1]
        later = sums[: K - 1]
    rows: tl.constexpr = K + 1 if BIASED else K
    parts += tl.cast(tl.program_id(0) // triton.cdiv(C, WIDTH), tl.int64) * (rows * C) + channel
    for lag in tl.static_range(K):
        tl.store(parts + (K - 1 - lag) * C, tl.sum(tap_sums[lag], 0)[None, :], mask=there)
    if BIASED:
        tl.store(parts + K * C, tl.sum(bias_sum, 0)[None, :], mask=there)


@settled
def _launch(
    backward: bool,
    batch: int,
    time: int,
    channels: int,
    apart: int,
    stride: int,
    size: int,
    biased: bool,
    packed: bool,
    silu: bool,
) -> Launch:
    """Of x [batch, time, channels], whose sequences and steps lie so far apart, and a weight [..., size]."""
    kernel, cut = (_backward, BACKWARD) if backward else (_forward, FORWARD)
    tiles = triton.cdiv(time, cut.warps * cut.run)
    return Launch(
        kernel, (batch * tiles * triton.cdiv(channels, cut.channels),), apart, time, tiles,
        C=channels, K=size, STRIDE=stride, BIASED=biased, PACKED=packed, SILU=silu,
        W=cut.warps, RUN=cut.run, CHUNK=cut.chunk, WIDTH=cut.channels, num_warps=cut.warps,
    )  # fmt: skip


@settled
def _launch_ages(steps: int, sequences: int) -> Launch:
    # Halvings from all sequences to one.
    halvings = max(1, sequences).bit_length()
    return Launch(_ages, (triton.cdiv(steps, 1024),), steps, sequences, HALVINGS=halvings, BLOCK=1024)


def _settle(
    backward: bool, x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool
) -> tuple[Launch, tuple[Tensor, ...]]:
    """The launch, and x, the weight, the bias and the ages as kernels take them."""
    x = x if x.stride(2) == 1 else x.contiguous()
    packed, biased = cu_seqlens is not None, bias is not None
    launch = _launch(backward, *x.shape, *x.stride()[:2], weight.shape[1], biased, packed, silu)
    ages = x
    if cu_seqlens is not None:
        ages = torch.empty(x.shape[1], dtype=torch.int32, device=x.device)
        _launch_ages(x.shape[1], len(cu_seqlens) - 1)(cu_seqlens.contiguous(), ages)
    return launch, (x, weight.t().contiguous(), x if bias is None else bias.contiguous(), ages)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool) -> Tensor:
    """[B, T, C] in x's dtype, contiguous."""
    y = x.new_empty(x.shape)
    launch, given = _settle(False, x, weight, bias, cu_seqlens, silu)
    launch(*given, y)
    return y


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, empty without one, in their dtypes."""
    channels, size = weight.shape
    grad_x = x.new_empty(x.shape)
    launch, given = _settle(True, x, weight, bias, cu_seqlens, silu)
    programs = launch.grid[0] // triton.cdiv(channels, BACKWARD.channels)
    rows = size if bias is None else size + 1
    parts = torch.empty(programs, rows * channels, dtype=torch.float32, device=x.device)
    launch(grad_y.contiguous(), *given, grad_x, parts)
    sums = sum_parts(parts).view(rows, channels)
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(sums[:size].t())
    return grad_x, grad_weight, weight.new_empty(0) if bias is None else sums[size].to(bias.dtype)
