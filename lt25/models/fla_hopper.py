"""The backward pass of gated_deltanet on Hopper GPUs, where Triton 3.4 to 3.7.0 compiles FLA's kernel wrongly.

FLA refuses to train there without the package tilelang. This is the one function that it refuses, by a kernel that these
versions of Triton compile rightly; importing the module hands it to FLA, which takes it where it is needed.

What they compile wrongly there is avoided here. A tile that was computed by a product is not transposed in registers for the
next product: the scores are computed both ways round. A tile that a loop multiplies has no other use in that loop, or the next
would be loaded over it before its product has ended: the sums of H dH are a loop of their own. Nor do products continue a sum
that something else was done to.
"""

from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from fla.backends import BaseBackend, register
from fla.ops.utils import prepare_chunk_indices
from fla.utils import IS_NVIDIA_HOPPER, TRITON_ABOVE_3_4_0, TRITON_ABOVE_3_7_1
from torch import Tensor

from lt25.ops.backends.triton_gla import place_of_chunk
from lt25.ops.backends.triton_math import exp2


@triton.jit(do_not_specialize=["steps", "numbers", "dg_stride"])
def _gradients(q, k, v, do, h, dh, g, dv, dq, dk, dw, dg, cu_seqlens, chunk_indices, scale, steps, numbers, dg_stride,
               H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, STATE_V_FIRST: tl.constexpr,
               C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """A program has one chunk, one of the G heads and BK of the K columns."""
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    place = tl.program_id(0)
    block = place % BLOCKS
    group = place // BLOCKS % G
    chunk = (place // (BLOCKS * G)).to(tl.int64)
    first, count = place_of_chunk(chunk, cu_seqlens, chunk_indices, steps, numbers, C)

    places = tl.arange(0, C)
    there = places < count
    columns = block * BK + tl.arange(0, BK)
    values = tl.arange(0, BV)
    inside = there[:, None] & (columns < K)[None, :]
    of_values = (first * G + group) * V + places[:, None] * (G * V) + values[None, :]
    of_keys = (first * H + group // (G // H)) * K + places[:, None] * (H * K) + columns[None, :]
    of_results = (first * G + group) * K + places[:, None] * (G * K) + columns[None, :]
    of_state = (chunk * G + group) * (K * V)
    if STATE_V_FIRST:
        of_state += values[:, None] * K + columns[None, :]
    else:
        of_state += values[:, None] + columns[None, :] * V

    step: tl.constexpr = K if STATE_V_FIRST else 1
    carried = tl.zeros([BV, BK], tl.float32)
    # Unrolled, so that tiles are loaded while others are still on their way.
    for start in tl.static_range(0, V, BV):
        state = (start + values < V)[:, None] & (columns < K)[None, :]
        h_ = tl.load(h + of_state + start * step, mask=state, other=0.0)
        dh_ = tl.load(dh + of_state + start * step, mask=state, other=0.0)
        carried += h_.to(tl.float32) * dh_.to(tl.float32)
    carried = tl.sum(carried)

    scores = tl.zeros([C, C], tl.float32)
    scores_turned = tl.zeros([C, C], tl.float32)
    from_state = tl.zeros([C, BK], tl.float32)
    to_the_end = tl.zeros([C, BK], tl.float32)
    of_w = tl.zeros([C, BK], tl.float32)
    for start in range(0, V, BV):
        row = there[:, None] & (start + values < V)[None, :]
        state = (start + values < V)[:, None] & (columns < K)[None, :]
        v_ = tl.load(v + of_values + start, mask=row, other=0.0)
        do_ = tl.load(do + of_values + start, mask=row, other=0.0)
        h_ = tl.load(h + of_state + start * step, mask=state, other=0.0)
        dh_ = tl.load(dh + of_state + start * step, mask=state, other=0.0)
        scores = tl.dot(do_, tl.trans(v_), scores)
        scores_turned = tl.dot(v_, tl.trans(do_), scores_turned)
        from_state = tl.dot(do_, h_.to(do_.dtype), from_state)
        to_the_end = tl.dot(v_, dh_.to(v_.dtype), to_the_end)
        if dv is not None:
            dv_ = tl.load(dv + of_values + start, mask=row, other=0.0)
            of_w = tl.dot(dv_.to(v_.dtype), h_.to(v_.dtype), of_w)
    if dv is not None:
        tl.store(dw + of_results, -of_w, mask=inside)

    decay = tl.load(g + (first + places) * G + group, mask=there, other=0.0).to(tl.float32)
    last = tl.load(g + (first + count - 1) * G + group).to(tl.float32)
    # So that no power is infinite, which times zero is no number.
    decay = tl.where(there, decay, last)
    between = decay[:, None] - decay[None, :]
    earlier = places[:, None] >= places[None, :]
    later = places[:, None] <= places[None, :]
    scores = tl.where(earlier, scores * exp2(tl.where(earlier, between, 0.0)), 0.0)
    scores_turned = tl.where(later, scores_turned * exp2(tl.where(later, -between, 0.0)), 0.0)
    q_ = tl.load(q + of_keys, mask=inside, other=0.0)
    k_ = tl.load(k + of_keys, mask=inside, other=0.0)
    # The compiler would let a product that is only added to something begin with that; these are scaled first.
    dq_ = tl.dot(scores.to(k_.dtype), k_) * scale + from_state * (exp2(decay) * scale)[:, None]
    to_the_end *= tl.where(there, exp2(last - decay), 0.0)[:, None]
    dk_ = tl.dot(scores_turned.to(q_.dtype), q_) * scale + to_the_end
    tl.store(dq + of_results, dq_, mask=inside)
    tl.store(dk + of_results, dk_, mask=inside)

    q_, k_ = q_.to(tl.float32), k_.to(tl.float32)
    of_decay = tl.sum(dq_ * q_ - dk_ * k_, 1)
    at_the_end = carried * exp2(last) + tl.sum(to_the_end * k_)
    of_decay += tl.where(places == count - 1, at_the_end, 0.0)
    tl.store(dg + block.to(tl.int64) * dg_stride + (first + places) * G + group, of_decay, mask=there)


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    h: Tensor,
    dh: Tensor,
    w: Tensor | None,
    g: Tensor,
    dv: Tensor | None,
    scale: float,
    state_v_first: bool,
    cu_seqlens: Tensor | None,
    chunk_size: int,
    chunk_indices: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of a recurrence with a decay, chunk by chunk.

    Within a chunk of C steps that begins with the state H [K, V], with a_i = 2^g_i,
    o_i = scale (a_i q_i H + sum_{j <= i} a_i / a_j (q_i k_j) v_j), and the next chunk begins with
    a_C H + sum_j a_C / a_j k_j v_j. The delta rule's v is u - w H.

    Args:
        q, k: [B, T, H, K].
        v, do: values and the gradient of o, [B, T, G, V]; G / H heads share a query and a key.
        h, dh: state at the start of each chunk and the gradient of that at its end, [.., G, V, K] if ``state_v_first``, else
            [.., G, K, V]; chunks in the order of ``chunk_indices``, or by sequence.
        w: of the delta rule, whose gradient is wanted, or None.
        g: sums of the decays' binary logarithms from the start of the chunk, [B, T, G].
        dv: gradient of v, for that of w.
        scale: what products of queries and keys are multiplied by.
        state_v_first: see ``h``.
        cu_seqlens: int [N + 1], boundaries of packed sequences, with B = 1; None without packing.
        chunk_size: C.
        chunk_indices: int [chunks, 2], sequence and number of each chunk of packed sequences; None: computed.

    Returns:
        Gradients of q, k [B, T, H, K] and w [B, T, G, K], None without w; and of the natural logarithms of the decays' products
        from the start of the chunk, float32 [B, T, G].
    """
    batch, steps, heads, groups = *g.shape[:2], k.shape[2], v.shape[2]
    keys, values = k.shape[3], v.shape[3]
    if cu_seqlens is None:
        numbers = -(-steps // chunk_size)
        chunks = batch * numbers
    else:
        chunk_indices = prepare_chunk_indices(cu_seqlens, chunk_size) if chunk_indices is None else chunk_indices
        numbers = chunks = len(chunk_indices)
    # Three sums of 64 by 64 numbers and two of the scores are as many as fit into the registers.
    columns = min(64, triton.next_power_of_2(keys))
    blocks = -(-keys // columns)
    q, k, v, do, h, dh, g = (each.contiguous() for each in (q, k, v, do, h, dh, g))
    dq, dk = q.new_empty(batch, steps, groups, keys), k.new_empty(batch, steps, groups, keys)
    dw, dv = (None, None) if w is None or dv is None else (w.new_empty(w.shape), dv.contiguous())
    dg = g.new_empty(blocks, *g.shape, dtype=torch.float32)
    _gradients[blocks * groups * chunks,](
        q, k, v, do, h, dh, g, dv, dq, dk, dw, dg, cu_seqlens, chunk_indices, scale, steps, numbers, g.numel(),
        H=heads, G=groups, K=keys, V=values, STATE_V_FIRST=state_v_first,
        C=chunk_size, BK=columns, BV=min(64, triton.next_power_of_2(values)),
        num_warps=4, num_stages=2,
    )  # fmt: skip
    if heads != groups:
        dq, dk = (each.unflatten(2, (heads, -1)).sum(3) for each in (dq, dk))
    return dq, dk, dw, dg.sum(0)


class HopperBackend(BaseBackend):
    """How FLA asks for `gradients`; the names of its methods are those of the functions that it stands for."""

    backend_type = "lt25"
    # After tilelang, where that is installed.
    priority: ClassVar[int] = 6

    @classmethod
    def is_available(cls) -> bool:
        return IS_NVIDIA_HOPPER and TRITON_ABOVE_3_4_0 and not TRITON_ABOVE_3_7_1

    def chunk_bwd_dqkwg_verifier(
        self, *_: Any, g: Tensor | None = None, g_gamma: Tensor | None = None, **__: Any
    ) -> tuple[bool, str | None]:
        return g is not None and g_gamma is None, "for decays that depend on the input"

    def chunk_bwd_dqkwg(self, **given: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        given.pop("g_gamma", None)
        absent = {"w": None, "dv": None, "cu_seqlens": None, "chunk_indices": None}
        others = {"state_v_first": False, "chunk_size": 64}
        with torch.autocast(given["q"].device.type, enabled=False):
            return gradients(**{**absent, **others, **given})


register("common")(HopperBackend)
