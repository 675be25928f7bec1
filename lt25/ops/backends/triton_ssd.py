"""The scan of Mamba-2 on a GPU, chunk by chunk: `lt25.ops.ssd_scan`.

x of all heads, B and C of all groups are read where the convolution left them, side by side in the channels of a token, and their
gradients are written so: nothing is repeated for the heads that share it, and neither dt x nor D x is ever in memory. Programs
have one chunk of one sequence, or go through all of them. The sum of the logarithms of the decays from the start of a chunk to a
step is its ``g``. In the kernels' names for them, v, k and q are x, B and C, of P and S columns.

What Triton 3.4 to 3.7.0 compile wrongly for Hopper GPUs is avoided, see `lt25.models.fla_hopper`: scores are computed both ways
round, loops load no tile ahead where a tile has two uses, and products that are added to something are scaled first, by 1.
"""

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2
from lt25.ops.ssd import CHUNK

# Heads of a program that computes outputs: the more there are, the less often queries and keys are read.
_HEADS = 8
# Fewer programs leave multiprocessors idle, so each has fewer heads then.
_PROGRAMS = 264
# Columns of a state that a program takes through all chunks.
_COLUMNS = 64


@triton.jit
def _exp(v):
    return exp2(v * LOG2_E)


@triton.jit(do_not_specialize=("steps", "scale"))
def _states(x, d, g, h, last, steps, scale,
            HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
            BP: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """A program has BS columns of the state of one head, which it writes at the start of each chunk."""
    BLOCKS: tl.constexpr = (S + BS - 1) // BS
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    place = tl.program_id(0)
    block = place % BLOCKS
    head = place // BLOCKS % HEADS
    sequence = (place // (BLOCKS * HEADS)).to(tl.int64)
    of_k = HEADS * P + head // (HEADS // GROUPS) * S
    chunks = tl.cdiv(steps, C)

    places = tl.arange(0, C)
    values = tl.arange(0, BP)
    columns = block * BS + tl.arange(0, BS)
    of_state = values[:, None] * S + columns[None, :]
    inside = (values < P)[:, None] & (columns < S)[None, :]
    state = tl.zeros([BP, BS], tl.float32)
    for chunk in tl.range(0, chunks):
        tl.store(h + ((sequence * chunks + chunk) * HEADS + head) * (P * S) + of_state, state, mask=inside)
        rows = chunk * C + places
        there = rows < steps
        row = sequence * steps + rows
        end = sequence * steps + tl.minimum(chunk * C + C, steps) - 1
        gate = tl.load(g + row * HEADS + head, mask=there, other=0.0)
        total = tl.load(g + end * HEADS + head)
        weight = tl.load(d + row * HEADS + head, mask=there, other=0.0) * _exp(tl.where(there, total - gate, 0.0))
        v = tl.load(
            x + row[:, None] * CHANNELS + head * P + values[None, :],
            mask=there[:, None] & (values < P)[None, :],
            other=0.0,
        )
        k = tl.load(
            x + row[:, None] * CHANNELS + of_k + columns[None, :],
            mask=there[:, None] & (columns < S)[None, :],
            other=0.0,
        )
        written = (v.to(tl.float32) * weight[:, None]).to(k.dtype)
        state = tl.dot(tl.trans(written), k, input_precision="ieee") * scale + state * _exp(total)
    tl.store(last + (sequence * HEADS + head) * (P * S) + of_state, state, mask=inside)


@triton.jit(do_not_specialize=("steps", "scale"))
def _outputs(x, d, g, h, skip, o, steps, scale,
             HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
             BP: tl.constexpr, BS: tl.constexpr, OWN: tl.constexpr):  # fmt: skip
    """A program has one chunk and OWN heads of a group."""
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    chunks = tl.cdiv(steps, C)
    place = tl.program_id(0)
    first = place % (HEADS // OWN) * OWN
    chunk = (place // (HEADS // OWN)).to(tl.int64)
    start = chunk % chunks * C
    of_k = HEADS * P + first // (HEADS // GROUPS) * S

    places = tl.arange(0, C)
    values = tl.arange(0, BP)
    columns = tl.arange(0, BS)
    there = start + places < steps
    row = chunk // chunks * steps + start + places
    wide = there[:, None] & (columns < S)[None, :]
    narrow = there[:, None] & (values < P)[None, :]
    k = tl.load(x + row[:, None] * CHANNELS + of_k + columns[None, :], mask=wide, other=0.0)
    q = tl.load(x + row[:, None] * CHANNELS + of_k + GROUPS * S + columns[None, :], mask=wide, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    earlier = (places[:, None] >= places[None, :]) & there[:, None]
    for head in tl.range(first, first + OWN, num_stages=1):
        gate = tl.load(g + row * HEADS + head, mask=there, other=0.0)
        step = tl.load(d + row * HEADS + head, mask=there, other=0.0)
        v = tl.load(x + row[:, None] * CHANNELS + head * P + values[None, :], mask=narrow, other=0.0)
        of_state = (chunk * HEADS + head) * (P * S) + values[:, None] * S + columns[None, :]
        state = tl.load(h + of_state, mask=(values < P)[:, None] & (columns < S)[None, :], other=0.0)
        weights = tl.where(
            earlier, scores * _exp(tl.where(earlier, gate[:, None] - gate[None, :], 0.0)) * step[None, :], 0.0
        )
        from_state = tl.dot(q, tl.trans(state), input_precision="ieee") * (_exp(gate) * scale)[:, None]
        within = tl.dot(weights.to(v.dtype), v, input_precision="ieee") * scale
        skipped = v.to(tl.float32) * tl.load(skip + head * P + values, mask=values < P, other=0.0)[None, :]
        result = from_state + within + skipped
        tl.store(o + row[:, None] * (HEADS * P) + head * P + values[None, :], result, mask=narrow)


@triton.jit(do_not_specialize=("steps", "scale"))
def _state_gradients(x, g, do, dlast, dh, steps, scale,
                     HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
                     BP: tl.constexpr, BS: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """As `_states`, from the last chunk to the first: gradients of the states at the ends of chunks."""
    BLOCKS: tl.constexpr = (S + BS - 1) // BS
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    place = tl.program_id(0)
    block = place % BLOCKS
    head = place // BLOCKS % HEADS
    sequence = (place // (BLOCKS * HEADS)).to(tl.int64)
    of_q = HEADS * P + (GROUPS + head // (HEADS // GROUPS)) * S
    chunks = tl.cdiv(steps, C)

    places = tl.arange(0, C)
    values = tl.arange(0, BP)
    columns = block * BS + tl.arange(0, BS)
    of_state = values[:, None] * S + columns[None, :]
    inside = (values < P)[:, None] & (columns < S)[None, :]
    grad = tl.zeros([BP, BS], tl.float32)
    if LAST:
        grad += tl.load(dlast + (sequence * HEADS + head) * (P * S) + of_state, mask=inside, other=0.0)
    for done in tl.range(0, chunks):
        chunk = chunks - 1 - done
        tl.store(dh + ((sequence * chunks + chunk) * HEADS + head) * (P * S) + of_state, grad, mask=inside)
        rows = chunk * C + places
        there = rows < steps
        row = sequence * steps + rows
        end = sequence * steps + tl.minimum(chunk * C + C, steps) - 1
        gate = tl.load(g + row * HEADS + head, mask=there, other=0.0)
        total = tl.load(g + end * HEADS + head)
        of_o = do + row[:, None] * (HEADS * P) + head * P + values[None, :]
        grad_o = tl.load(of_o, mask=there[:, None] & (values < P)[None, :], other=0.0)
        q = tl.load(
            x + row[:, None] * CHANNELS + of_q + columns[None, :],
            mask=there[:, None] & (columns < S)[None, :],
            other=0.0,
        )
        read = (grad_o.to(tl.float32) * _exp(gate)[:, None]).to(q.dtype)
        grad = tl.dot(tl.trans(read), q, input_precision="ieee") * scale + grad * _exp(total)


@triton.jit(do_not_specialize=("steps", "scale"))
def _value_gradients(x, d, g, h, skip, do, dh, dx, dd, dg, dskip, steps, scale,
                     HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
                     BP: tl.constexpr, BS: tl.constexpr, OWN: tl.constexpr):  # fmt: skip
    """As `_outputs`: gradients of all but keys and queries."""
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    chunks = tl.cdiv(steps, C)
    place = tl.program_id(0)
    first = place % (HEADS // OWN) * OWN
    chunk = (place // (HEADS // OWN)).to(tl.int64)
    start = chunk % chunks * C
    of_k = HEADS * P + first // (HEADS // GROUPS) * S

    places = tl.arange(0, C)
    values = tl.arange(0, BP)
    columns = tl.arange(0, BS)
    there = start + places < steps
    last = tl.minimum(steps - start, C) - 1
    row = chunk // chunks * steps + start + places
    wide = there[:, None] & (columns < S)[None, :]
    narrow = there[:, None] & (values < P)[None, :]
    k = tl.load(x + row[:, None] * CHANNELS + of_k + columns[None, :], mask=wide, other=0.0)
    q = tl.load(x + row[:, None] * CHANNELS + of_k + GROUPS * S + columns[None, :], mask=wide, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    turned = tl.dot(k, tl.trans(q), input_precision="ieee")
    earlier = (places[:, None] >= places[None, :]) & there[:, None]
    later = (places[:, None] <= places[None, :]) & there[None, :]
    for head in tl.range(first, first + OWN, num_stages=1):
        gate = tl.load(g + row * HEADS + head, mask=there, other=0.0)
        total = tl.load(g + (chunk // chunks * steps + start + last) * HEADS + head)
        step = tl.load(d + row * HEADS + head, mask=there, other=0.0)
        v = tl.load(x + row[:, None] * CHANNELS + head * P + values[None, :], mask=narrow, other=0.0)
        grad_o = tl.load(do + row[:, None] * (HEADS * P) + head * P + values[None, :], mask=narrow, other=0.0)
        of_state = (chunk * HEADS + head) * (P * S) + values[:, None] * S + columns[None, :]
        inside = (values < P)[:, None] & (columns < S)[None, :]
        state = tl.load(h + of_state, mask=inside, other=0.0)
        grad_state = tl.load(dh + of_state, mask=inside, other=0.0)
        carried = tl.sum(tl.sum(state.to(tl.float32) * grad_state.to(tl.float32), 1), 0)
        between = gate[:, None] - gate[None, :]

        # Of dt x, with which the state is written.
        weights = turned * tl.where(later, _exp(tl.where(later, -between, 0.0)), 0.0)
        to_the_end = tl.where(there, _exp(tl.where(there, total - gate, 0.0)), 0.0)
        at_the_end = tl.dot(k, tl.trans(grad_state), input_precision="ieee") * to_the_end[:, None]
        of_written = tl.dot(weights.to(v.dtype), grad_o, input_precision="ieee") * scale + at_the_end
        skipped = tl.load(skip + head * P + values, mask=values < P, other=0.0)
        of_v = of_written * step[:, None] + grad_o.to(tl.float32) * skipped[None, :]
        tl.store(dx + row[:, None] * CHANNELS + head * P + values[None, :], of_v, mask=narrow)
        of_skip = tl.sum(grad_o.to(tl.float32) * v.to(tl.float32), 0)
        tl.store(dskip + (chunk * HEADS + head) * P + values, of_skip, mask=values < P)
        of_step = tl.sum(of_written * v.to(tl.float32), 1)
        tl.store(dd + row * HEADS + head, of_step, mask=there)

        # An output grows with the sum of its own step, and shrinks with those of the steps that it reads.
        weights = scores * tl.where(earlier, _exp(tl.where(earlier, between, 0.0)), 0.0) * step[None, :]
        result = tl.dot(q, tl.trans(state), input_precision="ieee") * (_exp(gate) * scale)[:, None]
        result += tl.dot(weights.to(v.dtype), v, input_precision="ieee") * scale
        of_gate = tl.sum(grad_o.to(tl.float32) * result, 1) - step * of_step
        of_total = tl.sum(step * tl.sum(at_the_end * v.to(tl.float32), 1), 0) + carried * _exp(total)
        of_gate += tl.where(places == last, of_total, 0.0)
        tl.store(dg + row * HEADS + head, of_gate, mask=there)


@triton.jit(do_not_specialize=("steps", "tokens", "scale"))
def _key_gradients(x, d, g, h, do, dh, parts, steps, tokens, scale,
                   HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
                   BP: tl.constexpr, BS: tl.constexpr, OWN: tl.constexpr):  # fmt: skip
    """As `_outputs`: a part of the gradients of keys and queries."""
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    PARTS: tl.constexpr = HEADS // GROUPS // OWN
    chunks = tl.cdiv(steps, C)
    place = tl.program_id(0)
    first = place % (HEADS // OWN) * OWN
    chunk = (place // (HEADS // OWN)).to(tl.int64)
    start = chunk % chunks * C
    group = first // (HEADS // GROUPS)
    of_k = HEADS * P + group * S

    places = tl.arange(0, C)
    values = tl.arange(0, BP)
    columns = tl.arange(0, BS)
    there = start + places < steps
    last = tl.minimum(steps - start, C) - 1
    row = chunk // chunks * steps + start + places
    wide = there[:, None] & (columns < S)[None, :]
    narrow = there[:, None] & (values < P)[None, :]
    earlier = (places[:, None] >= places[None, :]) & there[:, None]
    later = (places[:, None] <= places[None, :]) & there[None, :]
    of_q = tl.zeros([C, BS], tl.float32)
    of_keys = tl.zeros([C, BS], tl.float32)
    of_scores = tl.zeros([C, C], tl.float32)
    of_turned = tl.zeros([C, C], tl.float32)
    for head in tl.range(first, first + OWN, num_stages=1):
        gate = tl.load(g + row * HEADS + head, mask=there, other=0.0)
        total = tl.load(g + (chunk // chunks * steps + start + last) * HEADS + head)
        step = tl.load(d + row * HEADS + head, mask=there, other=0.0)
        v = tl.load(x + row[:, None] * CHANNELS + head * P + values[None, :], mask=narrow, other=0.0)
        grad_o = tl.load(do + row[:, None] * (HEADS * P) + head * P + values[None, :], mask=narrow, other=0.0)
        of_state = (chunk * HEADS + head) * (P * S) + values[:, None] * S + columns[None, :]
        inside = (values < P)[:, None] & (columns < S)[None, :]
        state = tl.load(h + of_state, mask=inside, other=0.0)
        grad_state = tl.load(dh + of_state, mask=inside, other=0.0)
        between = gate[:, None] - gate[None, :]
        decay = tl.where(earlier, _exp(tl.where(earlier, between, 0.0)), 0.0)
        of_scores += tl.dot(grad_o, tl.trans(v), input_precision="ieee") * (decay * step[None, :])
        decay = tl.where(later, _exp(tl.where(later, -between, 0.0)), 0.0)
        of_turned += tl.dot(v, tl.trans(grad_o), input_precision="ieee") * (decay * step[:, None])
        of_q = tl.dot((grad_o.to(tl.float32) * _exp(gate)[:, None]).to(v.dtype), state, of_q, input_precision="ieee")
        left = step * tl.where(there, _exp(tl.where(there, total - gate, 0.0)), 0.0)
        of_keys = tl.dot((v.to(tl.float32) * left[:, None]).to(v.dtype), grad_state, of_keys, input_precision="ieee")

    part = (first // OWN % PARTS).to(tl.int64)
    to = parts + (part * tokens + row)[:, None] * (2 * GROUPS * S) + group * S + columns[None, :]
    k = tl.load(x + row[:, None] * CHANNELS + of_k + columns[None, :], mask=wide, other=0.0)
    q = tl.load(x + row[:, None] * CHANNELS + of_k + GROUPS * S + columns[None, :], mask=wide, other=0.0)
    tl.store(to, tl.dot(of_turned.to(q.dtype), q, input_precision="ieee") * scale + of_keys, mask=wide)
    tl.store(to + GROUPS * S, tl.dot(of_scores.to(k.dtype), k, input_precision="ieee") * scale + of_q, mask=wide)


@settled
def _carry(
    backward: bool, last: bool, sequences: int, steps: int, heads: int, groups: int, values: int, columns: int
) -> Launch:
    block = min(_COLUMNS, _block(columns))
    options = _options(heads, groups, values, columns) | {"BS": block, "num_warps": 4, "num_stages": 3}
    grid = (triton.cdiv(columns, block) * heads * sequences,)
    return (
        Launch(_state_gradients, grid, steps, 1.0, LAST=last, **options)
        if backward
        else Launch(_states, grid, steps, 1.0, **options)
    )


@settled
def _of_chunks(kernel: str, sequences: int, steps: int, heads: int, groups: int, values: int, columns: int) -> Launch:
    own, chunks = gcd(heads // groups, _HEADS), sequences * triton.cdiv(steps, CHUNK)
    options = _options(heads, groups, values, columns)
    if kernel == "outputs":
        return Launch(_outputs, (chunks * (heads // own),), steps, 1.0, OWN=own, num_warps=4, **options)
    if kernel == "values":
        return Launch(_value_gradients, (chunks * (heads // own),), steps, 1.0, OWN=own, num_warps=8, **options)
    own = heads // groups
    while own % 2 == 0 and chunks * (heads // own) < _PROGRAMS:
        own //= 2
    numbers = steps, sequences * steps, 1.0
    return Launch(_key_gradients, (chunks * (heads // own),), *numbers, OWN=own, num_warps=8, **options)


def _options(heads: int, groups: int, values: int, columns: int) -> dict[str, Any]:
    sizes = {"HEADS": heads, "GROUPS": groups, "P": values, "S": columns, "C": CHUNK}
    return {**sizes, "BP": _block(values), "BS": _block(columns)}


def _block(size: int) -> int:
    # Products have at least 16 columns.
    return max(triton.next_power_of_2(size), 16)


def _sizes(x: Tensor, skip: Tensor, groups: int) -> tuple[int, ...]:
    """Sequences, steps, heads, groups, P and S."""
    heads, values = skip.shape
    return x.shape[0], x.shape[1], heads, groups, values, (x.shape[2] - heads * values) // (2 * groups)


def forward(x: Tensor, d: Tensor, g: Tensor, skip: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs and states of all heads.

    Args:
        x: xBC of `lt25.ops.ssd_scan`, [B, T, channels].
        d: its dt, float32 [B, T, H].
        g: see above, float32 [B, T, H].
        skip: its D, float32 [H, P].
        groups: of heads.

    Returns:
        y [B, T, H P] in x's dtype; the states after the last step, float32 [B, H, P, S]; and those at the starts of chunks,
        [B, chunks, H, P, S] in x's dtype.
    """
    x, d, g, skip = x.contiguous(), d.contiguous(), g.contiguous(), skip.contiguous()
    sequences, steps, heads, _, values, columns = sizes = _sizes(x, skip, groups)
    h = x.new_empty(sequences, triton.cdiv(steps, CHUNK), heads, values, columns)
    last, o = d.new_empty(sequences, heads, values, columns), x.new_empty(sequences, steps, heads * values)
    _carry(False, True, *sizes)(x, d, g, h, last)
    _of_chunks("outputs", *sizes)(x, d, g, h, skip, o)
    return o, last, h


def backward(
    do: Tensor, dlast: Tensor | None, x: Tensor, d: Tensor, g: Tensor, skip: Tensor, groups: int, h: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute gradients.

    Args:
        do: gradient of y, [B, T, H P].
        dlast: of the states after the last step, float32 [B, H, P, S]; or None for zero.
        x, d, g, skip, groups, h: as `forward` takes and returns them.

    Returns:
        Gradients of x, in its dtype, and of d, g and skip, in float32.
    """
    x, d, g, skip, do = x.contiguous(), d.contiguous(), g.contiguous(), skip.contiguous(), do.contiguous()
    sequences, steps, heads, _, values, columns = sizes = _sizes(x, skip, groups)
    dh, given = torch.empty_like(h), dlast is not None
    # What stands for a gradient that is not there is not read.
    _carry(True, given, *sizes)(x, g, do, dlast.contiguous() if dlast is not None else g, dh)
    dx, dd, dg = torch.empty_like(x), torch.empty_like(d), torch.empty_like(d)
    dskip = d.new_empty(h.shape[0] * h.shape[1], heads, values)
    _of_chunks("values", *sizes)(x, d, g, h, skip, do, dh, dx, dd, dg, dskip)
    of_keys = _of_chunks("keys", *sizes)
    parts = d.new_empty(heads // groups // of_keys.constants["OWN"], sequences, steps, 2 * groups * columns)
    of_keys(x, d, g, h, do, dh, parts)
    dx[..., heads * values :] = parts.sum(0)
    return dx, dd, dg, dskip.sum(0)
