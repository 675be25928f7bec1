"""RMS norms, with and without a gate, and gated MLPs of flash-linear-attention's models, by lt25's operators.

They compute the same in fewer passes over memory: the backward pass of a norm takes a quarter of the time, SwiGLU's six tenths
(benchmarks/RESULTS.md, architectures), and the two products before SwiGLU are one. The norm at the start of a block hands on its
input, and so computes the gradient of both uses of it, which autograd would add up in a pass of its own.

Importing the module puts `rms_norm`, `rms_norm_gated`, `rmsnorm_fn`, `forward` and `normed_first` in the places of FLA's; what
these cannot do goes FLA's own way.
"""

from functools import wraps
from typing import Any

import torch
from fla.models.delta_net.modeling_delta_net import DeltaNetBlock
from fla.models.gated_deltanet.modeling_gated_deltanet import GatedDeltaNetBlock
from fla.models.gla.modeling_gla import GLABlock
from fla.models.gsa.modeling_gsa import GSABlock
from fla.models.hgrn.modeling_hgrn import HGRNBlock
from fla.models.hgrn2.modeling_hgrn2 import HGRN2Block
from fla.models.mamba.modeling_mamba import MambaBlock
from fla.models.mamba2.modeling_mamba2 import Mamba2Block
from fla.models.retnet.modeling_retnet import RetNetBlock
from fla.models.transformer.modeling_transformer import TransformerBlock
from fla.modules import RMSNorm
from fla.modules.mlp import GatedMLP
from fla.modules.norm import fused_norm_gate, layernorm, layernorm_gated
from torch import Tensor, nn

from lt25.models.forward import called_instead
from lt25.models.plain import is_plain
from lt25.ops import add_rms_norm, gated_mlp, gated_rms_norm

# FLA gives the module another type for other hardware.
_norms: Any = layernorm
_gated_norms: Any = fused_norm_gate
_norms_of_mamba: Any = layernorm_gated
_rms_norm: Any = _norms.rms_norm
_rms_norm_gated: Any = _gated_norms.rms_norm_gated
_rmsnorm_fn: Any = _norms_of_mamba.rmsnorm_fn
_gated_mlp: Any = GatedMLP.forward
_BLOCKS: tuple[Any, ...] = (
    DeltaNetBlock,
    GatedDeltaNetBlock,
    GLABlock,
    GSABlock,
    HGRN2Block,
    HGRNBlock,
    Mamba2Block,
    MambaBlock,
    RetNetBlock,
    TransformerBlock,
)
_blocks = [(block, block.forward) for block in _BLOCKS]


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Stand for FLA's function of this name, whose arguments it has.

    Returns:
        The norm of x + residual, [..., H] in x's dtype; with ``prenorm`` also their sum.
    """
    if weight is None or bias is not None or residual_in_fp32:
        return _rms_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32)
    normed, total = add_rms_norm(x, residual, weight, eps)
    return (normed, total) if prenorm else normed


def rms_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
) -> Tensor | tuple[Tensor, Tensor]:
    """Stand for FLA's function of this name, whose arguments it has.

    Returns:
        The norm of x times the gate's activation, [..., H] in x's dtype.
    """
    more = bias is not None or residual is not None or prenorm
    if weight is None or more or activation not in ("swish", "silu") or not x.is_cuda:
        return _rms_norm_gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps)
    return gated_rms_norm(x, g, weight, eps)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """Stand for FLA's function of this name, the norm of Mamba-2, whose arguments and result it has."""
    if z is None or bias is not None or group_size not in (None, x.shape[-1]) or not x.is_cuda:
        return _rmsnorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate)
    return gated_rms_norm(x, z, weight, eps, not norm_before_gate)


def forward(self: Any, x: Tensor, **others: Any) -> Tensor:
    """Stand for FLA's gated MLP: [..., H] to [..., H]."""
    maps = self.gate_proj, self.up_proj, self.down_proj
    if self.hidden_act != "swish" or not is_plain(nn.Linear, *maps) or any(each.bias is not None for each in maps):
        return _gated_mlp(self, x, **others)
    return gated_mlp(x, *(each.weight for each in maps))


def normed_first(own: Any) -> Any:
    """Make what stands for the forward of a block, which adds what it computes of the norm of its input to the input."""

    @wraps(own)
    def forward(self: Any, hidden_states: Tensor, *others: Any, **named: Any) -> Any:
        name = "norm" if hasattr(self, "norm") else "attn_norm"
        norm = getattr(self, name)
        usual = type(hidden_states) is Tensor and not getattr(self, "use_attnres", False) and is_plain(RMSNorm, norm)
        if not usual or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return own(self, hidden_states, *others, **named)
        normed, same = norm(hidden_states, prenorm=True)
        with called_instead(self, {name: _Handed(normed, norm.weight)}):
            return own(self, same, *others, **named)

    return forward


class _Handed:
    """Called as a norm of whose input the result is known."""

    def __init__(self, normed: Tensor, weight: Tensor) -> None:
        self.normed, self.weight = normed, weight

    def __call__(self, _: Tensor) -> Tensor:
        return self.normed


def give_back() -> None:
    """Let FLA compute norms and MLPs itself."""
    _norms.rms_norm, _gated_norms.rms_norm_gated, GatedMLP.forward = _rms_norm, _rms_norm_gated, _gated_mlp
    _norms_of_mamba.rmsnorm_fn = _rmsnorm_fn
    for block, own in _blocks:
        block.forward = own


_norms.rms_norm, _gated_norms.rms_norm_gated, GatedMLP.forward = rms_norm, rms_norm_gated, forward
_norms_of_mamba.rmsnorm_fn = rmsnorm_fn
for block, own in _blocks:
    block.forward = normed_first(own)
