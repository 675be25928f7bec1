"""Mamba-2 by flash-linear-attention's kernels of gated linear attention, where the package mamba-ssm is not installed.

Without it FLA's layer keeps every product of a chunk in memory, 137 GB in a layer of the 340M model at 8 x 4096 tokens. What the
layer computes, h_t = exp(dt_t A) h_{t-1} + B_t (dt_t x_t) and y_t = C_t h_t with one number A for each head, is linear attention
with a decay. Importing the module gives the layer `chunked` for what it computes on a GPU, but for single tokens.
"""

from typing import Any

import torch.nn.functional as F
from fla.layers import mamba2
from fla.modules.causal_conv1d import causal_conv1d
from fla.ops.simple_gla import chunk_simple_gla
from torch import Tensor

# Decorated in ways that no type checker follows.
_convolve: Any = causal_conv1d
_scan: Any = chunk_simple_gla
_plain: Any = mamba2.Mamba2.torch_forward


def chunked(
    layer: Any, x: Tensor, use_cache: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run a layer over whole texts.

    Args:
        layer: an ``fla.layers.mamba2.Mamba2``.
        x: [B, T, D].
        use_cache: return states too.
        mask: [B, T], 0 for padding; or None.

    Returns:
        [B, T, D]; the last inputs of the convolution [B, C, conv_kernel_size], and the state [B, heads, head_dim, state_size], or
        None for both.
    """
    heads, groups, inner = layer.num_heads, layer.n_groups, layer.intermediate_size
    sizes = [inner, layer.conv_dim, heads]
    gate, mixed, dt = layer.in_proj(x)[..., -sum(sizes) :].split(sizes, -1)
    here = None if mask is None or mask.shape != x.shape[:2] else mask[..., None].to(x.dtype)
    mixed = mixed if here is None else mixed * here
    last = F.pad(mixed.transpose(1, 2), (layer.conv_kernel_size - x.shape[1], 0)) if use_cache else None
    weight = layer.conv1d.weight.squeeze(1)
    mixed, _ = _convolve(
        x=mixed.contiguous(), weight=weight, bias=layer.conv1d.bias, activation=layer.activation, backend="triton"
    )
    mixed = mixed if here is None else mixed * here
    of_groups = groups * layer.ssm_state_size
    v, k, q = mixed.split([inner, of_groups, of_groups], -1)
    v = v.unflatten(-1, (heads, -1))
    k, q = (part.unflatten(-1, (groups, -1)).repeat_interleave(heads // groups, 2) for part in (k, q))
    dt = F.softplus(dt.float() + layer.dt_bias.float()).clamp(*layer.dt_limit)
    decay = dt * -layer.A_log.float().exp()
    moved = (v * dt[..., None]).to(v.dtype)
    y, state = _scan(q, k, moved, decay, scale=1.0, output_final_state=use_cache, state_v_first=True)
    y = (y + v * layer._get_D(expand_to_head_dim=True)).to(v.dtype).flatten(2)
    y = layer.norm(y, gate) if layer.rmsnorm else y * layer.act(gate)
    return layer.out_proj(y.to(x.dtype)), last, state


def forward(
    self: mamba2.Mamba2,
    input_states: Tensor,
    last_state: dict | None = None,
    use_cache: bool = False,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Stand for a layer's ``torch_forward``, whose arguments and results it has: `chunked`, where it can."""
    if last_state is None and input_states.is_cuda:
        return chunked(self, input_states, bool(use_cache), attention_mask)
    return _plain(self, input_states, last_state, use_cache, attention_mask)


if not mamba2.is_fast_path_available:
    mamba2.Mamba2.torch_forward = forward
