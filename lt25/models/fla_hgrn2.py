"""Forget gates of flash-linear-attention's hgrn2 in one pass.

FLA goes from the map of a gate to its logarithm and to the keys in some ten passes, most of them in float32. Importing the module
gives hgrn2's layers `forward`; what this cannot do goes FLA's own way.
"""

from functools import wraps
from typing import Any

import torch
from fla.layers import hgrn2
from fla.modules.activations import swish
from fla.utils import input_guard
from torch import Tensor

from lt25.models.fla_gla import chunk_gla, trains
from lt25.ops.backends import triton_hgrn2

# Decorated in ways that no type checker follows.
_guard: Any = input_guard
_layer: Any = hgrn2.HGRN2Attention.forward
_swish: Any = swish
_out: Any = hgrn2.rms_norm_linear


class _Gates(torch.autograd.Function):
    @staticmethod
    @_guard
    def forward(ctx: Any, z: Tensor, bound: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z, bound)
        return triton_hgrn2.forward(z, bound)

    @staticmethod
    @_guard
    def backward(ctx: Any, dk: Tensor, dg: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        z, bound = ctx.saved_tensors
        return triton_hgrn2.backward(z, bound, dk, dg)


@wraps(_layer)
def forward(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = False,
    output_attentions: bool | None = False,
    lower_bound: Tensor | None = None,
    **named: Any,
) -> tuple[Tensor, None, Any]:
    """Stand for hgrn2's layer, whose arguments and results it has."""
    cu_seqlens = named.get("cu_seqlens")
    padded = attention_mask is not None and cu_seqlens is None
    more = self.use_short_conv or self.mode != "chunk" or use_cache or past_key_values is not None
    strange = isinstance(lower_bound, Tensor) and lower_bound.shape != (self.forget_dim,)
    if padded or more or strange or not trains(hidden_states, cu_seqlens):
        kept = past_key_values, use_cache, output_attentions, lower_bound
        return _layer(self, hidden_states, attention_mask, *kept, **named)
    # The first layer's bound is zero.
    bound = lower_bound.float() if isinstance(lower_bound, Tensor) and self.layer_idx > 0 else None
    q, i = _swish(self.q_proj(hidden_states)), self.i_proj(hidden_states)
    k, g = _Gates.apply(self.f_proj(hidden_states), bound)
    q, k, g = (x.unflatten(-1, (-1, self.head_f_dim)) for x in (q, k, g))
    o, _ = chunk_gla(q, k, i.unflatten(-1, (-1, self.head_i_dim)), g, cu_seqlens=cu_seqlens)
    norm, out = self.g_norm, self.o_proj
    return _out(o.flatten(2), norm.weight, norm.bias, out.weight, out.bias), None, past_key_values


hgrn2.HGRN2Attention.forward = forward
