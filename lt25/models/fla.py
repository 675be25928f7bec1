"""flash-linear-attention's families, which importing this enters into transformers' Auto classes.

Where the package flash-attn is not installed, FLA's attention layers cannot be built. They then get those of
`lt25.models.attention` in its place, which compute the same by torch's own kernels. Where it is known how kernels are fastest,
they are launched so (`lt25.models.fla_tuned`); what is not known is tuned quickly.
"""

from typing import Any

import fla.layers.attn
import fla.models
import torch
from fla.utils import tensor_cache
from torch import Tensor

# They put into FLA what it lacks, or computes in more passes.
import lt25.models.fla_gla
import lt25.models.fla_hopper
import lt25.models.fla_mamba
import lt25.models.fla_mamba2
import lt25.models.fla_maps
import lt25.models.fla_rotary
import lt25.models.fla_rows  # noqa: F401
from lt25.compiling import tune_quickly
from lt25.models.attention import attention, packed_attention
from lt25.models.fla_tuned import use_tuned

if fla.layers.attn.flash_attn_func is None:
    fla.layers.attn.flash_attn_func, fla.layers.attn.flash_attn_varlen_func = attention, packed_attention
_packed: Any = fla.layers.attn.flash_attn_varlen_func


@tensor_cache
def _longest(cu_seqlens: Tensor) -> Tensor:
    """The longest sequence's length, for which the host waits once a batch, as for what FLA's rotary embedding needs."""
    return cu_seqlens.diff().max().cpu()


def packed(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **others: Any) -> Tensor:
    """Stand for `flash_attn_varlen_func`, with the length of the longest sequence where FLA's layers name all tokens.

    Of what is launched for a bound of 32,768 and texts of some hundred tokens most ends without work, and still takes longer
    than the rest.
    """
    if cu_seqlens_q is cu_seqlens_k:
        others["max_seqlen_q"] = others["max_seqlen_k"] = int(_longest(cu_seqlens_q))
    return _packed(q, k, v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, **others)


fla.layers.attn.flash_attn_varlen_func = packed

if torch.cuda.is_available():
    tune_quickly()
use_tuned()
