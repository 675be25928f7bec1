"""Mamba by lt25's selective scan, where the package mamba-ssm is not installed.

Without it FLA's layer goes through a text step by step and keeps several tensors of the states of all steps in memory, of 4.3 GB
each in a layer of the 340M model at 8 x 4096 tokens. Importing the module gives the layer `scanned` for what it computes on a GPU, but for single tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from fla.layers import mamba
from fla.modules.causal_conv1d import causal_conv1d
from torch import Tensor

from lt25.ops import selective_scan

# Decorated in ways that no type checker follows.
_convolve: Any = causal_conv1d
_plain: Any = mamba.Mamba.slow_forward


def scanned(
    layer: Any,
    x: Tensor,
    use_cache: bool = False,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run a layer over whole texts.

    Args:
        layer: an ``fla.layers.mamba.Mamba``, whose activation is silu.
        x: [B, T, D].
        use_cache: return states too.
        mask: [B, T], 0 for padding; or None.
        cu_seqlens: boundaries of packed texts as for `lt25.ops.selective_scan`; or None.
        backend: as for `lt25.ops.selective_scan`.

    Returns:
        [B, T, D]; the last inputs of the convolution [B, C, conv_kernel_size], and the state [B, C, state_size], or None for both.
    """
    values, gate = layer.in_proj(x).chunk(2, -1)
    here = None if mask is None else mask[..., None].to(x.dtype)
    values = values.contiguous() if here is None else values * here
    last = layer._build_conv_state(values.transpose(1, 2)) if use_cache else None
    weight, bias = layer.conv1d.weight.squeeze(1), layer.conv1d.bias
    values, _ = _convolve(
        x=values, weight=weight, bias=bias, activation="silu", backend="triton", cu_seqlens=cu_seqlens
    )
    values = values if here is None else values * here
    rank, size = layer.dt_rank, layer.ssm_state_size
    steps, write, read = layer.x_proj(values).split([rank, size, size], -1)
    steps = F.linear(steps, layer.dt_proj.weight)
    rates = -torch.exp(layer.A_log.float())
    y, state = selective_scan(values, steps, rates, write, read, layer.D, layer.dt_proj.bias, gate, cu_seqlens, backend)
    return layer.out_proj(y), last, state if use_cache else None


def forward(
    self: mamba.Mamba,
    input_states: Tensor,
    last_state: dict | None = None,
    use_cache: bool | None = False,
    attention_mask: Tensor | None = None,
    **named: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Stand for a layer's ``slow_forward``, whose arguments and results it has: `scanned`, where it can."""
    if last_state is None and input_states.is_cuda and self.activation in ("silu", "swish"):
        return scanned(self, input_states, bool(use_cache), attention_mask)
    return _plain(self, input_states, last_state, use_cache, attention_mask, **named)


if not mamba.is_fast_path_available:
    mamba.Mamba.slow_forward = forward
