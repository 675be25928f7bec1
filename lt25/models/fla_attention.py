"""Attention in the layers of flash-linear-attention's models, which call flash-attn's two functions.

Where that package is not installed, their layers could not be built; they get those of `lt25.models.attention`, which compute the
same by torch's own kernels. Over packed texts FLA's layers name the number of all tokens as the longest text's length. Of what is
launched for 32,768 tokens and texts of some hundred most ends without work, and still takes longer than the rest: they get a
function that knows the longest text's length.
"""

from typing import Any

import fla.layers.attn
from fla.utils import tensor_cache
from torch import Tensor

from lt25.models.attention import attention, packed_attention

if fla.layers.attn.flash_attn_func is None:
    fla.layers.attn.flash_attn_func, fla.layers.attn.flash_attn_varlen_func = attention, packed_attention
_packed: Any = fla.layers.attn.flash_attn_varlen_func


@tensor_cache
def _longest(cu_seqlens: Tensor) -> Tensor:
    """The longest text's length; the host waits for it once a batch, as it does for what FLA's rotary embedding needs."""
    return cu_seqlens.diff().max().cpu()


def packed(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **others: Any) -> Tensor:
    """Stand for flash-attn's `flash_attn_varlen_func`, see `lt25.models.attention.packed_attention`."""
    if cu_seqlens_q is cu_seqlens_k:
        others["max_seqlen_q"] = others["max_seqlen_k"] = int(_longest(cu_seqlens_q))
    return _packed(q, k, v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, **others)


fla.layers.attn.flash_attn_varlen_func = packed
