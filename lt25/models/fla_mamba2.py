"""Mamba-2 by lt25's scan, where the package mamba-ssm is not installed.

Without it FLA's layer keeps every product of a chunk in memory, 137 GB in a layer of the 340M model at 8 x 4096 tokens; and of
several groups it gives the heads another's B and C than mamba-ssm does, and than the layer itself does when it writes token by
token. Importing the module gives the layer `scanned`, but for single tokens.
"""

import logging
from typing import Any

import torch.nn.functional as F
from fla.layers import mamba2
from torch import Tensor

from lt25.models import fla_conv
from lt25.ops import ssd_scan

# Decorated in ways that no type checker follows.
_plain: Any = mamba2.Mamba2.torch_forward


def scanned(
    layer: Any, x: Tensor, use_cache: bool = False, mask: Tensor | None = None, backend: str | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run a layer over whole texts.

    Args:
        layer: an ``fla.layers.mamba2.Mamba2``.
        x: [B, T, D].
        use_cache: return states too.
        mask: [B, T], 0 for padding; or None.
        backend: as for `lt25.ops.causal_conv` and `lt25.ops.ssd_scan`.

    Returns:
        [B, T, D]; the last inputs of the convolution [B, C, conv_kernel_size], and the state [B, heads, head_dim, state_size], or
        None for both.
    """
    heads, inner = layer.num_heads, layer.intermediate_size
    sizes = [inner, layer.conv_dim, heads]
    gate, mixed, dt = layer.in_proj(x).split(sizes, -1)
    here = None if mask is None or mask.shape != x.shape[:2] else mask[..., None].to(mixed.dtype)
    mixed = mixed if here is None else mixed * here
    last = F.pad(mixed.transpose(1, 2), (layer.conv_kernel_size - x.shape[1], 0)) if use_cache else None
    mixed = fla_conv.of_mamba(layer, mixed, here, None, backend)
    dt = F.softplus(dt.float() + layer.dt_bias.float()).clamp(*layer.dt_limit)
    log_decay = dt * -layer.A_log.float().exp()
    y, state = ssd_scan(mixed, dt, log_decay, layer._get_D(expand_to_head_dim=True), layer.n_groups, backend)
    y = layer.norm(y, gate) if layer.rmsnorm else y * layer.act(gate)
    return layer.out_proj(y), last, state if use_cache else None


def forward(
    self: mamba2.Mamba2,
    input_states: Tensor,
    last_state: dict | None = None,
    use_cache: bool = False,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Stand for a layer's ``torch_forward``, whose arguments and results it has: `scanned`, where it can."""
    if last_state is None:
        return scanned(self, input_states, bool(use_cache), attention_mask)
    return _plain(self, input_states, last_state, use_cache, attention_mask)


if not mamba2.is_fast_path_available:
    mamba2.Mamba2.torch_forward = forward
    # Layers warn of ways that are not taken now.
    logging.getLogger(mamba2.__name__).setLevel(logging.ERROR)
