"""Chunks of gated linear attention by flash-linear-attention's kernels, for the layers of gla and hgrn2.

FLA's own function asks the GPU three times a layer how many chunks there are, and the host waits for the answer; its backward
pass computes all states again, in float32, and its gradients leave in float32 and are cast. Here the host knows the number
from the table of chunks, made once for a batch; the states are kept; states and gradients have the dtype of queries and keys,
to which they are rounded before each product anyway. Importing the module gives the layers `chunk_gla`.
"""

from inspect import unwrap
from typing import Any

import torch
import triton
import triton.language as tl
from fla.layers import gla, hgrn2
from fla.ops.common.chunk_h import chunk_bwd_kernel_dh, chunk_fwd_kernel_h
from fla.ops.gla import chunk
from fla.ops.utils import chunk_local_cumsum, prepare_chunk_indices, prepare_chunk_offsets
from fla.ops.utils.constant import RCP_LN2
from fla.utils import input_guard
from torch import Tensor

from lt25.ops.backends.triton_math import exp2

# Decorated in ways that no type checker follows; the functions themselves, which need not look for other hardware's.
_own: Any = chunk.chunk_gla
_guard: Any = input_guard
_cumsum, _within, _out, _dv, _scores, _dqk = (
    unwrap(function)
    for function in (
        chunk_local_cumsum,
        chunk.chunk_gla_fwd_intra_gk,
        chunk.chunk_gla_fwd_o_gk,
        chunk.chunk_gla_bwd_dv,
        chunk.chunk_gla_bwd_dA,
        chunk.chunk_gla_bwd_dqk_intra,
    )
)
_CHUNK = 64


@triton.jit(do_not_specialize=["steps", "numbers"])
def _gradients(q, k, v, g, h, do, dh, dq_within, dk_within, dq, dk, dg, cu_seqlens, chunk_indices, scale, steps, numbers,
               H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
               C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """What states give to the gradients of queries, keys and decays: a program has one chunk, one head and BK of the K columns.

    The sums of H dH are a loop of their own, since Triton's compiler for Hopper GPUs loads the next tile over one that is both
    multiplied and summed, see `lt25.models.fla_hopper`.
    """
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    place = tl.program_id(0)
    block = place % BLOCKS
    head = place // BLOCKS % H
    chunk = (place // (BLOCKS * H)).to(tl.int64)
    if cu_seqlens is not None:
        sequence = tl.load(chunk_indices + 2 * chunk).to(tl.int64)
        first = tl.load(cu_seqlens + sequence).to(tl.int64) + tl.load(chunk_indices + 2 * chunk + 1).to(tl.int64) * C
        end = tl.load(cu_seqlens + sequence + 1).to(tl.int64)
    else:
        first = chunk // numbers * steps + chunk % numbers * C
        end = (chunk // numbers + 1) * steps
    count = tl.minimum(end - first, C).to(tl.int32)

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
    of_decay = tl.where(inside, q_ * dq_ - k_ * dk_, 0.0)
    of_decay += tl.sum(of_decay, 0)[None, :] - tl.cumsum(of_decay, 0) + at_the_end[None, :]
    tl.store(dq + of_keys, dq_, mask=inside)
    tl.store(dk + of_keys, dk_, mask=inside)
    tl.store(dg + of_keys, of_decay, mask=inside)


class _Chunks:
    """The chunks of [B, T, H, K] queries: boundaries and the table of them where texts are packed, and how many there are."""

    def __init__(self, q: Tensor, cu_seqlens: Tensor | None) -> None:
        self.cu_seqlens = cu_seqlens
        self.indices = self.offsets = None
        self.sequences, self.count = q.shape[0], triton.cdiv(q.shape[1], _CHUNK)
        if cu_seqlens is not None:
            self.indices = prepare_chunk_indices(cu_seqlens, _CHUNK)
            self.offsets = prepare_chunk_offsets(cu_seqlens, _CHUNK)
            self.sequences, self.count = len(cu_seqlens) - 1, len(self.indices)

    @property
    def named(self) -> dict[str, Any]:
        """As FLA's functions want it."""
        return {"cu_seqlens": self.cu_seqlens, "chunk_size": _CHUNK, "chunk_indices": self.indices}


def _state_options(k: Tensor, v: Tensor, chunks: _Chunks) -> tuple[Any, dict[str, Any]]:
    """The grid and the arguments that the kernels of states and of their gradients have in common.

    The autotuner's keys have the dtypes in the order of a call, which is therefore that of FLA's.
    """
    (_, steps, heads, keys), values = k.shape, v.shape[-1]

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(keys, meta["BK"]) * triton.cdiv(values, meta["BV"]) * chunks.sequences * heads,)

    return grid, {
        "g": None, "g_gamma": None, "gv": None, "cu_seqlens": chunks.cu_seqlens, "split_offsets": chunks.offsets,
        "T": steps, "H": heads, "K": keys, "V": values, "BT": _CHUNK, "BS": _CHUNK,
        "USE_G": False, "USE_G_GAMMA": False, "USE_GK": True, "USE_GV": False, "STATE_V_FIRST": True,
    }  # fmt: skip


def _new_states(k: Tensor, v: Tensor, chunks: _Chunks) -> Tensor:
    return k.new_empty(k.shape[0], chunks.count, k.shape[2], v.shape[3], k.shape[3])


def gradients(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, h: Tensor, do: Tensor, dh: Tensor, dq_within: Tensor, dk_within: Tensor,
    scale: float, dtype: torch.dtype, chunks: _Chunks,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and decays, from those that they have within chunks.

    Args:
        q, k: [B, T, H, K].
        v, do: values and the gradient of o, [B, T, H, V].
        g: sums of the decays' binary logarithms from the start of the chunk, float32 [B, T, H, K].
        h, dh: state at the start of each chunk and the gradient of that at its end, [B, chunks, H, V, K].
        dq_within, dk_within: float32 [B, T, H, K].
        scale: what products of queries and keys are multiplied by.
        dtype: of the last result.
        chunks: of q.

    Returns:
        Gradients of q, k and of the natural logarithms of the decays.
    """
    (batch, steps, heads, keys), values = q.shape, v.shape[-1]
    dq, dk, dg = q.new_empty(q.shape), k.new_empty(k.shape), g.new_empty(g.shape, dtype=dtype)
    columns = min(64, triton.next_power_of_2(keys))
    _gradients[triton.cdiv(keys, columns) * heads * batch * chunks.count,](
        q, k, v, g, h, do, dh, dq_within, dk_within, dq, dk, dg, chunks.cu_seqlens, chunks.indices,
        scale, steps, chunks.count, H=heads, K=keys, V=values,
        C=_CHUNK, BK=columns, BV=min(64, triton.next_power_of_2(values)), num_warps=4, num_stages=2,
    )  # fmt: skip
    return dq, dk, dg


class _Chunked(torch.autograd.Function):
    @staticmethod
    @_guard
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, cu_seqlens: Tensor | None
    ) -> Tensor:
        chunks = _Chunks(q, cu_seqlens)
        sums = _cumsum(g, scale=RCP_LN2, **chunks.named)
        h = _new_states(k, v, chunks)
        grid, options = _state_options(k, v, chunks)
        chunk_fwd_kernel_h[grid](k=k, v=v, h=h, gk=sums, h0=None, ht=None, **options)
        scores = _within(q, k, sums, scale, **chunks.named)
        o = _out(q, v, sums, scores, h, scale, True, **chunks.named)
        ctx.save_for_backward(q, k, v, sums, h, scores)
        ctx.chunks, ctx.scale, ctx.dtype = chunks, scale, g.dtype
        return o

    @staticmethod
    @_guard
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, sums, h, scores = ctx.saved_tensors
        chunks, scale = ctx.chunks, ctx.scale
        dh = _new_states(k, v, chunks)
        grid, options = _state_options(k, v, chunks)
        chunk_bwd_kernel_dh[grid](
            q=q, gk=sums, do=do, dh=dh, dht=None, dh0=None, scale=scale, HQ=q.shape[2], NG=1, **options
        )
        dv = _dv(k, sums, scores, do, dh, True, **chunks.named)
        dscores = _scores(v, do, scale, **chunks.named)
        within = _dqk(q, k, sums, dscores, **chunks.named)
        dq, dk, dg = gradients(q, k, v, sums, h, do, dh, *within, scale, ctx.dtype, chunks)
        return dq, dk, dv, dg, None, None


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Stand for FLA's function of this name, whose arguments and results it has.

    With the decays a_t = exp(g_t), the state S [V, K] of each head goes on as S_t = S_{t-1} diag(a_t) + v_t k_t^T, and
    o_t = scale S_t q_t ("Gated Linear Attention Transformers with Hardware-Efficient Training",
    https://arxiv.org/abs/2312.06635).

    Args:
        q, k, g: [B, T, H, K], g the natural logarithms of the decays.
        v: [B, T, H, V].
        scale: 1 / sqrt(K) by default.
        initial_state, output_final_state, state_v_first: states before the first and after the last step; with any of them, and
            without gradients, FLA computes itself.
        cu_seqlens: int [N + 1], boundaries of packed sequences, with B = 1; None without packing.
        cu_seqlens_cpu: the same where the host has it.

    Returns:
        o [B, T, H, V] in v's dtype, and the final state or None.
    """
    stateless = initial_state is None and not output_final_state
    plain = type(q) is Tensor and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not stateless or not plain or q.shape[1] < _CHUNK:
        states = initial_state, output_final_state, state_v_first
        return _own(q, k, v, g, scale, *states, cu_seqlens, cu_seqlens_cpu)
    return _Chunked.apply(q, k, v, g, q.shape[-1] ** -0.5 if scale is None else scale, cu_seqlens), None


gla.chunk_gla = hgrn2.chunk_gla = chunk_gla
