"""Attention in the layers of flash-linear-attention's models, which call flash-attn's two functions.

Where that package is not installed, their layers could not be built; they get those of `lt25.models.attention`, which compute the
same by torch's own kernels. Over packed texts FLA's layers name the number of all tokens as the longest text's length. Of what is
launched for 32,768 tokens and texts of some hundred most ends without work, and still takes longer than the rest: they get a
function that knows the lengths. Texts of one length, as windows without boundaries in them are, it takes as a batch, for which
torch has faster kernels on a Hopper GPU (benchmarks/RESULTS.md, architectures).
"""

from typing import Any

import fla.layers.attn
from fla.utils import tensor_cache
from torch import Tensor

from lt25.models.attention import attention, packed_attention

if fla.layers.attn.flash_attn_func is None:
    fla.layers.attn.flash_attn_func, fla.layers.attn.flash_attn_varlen_func = attention, packed_attention
_batch: Any = fla.layers.attn.flash_attn_func
_packed: Any = fla.layers.attn.flash_attn_varlen_func
_tensor_cache: Any = tensor_cache


@_tensor_cache
def _lengths(cu_seqlens: Tensor) -> tuple[int, bool]:
    """The longest text's length, and whether all have it that are not empty.

    The host waits for them once a batch, as it does for what FLA's rotary embedding needs.
    """
    lengths = cu_seqlens.diff().tolist()
    longest = max(lengths)
    return longest, all(length in (0, longest) for length in lengths)


def packed(
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
    """Stand for flash-attn's `flash_attn_varlen_func`, see `lt25.models.attention.packed_attention`."""
    if cu_seqlens_q is cu_seqlens_k:
        longest, equal = _lengths(cu_seqlens_q)
        if equal and longest and not 0 <= window_size[0] < longest:
            texts = (part.unflatten(0, (-1, longest)) for part in (q, k, v))
            return _batch(*texts, causal=causal).flatten(0, 1)
        max_seqlen_q = max_seqlen_k = longest
    bounds = {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    lengths = {"max_seqlen_q": max_seqlen_q, "max_seqlen_k": max_seqlen_k}
    return _packed(q, k, v, **bounds, **lengths, causal=causal, window_size=window_size)


fla.layers.attn.flash_attn_varlen_func = packed
