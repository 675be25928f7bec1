"""The backward pass of gated_deltanet and mamba2 on Hopper GPUs, where Triton 3.4 to 3.7.0 compiles FLA's kernel wrongly.

FLA refuses to train there without the package tilelang. This is the one function that it refuses, by torch's matrix products;
importing the module hands it to FLA, which takes it where it is needed.
"""

from typing import Any, ClassVar

import torch
from fla.backends import BaseBackend, register
from fla.ops.utils import prepare_chunk_indices
from fla.utils import IS_NVIDIA_HOPPER, TRITON_ABOVE_3_4_0, TRITON_ABOVE_3_7_1
from torch import Tensor


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
    if cu_seqlens is None:
        first = torch.arange(0, steps, chunk_size, device=q.device)
        counts = (steps - first).clamp_max(chunk_size).repeat(batch)
        first = (torch.arange(0, batch * steps, steps, device=q.device)[:, None] + first).flatten()
    else:
        which = prepare_chunk_indices(cu_seqlens, chunk_size) if chunk_indices is None else chunk_indices
        sequence, number = which.unbind(1)
        first = cu_seqlens[sequence] + number * chunk_size
        counts = (cu_seqlens[sequence + 1] - first).clamp_max(chunk_size)
    places = torch.arange(chunk_size, device=q.device)
    there = (places < counts[:, None])[:, None, :, None]
    # Steps after the end of a chunk are read anywhere, counted as zero, and written behind the last step.
    places = torch.where(there[:, 0, :, 0], first[:, None] + places, batch * steps)

    def chunks(x: Tensor) -> Tensor:
        """[B, T, heads, N] to [chunks, G, C, N]."""
        part = x.flatten(0, 1)[places.clamp_max(batch * steps - 1)].transpose(1, 2)
        return (part if x.shape[2] == groups else part.repeat_interleave(groups // heads, 1)).where(there, 0)

    def together(x: Tensor, dtype: torch.dtype) -> Tensor:
        """[chunks, G, C, N] to [B, T, G, N]."""
        whole = x.new_empty(batch * steps + 1, groups, x.shape[-1], dtype=dtype)
        whole[places] = x.transpose(1, 2).to(dtype)
        return whole[:-1].view(batch, steps, groups, -1)

    q_, k_, v_, do_ = map(chunks, (q, k, v, do))
    h, dh = (state.reshape(-1, groups, *state.shape[-2:]) for state in (h, dh))
    h, dh = (state if state_v_first else state.transpose(-1, -2) for state in (h, dh))
    decay = chunks(g[..., None].float())
    last = decay.gather(2, (counts - 1)[:, None, None, None].expand(-1, groups, 1, 1))
    # So that no power is infinite, which times zero is no number.
    decay = decay.where(there, last)
    grown, left = decay.exp2(), (last - decay).exp2().where(there, 0)
    between = (decay - decay.transpose(-1, -2)).tril().exp2().tril() * scale

    scores = (_product(do_, v_.transpose(-1, -2)) * between).to(k.dtype)
    dq = _product(do_, h.to(do.dtype)) * grown * scale + _product(scores, k_)
    to_the_end = _product(v_, dh.to(v.dtype)) * left
    dk = to_the_end + _product(scores.transpose(-1, -2), q_)
    dg = (dq * q_ - dk * k_).sum(-1, keepdim=True)
    at_the_end = (h.float() * dh).sum((-1, -2)) * last[..., 0, 0].exp2() + (to_the_end * k_).sum((-1, -2))
    dg.scatter_add_(2, (counts - 1)[:, None, None, None].expand_as(last), at_the_end[..., None, None])

    def of_heads(x: Tensor) -> Tensor:
        return x if heads == groups else x.unflatten(2, (heads, -1)).sum(3)

    dw = None if w is None or dv is None else together(-_product(chunks(dv).to(v.dtype), h.to(v.dtype)), w.dtype)
    return (
        of_heads(together(dq, q.dtype)),
        of_heads(together(dk, k.dtype)),
        dw,
        together(dg, torch.float32).squeeze(-1),
    )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a [.., M, K] @ b [.., K, N], as float32."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32).unflatten(0, a.shape[:2])
    return a.float() @ b.float()


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
