"""Stick-breaking attention in Triton, forward and backward, in memory that grows with the number of steps.

All sequences lie one after another along time; ``start`` says where the sequence of each step begins. A program takes a block of
queries and passes over the blocks of keys, from the latest to the earliest, and adds up what is taken of each query's stick. The
backward pass goes from the earliest to the latest, with

    dz_ts = w_ts - sigmoid(z_ts) (sum_{r <= s} w_tr + rest_t),  w_ts = weight_ts (do_t v_s),  rest_t = left_t (do_t v_t),

and writes both sums, at the start of each block of keys, for the programs that each take a block of keys. Nothing is added up in
an order that changes from call to call.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 32


def attend(q: Tensor, k: Tensor, v: Tensor, start: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Run the kernels; differentiable in q, k and v.

    Args:
        q, k, v: [B, T, H, K], K of 16, 32, 64 or 128.
        start: int [T], where the sequence of each step begins.
        cu_seqlens: int [N + 1], boundaries of packed sequences, with B = 1; None without packing.

    Returns:
        [B, T, H, K].
    """
    batch, steps = q.shape[:2]
    if q.shape[-1] not in (16, 32, 64, 128):
        raise ValueError(
            f"stick_breaking_attention: heads of {q.shape[-1]} channels, there are kernels for 16, 32, 64, 128"
        )
    firsts = torch.arange(0, batch * steps, steps, device=q.device)
    begin = (firsts[:, None] + start).flatten().int()
    if cu_seqlens is None:
        end, longest = (firsts + steps).repeat_interleave(steps).int(), steps
    else:
        lengths = cu_seqlens.diff().long()
        end = cu_seqlens[1:].repeat_interleave(lengths, output_size=steps).int()
        longest = int(lengths.max())
    flat = (x.flatten(0, 1).contiguous() for x in (q, k, v))
    return _Attention.apply(*flat, begin, end, longest).view_as(v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, longest: int) -> Tensor:
        steps, heads, channels = q.shape
        o, taken = torch.empty_like(v), q.new_empty(heads, steps, dtype=torch.float32)
        sizes = {"H": heads, "K": channels, "ROWS": ROWS, "COLUMNS": COLUMNS}
        _forward[triton.cdiv(steps, ROWS), heads](q, k, v, begin, o, taken, channels**-0.5, steps, **sizes)
        ctx.save_for_backward(q, k, v, begin, end, taken)
        ctx.sizes, ctx.longest = sizes, longest
        return o

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        q, k, v, begin, end, taken = ctx.saved_tensors
        do, (steps, heads, channels) = grads[0].contiguous(), q.shape
        # One more than full blocks: a sequence may begin and end within blocks.
        blocks = triton.cdiv(ctx.longest, COLUMNS) + 1
        sums = q.new_empty(2, heads, steps, blocks, dtype=torch.float32)
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        given = (q, k, v, do, begin, taken, *sums)
        scale = channels**-0.5
        _backward_rows[triton.cdiv(steps, ROWS), heads](*given, dq, scale, steps, blocks, **ctx.sizes)
        _backward_columns[triton.cdiv(steps, COLUMNS), heads](*given, end, dk, dv, scale, steps, blocks, **ctx.sizes)
        return dq, dk, dv, None, None, None


@triton.jit
def _load(x, places, head, T, H: tl.constexpr, K: tl.constexpr):
    """Steps of x [T, H, K] of one head, zeros after the last."""
    at = x + (places[:, None].to(tl.int64) * H + head) * K + tl.arange(0, K)[None, :]
    return tl.load(at, mask=places[:, None] < T, other=0.0)


@triton.jit
def _store(x, values, places, head, T, H: tl.constexpr, K: tl.constexpr):
    at = x + (places[:, None].to(tl.int64) * H + head) * K + tl.arange(0, K)[None, :]
    tl.store(at, values.to(x.dtype.element_ty), mask=places[:, None] < T)


@triton.jit
def _taken(q, k, rows, columns, begin, scale):
    """Scaled products [ROWS, COLUMNS], which of them count, and their softplus, 0 for those that do not."""
    z = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (columns[None, :] < rows[:, None]) & (columns[None, :] >= begin[:, None])
    softplus = tl.maximum(z, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(z)))
    return z, seen, tl.where(seen, softplus, 0.0)


@triton.jit
def _forward(
    q, k, v, begin, o, taken, scale, T, H: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    head = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b_begin = tl.load(begin + rows, mask=rows < T, other=T)
    b_q = _load(q, rows, head, T, H, K)
    b_o = tl.zeros([ROWS, K], tl.float32)
    b_taken = tl.zeros([ROWS], tl.float32)
    first = tl.load(begin + tl.program_id(0) * ROWS) // COLUMNS
    last = (tl.minimum(tl.program_id(0) * ROWS + ROWS, T) - 1) // COLUMNS
    for n in range(last - first + 1):
        columns = (last - n) * COLUMNS + tl.arange(0, COLUMNS)
        b_v = _load(v, columns, head, T, H, K)
        z, seen, here = _taken(b_q, _load(k, columns, head, T, H, K), rows, columns, b_begin, scale)
        after = tl.cumsum(here, 1, reverse=True) + b_taken[:, None]
        weights = tl.exp(tl.where(seen, z - after, float("-inf")))
        b_o += tl.dot(weights.to(b_v.dtype), b_v, input_precision="ieee")
        b_taken += tl.sum(here, 1)
    b_o += tl.exp(-b_taken)[:, None] * _load(v, rows, head, T, H, K).to(tl.float32)
    _store(o, b_o, rows, head, T, H, K)
    tl.store(taken + head.to(tl.int64) * T + rows, b_taken, mask=rows < T)


@triton.jit
def _weights(z, seen, here, b_taken, before):
    """Weights, from what is taken in all and of the keys before the block."""
    earlier = tl.cumsum(here, 1) - here + before[:, None]
    return tl.exp(tl.where(seen, z - (b_taken[:, None] - earlier), float("-inf")))


@triton.jit
def _backward_rows(
    q,
    k,
    v,
    do,
    begin,
    taken,
    before,
    sums,
    dq,
    scale,
    T,
    BLOCKS,
    H: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    head = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b_begin = tl.load(begin + rows, mask=rows < T, other=T)
    b_taken = tl.load(taken + head.to(tl.int64) * T + rows, mask=rows < T, other=0.0)
    b_q, b_do = _load(q, rows, head, T, H, K), _load(do, rows, head, T, H, K)
    own = tl.sum(b_do.to(tl.float32) * _load(v, rows, head, T, H, K).to(tl.float32), 1)
    b_before = tl.zeros([ROWS], tl.float32)
    b_sum = own * tl.exp(-b_taken)
    b_dq = tl.zeros([ROWS, K], tl.float32)
    first = tl.load(begin + tl.program_id(0) * ROWS) // COLUMNS
    last = (tl.minimum(tl.program_id(0) * ROWS + ROWS, T) - 1) // COLUMNS
    for n in range(first, last + 1):
        columns = n * COLUMNS + tl.arange(0, COLUMNS)
        block = n - b_begin // COLUMNS
        at = (head.to(tl.int64) * T + rows) * BLOCKS + block
        needed = (rows < T) & (block >= 0) & (n * COLUMNS < rows)
        tl.store(before + at, b_before, mask=needed)
        tl.store(sums + at, b_sum, mask=needed)
        b_k = _load(k, columns, head, T, H, K)
        z, seen, here = _taken(b_q, b_k, rows, columns, b_begin, scale)
        weights = _weights(z, seen, here, b_taken, b_before)
        w = weights * tl.dot(b_do, tl.trans(_load(v, columns, head, T, H, K)), input_precision="ieee")
        dz = tl.where(seen, w - tl.sigmoid(z) * (tl.cumsum(w, 1) + b_sum[:, None]), 0.0)
        b_dq += tl.dot(dz.to(b_k.dtype), b_k, input_precision="ieee")
        b_before += tl.sum(here, 1)
        b_sum += tl.sum(w, 1)
    _store(dq, b_dq * scale, rows, head, T, H, K)


@triton.jit
def _backward_columns(
    q,
    k,
    v,
    do,
    begin,
    taken,
    before,
    sums,
    end,
    dk,
    dv,
    scale,
    T,
    BLOCKS,
    H: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n, head = tl.program_id(0), tl.program_id(1)
    columns = n * COLUMNS + tl.arange(0, COLUMNS)
    b_k, b_v = _load(k, columns, head, T, H, K), _load(v, columns, head, T, H, K)
    left = tl.exp(-tl.load(taken + head.to(tl.int64) * T + columns, mask=columns < T, other=0.0))
    b_dv = left[:, None] * _load(do, columns, head, T, H, K).to(tl.float32)
    b_dk = tl.zeros([COLUMNS, K], tl.float32)
    stop = tl.load(end + tl.minimum(n * COLUMNS + COLUMNS, T) - 1)
    for m in range(n * COLUMNS // ROWS, (stop - 1) // ROWS + 1):
        rows = m * ROWS + tl.arange(0, ROWS)
        b_begin = tl.load(begin + rows, mask=rows < T, other=T)
        b_q, b_do = _load(q, rows, head, T, H, K), _load(do, rows, head, T, H, K)
        b_taken = tl.load(taken + head.to(tl.int64) * T + rows, mask=rows < T, other=0.0)
        block = n - b_begin // COLUMNS
        needed = (rows < T) & (block >= 0) & (n * COLUMNS < rows)
        at = (head.to(tl.int64) * T + rows) * BLOCKS + block
        b_before = tl.load(before + at, mask=needed, other=0.0)
        b_sum = tl.load(sums + at, mask=needed, other=0.0)
        z, seen, here = _taken(b_q, b_k, rows, columns, b_begin, scale)
        weights = _weights(z, seen, here, b_taken, b_before)
        w = weights * tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
        dz = tl.where(seen, w - tl.sigmoid(z) * (tl.cumsum(w, 1) + b_sum[:, None]), 0.0)
        b_dv += tl.dot(tl.trans(weights).to(b_do.dtype), b_do, input_precision="ieee")
        b_dk += tl.dot(tl.trans(dz).to(b_q.dtype), b_q, input_precision="ieee")
    _store(dk, b_dk * scale, columns, head, T, H, K)
    _store(dv, b_dv, columns, head, T, H, K)
