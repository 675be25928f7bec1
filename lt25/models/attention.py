"""Causal attention by torch's kernels, with flash-attn's arguments; and of sequences that several processes share."""

from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from lt25.ops.context import joined, part_of


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
    """Causal attention, flash-attn's `flash_attn_func`: the last query is at the place of the last key.

    Args:
        q: [B, T, H, K].
        k, v: [B, S, G, K], S >= T, with a key and a value for each H / G queries.
        causal: True; there is no other here.
        window_size: how many keys before its own place a query sees, and 0; (-1, -1) for all.

    Returns:
        [B, T, H, K].
    """
    assert causal
    queries, keys, left = q.shape[1], k.shape[1], window_size[0]
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mask = None
    if left >= 0 or queries != keys:
        distance = torch.arange(keys - queries, keys, device=q.device)[:, None] - torch.arange(keys, device=q.device)
        mask = (distance >= 0) & (distance <= left) if left >= 0 else distance >= 0
    o = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1])
    return o.transpose(1, 2)


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = True,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """`attention` within each of several sequences packed along time, flash-attn's `flash_attn_varlen_func`.

    Args:
        q: [T, H, K].
        k, v: [S, G, K].
        cu_seqlens_q, cu_seqlens_k: int [N + 1], where sequences begin in q and in k, and their end.
        max_seqlen_q, max_seqlen_k: at least the longest sequences' lengths.
        causal, window_size: as of `attention`.

    Returns:
        [T, H, K].
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        if q.shape[1] != k.shape[1]:
            # torch's own takes a key for each query.
            k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        window = (window_size[0], 0)
        lengths = int(max_seqlen_q), int(max_seqlen_k)
        return cast(Tensor, varlen_attn(q, k, v, cu_seqlens_q.int(), cu_seqlens_k.int(), *lengths, window_size=window))
    pieces = zip(
        q.split(cu_seqlens_q.diff().tolist()),
        k.split(cu_seqlens_k.diff().tolist()),
        v.split(cu_seqlens_k.diff().tolist()),
        strict=True,
    )
    return torch.cat([attention(q[None], k[None], v[None], causal, window_size)[0] for q, k, v in pieces if len(q)])


def shared_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    group: dist.ProcessGroup,
    cu_seqlens: Tensor | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """`attention` of this process's part of sequences that a group shares: its queries, and the keys of all parts up to it.

    Args:
        q: [B, T, H, K], with positions counted over all parts.
        k, v: [B, T, G, K].
        group: the processes, each of which has T steps.
        cu_seqlens: int [N + 1], boundaries of sequences packed along time, counted over all parts; then B is 1.
        window_size: as of `attention`.

    Returns:
        [B, T, H, K].
    """
    batch, steps = q.shape[:2]
    start = dist.get_rank(group) * steps
    end = start + steps
    k, v = (joined(part, group)[:, :end].flatten(0, 1) for part in (k, v))
    if cu_seqlens is None:
        each = torch.arange(batch + 1, device=q.device)
        queries, keys = each * steps, each * end
    else:
        # A sequence that ended before this part has keys and no queries.
        queries, keys = part_of(cu_seqlens, start, steps), cu_seqlens.clamp_max(end)
    o = packed_attention(q.flatten(0, 1), k, v, queries, keys, steps, end, window_size=window_size)
    return o.unflatten(0, (batch, steps))
