"""Mamba by lt25's selective scan: packed texts, and all others where the package mamba-ssm is not installed.

Without it FLA's layer goes through a text step by step and keeps several tensors of the states of all steps in memory, each of
4.3 GB in a layer of the 340M model at 8 x 4096 tokens. Boundaries of packed texts it passes over either way. Importing the module
gives the layer `scanned` for both, but for single tokens.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fla.layers import mamba
from torch import Tensor

from lt25.models import fla_conv
from lt25.ops import selective_scan

# Decorated in ways that no type checker follows.
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
        layer: an ``fla.layers.mamba.Mamba``.
        x: [B, T, D].
        use_cache: return states too.
        mask: [B, T], 0 for padding; or None.
        cu_seqlens: boundaries of packed texts, as for `lt25.ops.selective_scan`; or None.
        backend: as for `lt25.ops.causal_conv` and `lt25.ops.selective_scan`.

    Returns:
        [B, T, D]; the last inputs of the convolution [B, C, conv_kernel_size] and the state [B, C, state_size] (of each
        text, if they are packed), or None for both.
    """
    values, gate = layer.in_proj(x).chunk(2, -1)
    here = None if mask is None else mask[..., None].to(values.dtype)
    values = values if here is None else values * here
    last = layer._build_conv_state(values.transpose(1, 2)) if use_cache else None
    values = fla_conv.of_mamba(layer, values, here, cu_seqlens, backend)
    size = layer.ssm_state_size
    steps, write, read = layer.x_proj(values).split([layer.dt_rank, size, size], -1)
    # The bias is added in the scan: of small steps it is what counts, and half precision would round it.
    steps, rates = F.linear(steps, layer.dt_proj.weight), -torch.exp(layer.A_log.float())
    parameters = layer.D, layer.dt_proj.bias
    fused = layer.activation in fla_conv.SILU
    y, state = selective_scan(
        values, steps, rates, write, read, *parameters, gate if fused else None, cu_seqlens, backend
    )
    y = y if fused else y * layer.act(gate)
    return layer.out_proj(y), last, state if use_cache else None


def _instead_of(own: Any, everywhere: bool) -> Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]:
    """Make what stands for a way of a layer, whose arguments and results it has: `scanned`, where it can.

    Args:
        own: the layer's way.
        everywhere: on a GPU take no other; otherwise only for packed texts.
    """

    def forward(
        self: mamba.Mamba,
        hidden: Tensor,
        last_state: dict | None = None,
        use_cache: bool | None = False,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **named: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if last_state is None and (cu_seqlens is not None or (everywhere and hidden.is_cuda)):
            return scanned(self, hidden, bool(use_cache), attention_mask, cu_seqlens)
        return own(self, hidden, last_state, use_cache, attention_mask, **named)

    return forward


mamba.Mamba.slow_forward = _instead_of(_plain, True)
mamba.Mamba.cuda_kernels_forward = _instead_of(mamba.Mamba.cuda_kernels_forward, False)
if not mamba.is_fast_path_available:
    # Layers warn of a way that is not taken now.
    logging.getLogger(mamba.__name__).setLevel(logging.ERROR)
