"""Gated linear attention in fewer passes, for the layers of flash-linear-attention's gla and hgrn2.

FLA's own function asks the GPU three times a layer how many chunks there are, and the host waits for the answer; its backward
pass computes all states again, in float32, and its gradients leave in float32 and are cast. Here the host knows the number
from the table of chunks, made once for a batch; the states are kept; states and gradients have the dtype of queries and keys,
to which they are rounded before each product anyway. Of gla's layers, the decays go from the map to their sums in one pass.

Importing the module gives the layers `chunk_gla`, and gla's also `forward`. What these cannot do goes FLA's own way.
"""

from functools import wraps
from inspect import unwrap
from typing import Any

import torch
import triton
from fla.layers import gla, hgrn2
from fla.ops.common.chunk_h import chunk_bwd_kernel_dh, chunk_fwd_kernel_h
from fla.ops.gla import chunk
from fla.ops.utils import prepare_chunk_indices, prepare_chunk_offsets
from fla.utils import input_guard
from torch import Tensor

from lt25.ops.backends import count_sequences
from lt25.ops.backends.triton_gla import CHUNK, decays, keys_backward, values_backward

# Decorated in ways that no type checker follows; the functions themselves, which need not look for other hardware's.
_own: Any = chunk.chunk_gla
_layer: Any = gla.GatedLinearAttention.forward
_guard: Any = input_guard
_scores, _out, _scores_backward, _within_backward = (
    unwrap(function)
    for function in (
        chunk.chunk_gla_fwd_intra_gk,
        chunk.chunk_gla_fwd_o_gk,
        chunk.chunk_gla_bwd_dA,
        chunk.chunk_gla_bwd_dqk_intra,
    )
)


class _Chunks:
    """Chunks of queries [B, T, H, K]: of packed sequences boundaries and table, and how FLA's kernels of states are called.

    Attributes:
        packed: boundaries and table, as `lt25.ops.backends.triton_gla` takes them.
        named: the same with the size of a chunk, as FLA's functions take them.
    """

    def __init__(self, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> None:
        (batch, steps, heads, keys), values = k.shape, v.shape[-1]
        table, offsets, count = None, None, -(-steps // CHUNK)
        if cu_seqlens is not None:
            table, offsets = prepare_chunk_indices(cu_seqlens, CHUNK), prepare_chunk_offsets(cu_seqlens, CHUNK)
            count = len(table)
        self.packed = cu_seqlens, table
        self.named: dict[str, Any] = {"cu_seqlens": cu_seqlens, "chunk_size": CHUNK, "chunk_indices": table}
        self._shape = batch, count, heads, values, keys
        self._sequences = count_sequences(k, cu_seqlens)
        self._options: dict[str, Any] = {
            "g": None, "g_gamma": None, "gv": None, "cu_seqlens": cu_seqlens, "split_offsets": offsets,
            "T": steps, "H": heads, "K": keys, "V": values, "BT": CHUNK, "BS": CHUNK,
            "USE_G": False, "USE_G_GAMMA": False, "USE_GK": True, "USE_GV": False, "STATE_V_FIRST": True,
        }  # fmt: skip

    def states(self, kernel: Any, name: str, like: Tensor, **given: Any) -> Tensor:
        """Call a kernel that makes states [B, chunks, H, V, K] in the dtype of another tensor.

        The autotuner's keys have the dtypes in the order of a call. It is that of FLA's, so that what is known of its calls
        serves these, and ``given`` has None in the place of the states, ``name``.
        """
        _, _, heads, values, keys = self._shape
        made = like.new_empty(self._shape)

        def grid(meta: dict[str, int]) -> tuple[Any]:
            return (triton.cdiv(keys, meta["BK"]) * triton.cdiv(values, meta["BV"]) * self._sequences * heads,)

        kernel[grid](**{**given, name: made}, **self._options)
        return made


class _Chunked(torch.autograd.Function):
    """The output of `chunk_gla`, with decays as of `lt25.ops.backends.triton_gla.decays`."""

    @staticmethod
    @_guard
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, z: Tensor, scale: float, factor: float, logits: bool,
        cu_seqlens: Tensor | None,
    ) -> Tensor:  # fmt: skip
        chunks = _Chunks(k, v, cu_seqlens)
        g = decays(z, factor, logits, *chunks.packed)
        h = chunks.states(chunk_fwd_kernel_h, "h", k, k=k, v=v, h=None, gk=g, h0=None, ht=None)
        scores = _scores(q, k, g, scale, **chunks.named)
        o = _out(q, v, g, scores, h, scale, True, **chunks.named)
        ctx.save_for_backward(q, k, v, z if logits else None, g, h, scores)
        ctx.chunks, ctx.scale, ctx.factor = chunks, scale, factor
        return o

    @staticmethod
    @_guard
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, z, g, h, scores = ctx.saved_tensors
        chunks, scale = ctx.chunks, ctx.scale
        given = {"dh": None, "dht": None, "dh0": None, "scale": scale, "HQ": q.shape[2], "NG": 1}
        dh = chunks.states(chunk_bwd_kernel_dh, "dh", k, q=q, gk=g, do=do, **given)
        dv = values_backward(k, g, scores, do, dh, *chunks.packed)
        dq, dk = _within_backward(q, k, g, _scores_backward(v, do, scale, **chunks.named), **chunks.named)
        dq, dk, dz = keys_backward(q, k, v, z, g, h, do, dh, dq, dk, scale, ctx.factor, *chunks.packed)
        return dq, dk, dv, dz, None, None, None, None


def trains(x: Tensor, cu_seqlens: Tensor | None) -> bool:
    """Whether x [B, T, ...] is long enough for chunks, and a gradient may be asked for; FLA refuses a batch of packed texts."""
    if cu_seqlens is not None and x.shape[0] != 1:
        return False
    return type(x) is Tensor and x.shape[1] > CHUNK and torch.is_grad_enabled() and not torch.compiler.is_compiling()


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
        initial_state, output_final_state, state_v_first: states before the first and after the last step; with either state, and
            without gradients, FLA computes itself.
        cu_seqlens: int [N + 1], boundaries of packed sequences, with B = 1; None without packing.
        cu_seqlens_cpu: the same where the host has it.

    Returns:
        o [B, T, H, V] in v's dtype, and the final state or None.
    """
    if initial_state is not None or output_final_state or not trains(q, cu_seqlens):
        states = initial_state, output_final_state, state_v_first
        return _own(q, k, v, g, scale, *states, cu_seqlens, cu_seqlens_cpu)
    return _Chunked.apply(q, k, v, g, q.shape[-1] ** -0.5 if scale is None else scale, 1.0, False, cu_seqlens), None


@wraps(_layer)
def forward(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = False,
    output_attentions: bool | None = False,
    **named: Any,
) -> tuple[Tensor, None, Any]:
    """Stand for gla's layer, whose arguments and results it has."""
    cu_seqlens = named.get("cu_seqlens")
    padded = attention_mask is not None and cu_seqlens is None
    usual = self.mode == "chunk" and self.num_kv_groups == 1 and self.use_output_gate and self.fuse_norm_and_gate
    more = self.use_short_conv or self.feature_map_fn is not None or self.clamp_min is not None
    if use_cache or past_key_values is not None or padded or more or not usual or not trains(hidden_states, cu_seqlens):
        return _layer(self, hidden_states, attention_mask, past_key_values, use_cache, output_attentions, **named)
    maps = (self.q_proj, self.head_k_dim), (self.k_proj, self.head_k_dim), (self.v_proj, self.head_v_dim)
    maps = *maps, (self.gk_proj, self.head_k_dim), (self.g_proj, self.head_v_dim)
    q, k, v, z, gate = (project(hidden_states).unflatten(-1, (-1, width)) for project, width in maps)
    o = _Chunked.apply(q, k, v, z, self.head_k_dim**-0.5, 1 / self.gate_logit_normalizer, True, cu_seqlens)
    return self.o_proj(self.g_norm_swish_gate(o, gate).flatten(2)), None, past_key_values


def give_back() -> None:
    """Let FLA compute itself; its layers are given back by `lt25.models.fla_maps`."""
    gla.chunk_gla = hgrn2.chunk_gla = _own


gla.chunk_gla = hgrn2.chunk_gla = chunk_gla
gla.GatedLinearAttention.forward = forward
