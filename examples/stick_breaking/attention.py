"""Stick-breaking attention: each key, from the latest on, takes its part of what the later ones have left.

Query t gives key s < t the weight beta_ts prod_{s < r < t} (1 - beta_tr), beta_ts = sigmoid(scale q_t k_s). What is left of the
stick goes to the value of t itself. There are no positions: the nearer of two equal keys comes first.

With c_ts = sum_{s <= r < t} softplus(z_tr), z the scaled products, the weight is exp(z_ts - c_ts). Shapes: B sequences, T steps,
H heads, K channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def stick_breaking_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Causal stick-breaking attention: on a GPU by the kernels of `kernels.py`, else by torch's operators.

    Args:
        q, k, v: [B, T, H, K], on a GPU in K of 16, 32, 64 or 128.
        cu_seqlens: int [N + 1], where sequences packed along time begin, and T; with B = 1.

    Returns:
        [B, T, H, K], in the type of v.
    """
    start = starts(q.shape[1], cu_seqlens, q.device)
    if q.is_cuda:
        from .kernels import attend

        return attend(q, k, v, start, cu_seqlens)
    places = torch.arange(q.shape[1], device=q.device)
    return plain(q, k, v, places >= start[:, None])


def starts(steps: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Return for each of the T steps where its sequence begins, int64 [T]."""
    places = torch.arange(steps, device=device)
    if cu_seqlens is None:
        return torch.zeros_like(places)
    bounds = cu_seqlens.long()
    return bounds[torch.searchsorted(bounds, places, right=True) - 1]


def plain(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """The same of the last T of S steps, with every weight in memory.

    Args:
        q: [B, T, H, K].
        k, v: [B, S, H, K], S >= T.
        visible: bool, [T, S] or what extends to [B, H, T, S]: which keys a query may see, besides those that come later;
            None: all.

    Returns:
        [B, T, H, K].
    """
    steps, keys = q.shape[1], k.shape[1]
    dtype = torch.promote_types(q.dtype, torch.float32)
    z = torch.einsum("bthk,bshk->bhts", q, k).to(dtype) * q.shape[-1] ** -0.5
    seen = torch.ones(steps, keys, dtype=torch.bool, device=q.device).tril(keys - steps - 1)
    seen = seen if visible is None else seen & visible
    taken = F.softplus(z).where(seen, 0)
    after = taken.flip(-1).cumsum(-1).flip(-1)
    weights = (z - after).masked_fill(~seen, -torch.inf).exp()
    left = (-taken.sum(-1)).exp().transpose(1, 2)[..., None]
    return torch.einsum("bhts,bshk->bthk", weights.to(v.dtype), v) + (left * v[:, keys - steps :]).to(v.dtype)
