"""The scan of Mamba-2 on a GPU, chunk by chunk: `lt25.ops.ssd_scan`.

x of all heads, B and C of all groups are read where the convolution left them, side by side in the channels of a token, and their
gradients are written so: nothing is repeated for the heads that share it, and neither dt x nor D x is ever in memory. Programs
have one chunk of one sequence, or go through all of them. The sum of the logarithms of the decays from the start of a chunk to a
step is its ``g``. In the kernels' names for them, v, k and q are x, B and C, of P and S columns.

What Triton 3.4 to 3.7.0 compile wrongly for Hopper GPUs is avoided, see `lt25.models.fla_hopper`: scores are computed both ways
round, loops load no tile ahead where a tile has two uses, products that are added to something are scaled first, by 1, and no
tile of half precision is narrower than 64 columns.
"""

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_gla import place_of_chunk
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2
from lt25.ops.ssd import CHUNK, least_side

# Heads of a program that computes outputs or gradients of values: the more there are, the less often queries and keys are read.
_HEADS = 8
# Fewer programs leave multiprocessors idle, so each has fewer heads then.
_PROGRAMS = 264
# Columns of a state that a program takes through all chunks.
_COLUMNS = 128


@triton.jit
def _exp(v):
    return exp2(v * LOG2_E)


@triton.jit
def _decay(difference, kept):
    """exp(difference) where it is kept, else 0; no power is infinite, which times 0 would be no number."""
    return tl.where(kept, _exp(tl.where(kept, difference, 0.0)), 0.0)


@triton.jit
def _rows(chunk, steps, C: tl.constexpr):
    """The first step of a chunk, places in it, which of them are steps, and the last of these."""
    first, count = place_of_chunk(chunk, None, None, steps, tl.cdiv(steps, C), C)
    places = tl.arange(0, C)
    return first, places, places < count, count - 1


@triton.jit
def _tile(data, width, rows, there, columns, count):
    """So many columns of rows of a width; 0 where there is none."""
    inside = there[:, None] & (columns < count)[None, :]
    return tl.load(data + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _part_of_head(HEADS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr):
    """Of a program that goes through all chunks: head, sequence, block of columns, and its rows and columns of the state."""
    BLOCKS: tl.constexpr = (S + BS - 1) // BS
    place = tl.program_id(0)
    columns = place % BLOCKS * BS + tl.arange(0, BS)
    sequence = (place // (BLOCKS * HEADS)).to(tl.int64)
    return place // BLOCKS % HEADS, sequence, place % BLOCKS, tl.arange(0, BP), columns


@triton.jit
def _steps(d, g, of_head, places, there, end, HEADS: tl.constexpr):
    """The sums at a chunk's steps and at its end, and what steps are multiplied by; of_head: of its first step."""
    gate = tl.load(g + of_head + places * HEADS, mask=there, other=0.0)
    total = tl.load(g + of_head + end * HEADS)
    return gate, total, tl.load(d + of_head + places * HEADS, mask=there, other=0.0)


@triton.jit
def _heads_of_chunk(HEADS: tl.constexpr, OWN: tl.constexpr):
    """The chunk of a program, and the first of its heads."""
    place = tl.program_id(0)
    return (place // (HEADS // OWN)).to(tl.int64), place % (HEADS // OWN) * OWN


@triton.jit(do_not_specialize=("steps", "scale"))
def _states(x, d, g, h, last, steps, scale,
            HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
            BP: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """A program has BS columns of the state of one head, which it writes at the start of each chunk."""
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    head, sequence, _, values, columns = _part_of_head(HEADS, P, S, BP, BS)
    of_k = HEADS * P + head // (HEADS // GROUPS) * S
    of_state = values[:, None] * S + columns[None, :]
    inside = (values < P)[:, None] & (columns < S)[None, :]
    chunks = tl.cdiv(steps, C)
    state = tl.zeros([BP, BS], tl.float32)
    for number in tl.range(0, chunks):
        chunk = sequence * chunks + number
        tl.store(h + (chunk * HEADS + head) * (P * S) + of_state, state, mask=inside)
        first, places, there, end = _rows(chunk, steps, C)
        of_head = first * HEADS + head
        gate, total, step = _steps(d, g, of_head, places, there, end, HEADS)
        v = _tile(x + first * CHANNELS + head * P, CHANNELS, places, there, values, P)
        k = _tile(x + first * CHANNELS + of_k, CHANNELS, places, there, columns, S)
        written = (v.to(tl.float32) * (step * _decay(total - gate, there))[:, None]).to(k.dtype)
        state = tl.dot(tl.trans(written), k, input_precision="ieee") * scale + state * _exp(total)
    tl.store(last + (sequence * HEADS + head) * (P * S) + of_state, state, mask=inside)


@triton.jit(do_not_specialize=("steps", "scale"))
def _outputs(x, d, g, h, skip, o, dg, steps, scale,
             HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
             BP: tl.constexpr, BS: tl.constexpr, OWN: tl.constexpr, GRADIENTS: tl.constexpr):  # fmt: skip
    """A program has one chunk and OWN heads of a group. With GRADIENTS, o has those of the outputs, and dg is completed.

    What a step writes and reads itself does not decay. It is most of an output where decays are strong, so that its rounding,
    unless it is left out, would be most of what is left of these gradients.
    """
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    chunk, first_head = _heads_of_chunk(HEADS, OWN)
    of_k = HEADS * P + first_head // (HEADS // GROUPS) * S
    values = tl.arange(0, BP)
    columns = tl.arange(0, BS)
    first, places, there, _ = _rows(chunk, steps, C)
    x += first * CHANNELS
    k = _tile(x + of_k, CHANNELS, places, there, columns, S)
    q = _tile(x + of_k + GROUPS * S, CHANNELS, places, there, columns, S)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if GRADIENTS:
        earlier = (places[:, None] > places[None, :]) & there[:, None]
    else:
        earlier = (places[:, None] >= places[None, :]) & there[:, None]
    for head in tl.range(first_head, first_head + OWN, num_stages=1):
        of_head = first * HEADS + head + places * HEADS
        gate = tl.load(g + of_head, mask=there, other=0.0)
        step = tl.load(d + of_head, mask=there, other=0.0)
        v = _tile(x + head * P, CHANNELS, places, there, values, P)
        state = _tile(h + (chunk * HEADS + head) * (P * S), S, values, values < P, columns, S)
        weights = scores * _decay(gate[:, None] - gate[None, :], earlier) * step[None, :]
        result = tl.dot(q, tl.trans(state), input_precision="ieee") * (_exp(gate) * scale)[:, None]
        result += tl.dot(weights.to(v.dtype), v, input_precision="ieee") * scale
        of_outputs = o + first * (HEADS * P) + head * P
        if GRADIENTS:
            grad_o = _tile(of_outputs, HEADS * P, places, there, values, P)
            # An output grows with the sum of its own step.
            of_gate = tl.load(dg + of_head, mask=there, other=0.0)
            tl.store(dg + of_head, of_gate + tl.sum(grad_o.to(tl.float32) * result, 1), mask=there)
        else:
            result += v.to(tl.float32) * tl.load(skip + head * P + values, mask=values < P, other=0.0)[None, :]
            to = of_outputs + places[:, None] * (HEADS * P) + values[None, :]
            tl.store(to, result, mask=there[:, None] & (values < P)[None, :])


@triton.jit(do_not_specialize=("steps", "scale"))
def _state_gradients(x, g, h, do, dlast, dh, ends, steps, scale,
                     HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
                     BP: tl.constexpr, BS: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """As `_states`, from the last chunk to the first: gradients of the states at the ends of chunks.

    `ends` gets a part of the gradient of each chunk's last sum g: that by what is left of the chunk's first state at its end.
    """
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    BLOCKS: tl.constexpr = (S + BS - 1) // BS
    head, sequence, block, values, columns = _part_of_head(HEADS, P, S, BP, BS)
    of_q = HEADS * P + (GROUPS + head // (HEADS // GROUPS)) * S
    of_state = values[:, None] * S + columns[None, :]
    inside = (values < P)[:, None] & (columns < S)[None, :]
    chunks = tl.cdiv(steps, C)
    grad = tl.zeros([BP, BS], tl.float32)
    if LAST:
        grad += tl.load(dlast + (sequence * HEADS + head) * (P * S) + of_state, mask=inside, other=0.0)
    for done in tl.range(0, chunks):
        chunk = sequence * chunks + chunks - 1 - done
        tl.store(dh + (chunk * HEADS + head) * (P * S) + of_state, grad, mask=inside)
        first, places, there, end = _rows(chunk, steps, C)
        of_head = first * HEADS + head
        gate = tl.load(g + of_head + places * HEADS, mask=there, other=0.0)
        total = _exp(tl.load(g + of_head + end * HEADS))
        state = tl.load(h + (chunk * HEADS + head) * (P * S) + of_state, mask=inside, other=0.0).to(tl.float32)
        tl.store(ends + (chunk * HEADS + head) * BLOCKS + block, tl.sum(tl.sum(state * grad, 1), 0) * total)
        grad_o = _tile(do + first * (HEADS * P) + head * P, HEADS * P, places, there, values, P)
        q = _tile(x + first * CHANNELS + of_q, CHANNELS, places, there, columns, S)
        read = (grad_o.to(tl.float32) * _exp(gate)[:, None]).to(q.dtype)
        grad = tl.dot(tl.trans(read), q, input_precision="ieee") * scale + grad * total


@triton.jit(do_not_specialize=("steps", "scale"))
def _value_gradients(x, d, g, skip, do, dh, ends, dx, dd, dg, dskip, steps, scale,
                     HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
                     BP: tl.constexpr, BS: tl.constexpr, OWN: tl.constexpr, BLOCKS: tl.constexpr):  # fmt: skip
    """As `_outputs`: gradients of x, d and skip, and a part of dg."""
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    chunk, first_head = _heads_of_chunk(HEADS, OWN)
    of_k = HEADS * P + first_head // (HEADS // GROUPS) * S
    values = tl.arange(0, BP)
    columns = tl.arange(0, BS)
    first, places, there, end = _rows(chunk, steps, C)
    x += first * CHANNELS
    k = _tile(x + of_k, CHANNELS, places, there, columns, S)
    q = _tile(x + of_k + GROUPS * S, CHANNELS, places, there, columns, S)
    turned = tl.dot(k, tl.trans(q), input_precision="ieee")
    later = (places[:, None] < places[None, :]) & there[None, :]
    own = tl.sum(tl.where(places[:, None] == places[None, :], turned, 0.0), 1)
    for head in tl.range(first_head, first_head + OWN, num_stages=1):
        of_head = first * HEADS + head
        gate, total, step = _steps(d, g, of_head, places, there, end, HEADS)
        v = _tile(x + head * P, CHANNELS, places, there, values, P)
        grad_o = _tile(do + first * (HEADS * P) + head * P, HEADS * P, places, there, values, P)
        grad_state = _tile(dh + (chunk * HEADS + head) * (P * S), S, values, values < P, columns, S)

        # Of dt x, with which the state is written: by what later steps and chunks read, and by the step's own output.
        weights = turned * _decay(gate[None, :] - gate[:, None], later)
        at_the_end = tl.dot(k, tl.trans(grad_state), input_precision="ieee") * _decay(total - gate, there)[:, None]
        read_later = tl.dot(weights.to(v.dtype), grad_o, input_precision="ieee") * scale + at_the_end
        of_written = read_later + grad_o.to(tl.float32) * own[:, None]
        skipped = tl.load(skip + head * P + values, mask=values < P, other=0.0)
        of_v = of_written * step[:, None] + grad_o.to(tl.float32) * skipped[None, :]
        to = dx + first * CHANNELS + head * P + places[:, None] * CHANNELS + values[None, :]
        tl.store(to, of_v, mask=there[:, None] & (values < P)[None, :])
        of_skip = tl.sum(grad_o.to(tl.float32) * v.to(tl.float32), 0)
        tl.store(dskip + (chunk * HEADS + head) * P + values, of_skip, mask=values < P)
        tl.store(dd + of_head + places * HEADS, tl.sum(of_written * v.to(tl.float32), 1), mask=there)

        # Outputs shrink with the sums of the steps that they read.
        of_total = tl.sum(step * tl.sum(at_the_end * v.to(tl.float32), 1), 0)
        for block in tl.static_range(BLOCKS):
            of_total += tl.load(ends + (chunk * HEADS + head) * BLOCKS + block)
        of_gate = tl.where(places == end, of_total, 0.0) - step * tl.sum(read_later * v.to(tl.float32), 1)
        tl.store(dg + of_head + places * HEADS, of_gate, mask=there)


@triton.jit(do_not_specialize=("steps", "tokens", "scale"))
def _key_gradients(x, d, g, h, do, dh, parts, steps, tokens, scale,
                   HEADS: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
                   BP: tl.constexpr, BS: tl.constexpr, OWN: tl.constexpr):  # fmt: skip
    """As `_outputs`: a part of the gradients of keys and queries."""
    CHANNELS: tl.constexpr = HEADS * P + 2 * GROUPS * S
    PARTS: tl.constexpr = HEADS // GROUPS // OWN
    chunk, first_head = _heads_of_chunk(HEADS, OWN)
    group = first_head // (HEADS // GROUPS)
    of_k = HEADS * P + group * S
    values = tl.arange(0, BP)
    columns = tl.arange(0, BS)
    first, places, there, end = _rows(chunk, steps, C)
    x += first * CHANNELS
    earlier = (places[:, None] >= places[None, :]) & there[:, None]
    later = (places[:, None] <= places[None, :]) & there[None, :]
    of_q = tl.zeros([C, BS], tl.float32)
    of_keys = tl.zeros([C, BS], tl.float32)
    of_scores = tl.zeros([C, C], tl.float32)
    of_turned = tl.zeros([C, C], tl.float32)
    for head in tl.range(first_head, first_head + OWN, num_stages=1):
        of_head = first * HEADS + head
        gate, total, step = _steps(d, g, of_head, places, there, end, HEADS)
        v = _tile(x + head * P, CHANNELS, places, there, values, P)
        grad_o = _tile(do + first * (HEADS * P) + head * P, HEADS * P, places, there, values, P)
        state = _tile(h + (chunk * HEADS + head) * (P * S), S, values, values < P, columns, S)
        grad_state = _tile(dh + (chunk * HEADS + head) * (P * S), S, values, values < P, columns, S)
        between = gate[:, None] - gate[None, :]
        of_score = tl.dot(grad_o, tl.trans(v), input_precision="ieee")
        of_scores += of_score * (_decay(between, earlier) * step[None, :])
        of_score = tl.dot(v, tl.trans(grad_o), input_precision="ieee")
        of_turned += of_score * (_decay(-between, later) * step[:, None])
        read = (grad_o.to(tl.float32) * _exp(gate)[:, None]).to(v.dtype)
        of_q = tl.dot(read, state, of_q, input_precision="ieee")
        written = (v.to(tl.float32) * (step * _decay(total - gate, there))[:, None]).to(v.dtype)
        of_keys = tl.dot(written, grad_state, of_keys, input_precision="ieee")

    k = _tile(x + of_k, CHANNELS, places, there, columns, S)
    q = _tile(x + of_k + GROUPS * S, CHANNELS, places, there, columns, S)
    of_keys += tl.dot(of_turned.to(q.dtype), q, input_precision="ieee") * scale
    of_q += tl.dot(of_scores.to(k.dtype), k, input_precision="ieee") * scale
    part = (first_head // OWN % PARTS).to(tl.int64)
    parts += (part * tokens + first) * (2 * GROUPS * S) + group * S
    to = parts + places[:, None] * (2 * GROUPS * S) + columns[None, :]
    wide = there[:, None] & (columns < S)[None, :]
    tl.store(to, of_keys, mask=wide)
    tl.store(to + GROUPS * S, of_q, mask=wide)


@settled
def _forward_launches(*sizes: int) -> tuple[Launch, Launch]:
    """`_states` and `_outputs` of `_sizes`."""
    grid, options = _carried(sizes)
    return Launch(_states, grid, sizes[1], 1.0, **options), _of_heads(_outputs, sizes, _HEADS, 4, GRADIENTS=False)


@settled
def _backward_launches(last: bool, *sizes: int) -> tuple[Launch, Launch, Launch, Launch]:
    """`_state_gradients`, `_value_gradients`, `_outputs` and `_key_gradients`."""
    sequences, steps, heads, groups, _, columns, _ = sizes
    grid, options = _carried(sizes)
    states = Launch(_state_gradients, grid, steps, 1.0, LAST=last, **options)
    # Wider outputs' gradients do not fit into the registers of four warps.
    warps = 4 if options["BP"] <= 64 else 8
    values = _of_heads(_value_gradients, sizes, _HEADS, warps, BLOCKS=triton.cdiv(columns, options["BS"]))
    own = heads // groups
    while own % 2 == 0 and _chunks(sizes) * (heads // own) < _PROGRAMS:
        own //= 2
    keys = _of_heads(_key_gradients, sizes, own, 8, sequences * steps)
    return states, values, _of_heads(_outputs, sizes, _HEADS, 4, GRADIENTS=True), keys


def _carried(sizes: Sequence[int]) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and options of the kernels that go through all chunks."""
    sequences, _, heads, _, _, columns, least = sizes
    block = min(_COLUMNS, _block(columns, least))
    options = _options(sizes) | {"BS": block, "num_warps": 4, "num_stages": 3}
    return (triton.cdiv(columns, block) * heads * sequences,), options


def _of_heads(kernel: Any, sizes: Sequence[int], most: int, warps: int, *numbers: int, **constants: int) -> Launch:
    """Of a kernel whose programs have a chunk and at most so many heads of a group."""
    _, steps, heads, groups, *_ = sizes
    own = gcd(heads // groups, most)
    grid, options = (_chunks(sizes) * (heads // own),), _options(sizes)
    return Launch(kernel, grid, steps, *numbers, 1.0, OWN=own, num_warps=warps, **options, **constants)


def _chunks(sizes: Sequence[int]) -> int:
    return sizes[0] * triton.cdiv(sizes[1], CHUNK)


def _options(sizes: Sequence[int]) -> dict[str, Any]:
    heads, groups, values, columns, least = sizes[2:]
    named = {"HEADS": heads, "GROUPS": groups, "P": values, "S": columns, "C": CHUNK}
    return {**named, "BP": _block(values, least), "BS": _block(columns, least)}


def _block(size: int, least: int) -> int:
    return max(triton.next_power_of_2(size), least)


def _sizes(x: Tensor, skip: Tensor, groups: int) -> tuple[int, ...]:
    """Sequences, steps, heads, groups, P and S, and the columns that a tile has at least."""
    heads, values = skip.shape
    columns = (x.shape[2] - heads * values) // (2 * groups)
    return x.shape[0], x.shape[1], heads, groups, values, columns, least_side(x.dtype)


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
    sequences, steps, heads, _, values, columns, _ = sizes = _sizes(x, skip, groups)
    h = x.new_empty(sequences, triton.cdiv(steps, CHUNK), heads, values, columns)
    last, o = d.new_empty(sequences, heads, values, columns), x.new_empty(sequences, steps, heads * values)
    states, outputs = _forward_launches(*sizes)
    states(x, d, g, h, last)
    # Nothing of dg, for which g stands.
    outputs(x, d, g, h, skip, o, g)
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
    sequences, steps, heads, _, values, columns, _ = sizes = _sizes(x, skip, groups)
    of_states, of_values, of_gates, of_keys = _backward_launches(dlast is not None, *sizes)
    dh, dx, dd, dg = torch.empty_like(h), torch.empty_like(x), torch.empty_like(d), torch.empty_like(d)
    chunks, blocks = h.shape[0] * h.shape[1], of_values.constants["BLOCKS"]
    ends, dskip = d.new_empty(chunks, heads, blocks), d.new_empty(chunks, heads, values)
    # What stands for a gradient that is not there is not read.
    of_states(x, g, h, do, g if dlast is None else dlast.contiguous(), dh, ends)
    of_values(x, d, g, skip, do, dh, ends, dx, dd, dg, dskip)
    of_gates(x, d, g, h, skip, do, dg)
    parts = d.new_empty(heads // groups // of_keys.constants["OWN"], sequences, steps, 2 * groups * columns)
    of_keys(x, d, g, h, do, dh, parts)
    dx[..., heads * values :] = parts.sum(0)
    return dx, dd, dg, dskip.sum(0)
