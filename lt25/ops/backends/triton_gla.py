"""Parts of gated linear attention, chunk by chunk, on a GPU: those that flash-linear-attention computes in more passes.

The chunks are of `CHUNK` steps. Those of packed sequences are in a table, int [chunks, 2], of the sequence and the place in it.
A program has one chunk; programs of the products have one head, and some of its columns.

What Triton 3.4 to 3.7.0 compile wrongly for Hopper GPUs is avoided, see `lt25.models.fla_hopper`: a tile that a loop multiplies
has no other use in that loop, or no tile is loaded ahead.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_math import LOG2_E, exp2, sigmoid

CHUNK = 64
_COLUMNS = 64


@triton.jit
def place_of_chunk(chunk, cu_seqlens, table, steps, numbers, C: tl.constexpr):
    """The first step of a chunk, and how many it has."""
    if cu_seqlens is not None:
        sequence = tl.load(table + 2 * chunk).to(tl.int64)
        first = tl.load(cu_seqlens + sequence).to(tl.int64) + tl.load(table + 2 * chunk + 1).to(tl.int64) * C
        end = tl.load(cu_seqlens + sequence + 1).to(tl.int64)
    else:
        first = chunk // numbers * steps + chunk % numbers * C
        end = (chunk // numbers + 1) * steps
    return first, tl.minimum(end - first, C).to(tl.int32)


@triton.jit(do_not_specialize=["steps", "numbers"])
def _decays(z, sums, cu_seqlens, table, factor, steps, numbers,
            D: tl.constexpr, C: tl.constexpr, COLUMNS: tl.constexpr, LOGITS: tl.constexpr):  # fmt: skip
    BLOCKS: tl.constexpr = (D + COLUMNS - 1) // COLUMNS
    chunk = (tl.program_id(0) // BLOCKS).to(tl.int64)
    first, count = place_of_chunk(chunk, cu_seqlens, table, steps, numbers, C)
    places = tl.arange(0, C)
    columns = tl.program_id(0) % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    inside = (places < count)[:, None] & (columns < D)[None, :]
    at = first * D + places[:, None] * D + columns[None, :]
    value = tl.load(z + at, mask=inside, other=0.0).to(tl.float32) * LOG2_E
    if LOGITS:
        value = tl.minimum(value, 0.0) - tl.log2(1.0 + exp2(-tl.abs(value)))
    tl.store(sums + at, tl.cumsum(value, 0) * factor, mask=inside)


@triton.jit(do_not_specialize=["steps", "numbers"])
def _values(k, g, scores, do, dh, dv, cu_seqlens, table, steps, numbers,
            H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
            HALF: tl.constexpr):  # fmt: skip
    """dv_j = sum over i >= j of scores_ij do_i, and dH times what is left of k_j at the end of the chunk."""
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    place = tl.program_id(0)
    block = place % BLOCKS
    head = place // BLOCKS % H
    chunk = (place // (BLOCKS * H)).to(tl.int64)
    first, count = place_of_chunk(chunk, cu_seqlens, table, steps, numbers, C)
    places = tl.arange(0, C)
    there = places < count
    keys = tl.arange(0, BK)
    values = block * BV + tl.arange(0, BV)
    row = there[:, None] & (values < V)[None, :]
    of_values = (first * H + head) * V + places[:, None] * (H * V) + values[None, :]
    of_keys = (first * H + head) * K + places[:, None] * (H * K) + keys[None, :]
    of_state = (chunk * H + head) * (K * V) + values[:, None] * K + keys[None, :]
    of_last = ((first + count - 1) * H + head) * K + keys

    total = tl.zeros([C, BV], tl.float32)
    for start in range(0, K, BK):
        inside = there[:, None] & (start + keys < K)[None, :]
        state = (values < V)[:, None] & (start + keys < K)[None, :]
        dh_ = tl.load(dh + of_state + start, mask=state, other=0.0)
        k_ = tl.load(k + of_keys + start, mask=inside, other=0.0)
        decay = tl.load(g + of_keys + start, mask=inside, other=0.0)
        last = tl.load(g + of_last + start, mask=start + keys < K, other=0.0)
        left = tl.where(inside, k_.to(tl.float32) * exp2(last[None, :] - decay), 0.0)
        total = tl.dot(left.to(dh_.dtype), tl.trans(dh_), total)
    # Turned: the rows are the steps j.
    later = (places[:, None] <= places[None, :]) & there[None, :]
    of_scores = (first * H + head) * C + places[None, :] * (H * C) + places[:, None]
    scores_ = tl.load(scores + of_scores, mask=later, other=0.0)
    do_ = tl.load(do + of_values, mask=row, other=0.0)
    if HALF:
        # Two numbers of half precision have as good as all digits of one of float32.
        high = scores_.to(do_.dtype)
        low = (scores_ - high.to(tl.float32)).to(do_.dtype)
        total = tl.dot(high, do_, total)
        total = tl.dot(low, do_, total)
    else:
        total = tl.dot(scores_, do_, total, input_precision="ieee")
    tl.store(dv + of_values, total, mask=row)


@triton.jit(do_not_specialize=["steps", "numbers"])
def _keys(q, k, v, z, g, h, do, dh, dq_within, dk_within, dq, dk, dz, cu_seqlens, table, scale, factor, steps, numbers,
          H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
          LOGITS: tl.constexpr):  # fmt: skip
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    place = tl.program_id(0)
    block = place % BLOCKS
    head = place // BLOCKS % H
    chunk = (place // (BLOCKS * H)).to(tl.int64)
    first, count = place_of_chunk(chunk, cu_seqlens, table, steps, numbers, C)
    places = tl.arange(0, C)
    there = places < count
    columns = block * BK + tl.arange(0, BK)
    values = tl.arange(0, BV)
    inside = there[:, None] & (columns < K)[None, :]
    of_values = (first * H + head) * V + places[:, None] * (H * V) + values[None, :]
    of_keys = (first * H + head) * K + places[:, None] * (H * K) + columns[None, :]
    of_state = (chunk * H + head) * (K * V) + values[:, None] * K + columns[None, :]
    last = tl.load(g + ((first + count - 1) * H + head) * K + columns, mask=columns < K, other=0.0)

    carried = tl.zeros([BV, BK], tl.float32)
    for start in range(0, V, BV):
        state = (start + values < V)[:, None] & (columns < K)[None, :]
        h_ = tl.load(h + of_state + start * K, mask=state, other=0.0)
        dh_ = tl.load(dh + of_state + start * K, mask=state, other=0.0)
        carried += h_.to(tl.float32) * dh_.to(tl.float32)
    at_the_end = tl.sum(carried, 0) * exp2(last)

    from_state = tl.zeros([C, BK], tl.float32)
    to_the_end = tl.zeros([C, BK], tl.float32)
    for start in range(0, V, BV):
        row = there[:, None] & (start + values < V)[None, :]
        state = (start + values < V)[:, None] & (columns < K)[None, :]
        v_ = tl.load(v + of_values + start, mask=row, other=0.0)
        do_ = tl.load(do + of_values + start, mask=row, other=0.0)
        h_ = tl.load(h + of_state + start * K, mask=state, other=0.0)
        dh_ = tl.load(dh + of_state + start * K, mask=state, other=0.0)
        from_state = tl.dot(do_, h_.to(do_.dtype), from_state)
        to_the_end = tl.dot(v_, dh_.to(v_.dtype), to_the_end)

    q_ = tl.load(q + of_keys, mask=inside, other=0.0).to(tl.float32)
    k_ = tl.load(k + of_keys, mask=inside, other=0.0).to(tl.float32)
    decay = tl.load(g + of_keys, mask=inside, other=0.0)
    to_the_end *= tl.where(inside, exp2(last[None, :] - decay), 0.0)
    at_the_end += tl.sum(to_the_end * k_, 0)
    dq_ = from_state * exp2(decay) * scale + tl.load(dq_within + of_keys, mask=inside, other=0.0)
    dk_ = to_the_end + tl.load(dk_within + of_keys, mask=inside, other=0.0)
    tl.store(dq + of_keys, dq_, mask=inside)
    tl.store(dk + of_keys, dk_, mask=inside)
    # The sum of what comes from this step on, in this chunk and behind it.
    of_decay = tl.where(inside, q_ * dq_ - k_ * dk_, 0.0)
    of_decay += tl.sum(of_decay, 0)[None, :] - tl.cumsum(of_decay, 0) + at_the_end[None, :]
    of_decay *= factor
    if LOGITS:
        of_decay *= sigmoid(-tl.load(z + of_keys, mask=inside, other=0.0).to(tl.float32))
    tl.store(dz + of_keys, of_decay, mask=inside)


def decays(z: Tensor, factor: float, logits: bool, cu_seqlens: Tensor | None, table: Tensor | None) -> Tensor:
    """Binary logarithms of the decays' products from the start of the chunk, float32 [B, T, H, K].

    Args:
        z: [B, T, H, K], contiguous: with ``logits`` a decay is sigmoid(z)^factor, else exp(factor z).
        factor: see ``z``.
        logits: see ``z``.
        cu_seqlens: int [N + 1], boundaries of packed sequences, with B = 1; None without packing.
        table: of their chunks; None without packing.
    """
    sums, columns = z.new_empty(z.shape, dtype=torch.float32), z.shape[2] * z.shape[3]
    count, numbers = _count(z, table)
    _decays[count * triton.cdiv(columns, _COLUMNS),](
        z, sums, cu_seqlens, table, factor, z.shape[1], numbers,
        D=columns, C=CHUNK, COLUMNS=_COLUMNS, LOGITS=logits, num_warps=4,
    )  # fmt: skip
    return sums


def values_backward(
    k: Tensor, g: Tensor, scores: Tensor, do: Tensor, dh: Tensor, cu_seqlens: Tensor | None, table: Tensor | None
) -> Tensor:
    """The gradient of the values, [B, T, H, V] in do's dtype.

    Args:
        k: [B, T, H, K].
        g: as of `decays`.
        scores: of each step with those of its chunk up to it, float32 [B, T, H, CHUNK].
        do: gradient of the output, [B, T, H, V], contiguous as all others.
        dh: gradient of the state at the end of each chunk, [B, chunks, H, V, K] in k's dtype.
        cu_seqlens, table: as for `decays`.
    """
    (_, steps, heads, keys), values = k.shape, do.shape[-1]
    dv, columns = torch.empty_like(do), min(128, max(16, triton.next_power_of_2(values)))
    count, numbers = _count(k, table)
    _values[triton.cdiv(values, columns) * heads * count,](
        k, g, scores, do, dh, dv, cu_seqlens, table, steps, numbers, H=heads, K=keys, V=values,
        C=CHUNK, BK=_COLUMNS, BV=columns, HALF=do.dtype != torch.float32, num_warps=4, num_stages=1,
    )  # fmt: skip
    return dv


def keys_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    z: Tensor | None,
    g: Tensor,
    h: Tensor,
    do: Tensor,
    dh: Tensor,
    dq_within: Tensor,
    dk_within: Tensor,
    scale: float,
    factor: float,
    cu_seqlens: Tensor | None,
    table: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and what the decays are made of, in the dtypes of these; without z the last is float32.

    Args:
        q, k: [B, T, H, K], contiguous as all others.
        v, do: values and the gradient of the output, [B, T, H, V].
        z, factor: as for `decays`, whose result is ``g``; z is None unless it has the logits.
        h, dh: state at the start of each chunk and the gradient of that at its end, [B, chunks, H, V, K].
        dq_within, dk_within: what the gradients have from the steps of the same chunk, float32 [B, T, H, K].
        scale: what products of queries and keys are multiplied by.
        cu_seqlens, table: as for `decays`.
    """
    (_, steps, heads, keys), values = q.shape, v.shape[-1]
    dq, dk, dz = torch.empty_like(q), torch.empty_like(k), torch.empty_like(g if z is None else z)
    count, numbers = _count(q, table)
    # Narrower blocks of columns are compiled wrongly for Hopper GPUs, https://github.com/triton-lang/triton/issues/11366.
    _keys[triton.cdiv(keys, _COLUMNS) * heads * count,](
        q, k, v, z, g, h, do, dh, dq_within, dk_within, dq, dk, dz, cu_seqlens, table, scale, factor, steps, numbers,
        H=heads, K=keys, V=values, C=CHUNK, BK=_COLUMNS, BV=64, LOGITS=z is not None, num_warps=4, num_stages=2,
    )  # fmt: skip
    return dq, dk, dz


def _count(x: Tensor, table: Tensor | None) -> tuple[int, int]:
    """How many chunks there are, and in each sequence without packing."""
    numbers = triton.cdiv(x.shape[1], CHUNK)
    return x.shape[0] * numbers if table is None else len(table), numbers
