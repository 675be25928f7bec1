"""Models of flash-linear-attention whose sequences several processes share: texts packed along time, an equal part on each.

FLA's recurrences, short convolutions and token shifts exchange states and gradients themselves (`fla.ops.cp`), if they are given
a context: what a process must know of all packed texts to compute with its part of them. FLA's layers give them none. Here their
calls, which name the boundaries of the texts, get the context that follows from these. Attention gathers keys and values.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from fla.layers.attn import Attention
from fla.layers.gated_deltanet import GatedDeltaNet
from fla.layers.rwkv7 import RWKV7Attention
from fla.models.rwkv7.modeling_rwkv7 import RWKV7FeedForward
from fla.modules.causal_conv1d import ShortConvolution, causal_conv1d
from fla.modules.token_shift_cp import token_shift_cp
from fla.ops.cp import FLACPContext, build_cp_context
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.rwkv7 import chunk_rwkv7
from torch import Tensor

from lt25.errors import UserError
from lt25.models.attention import shared_attention
from lt25.models.forward import call_others
from lt25.ops.context import part_of

# Decorated in a way that no type checker follows.
_shift: Any = token_shift_cp
# How RWKV7's layers call their kernel: decays are at least exp(-exp(-1/2)).
_OF_TRAINING = {"safe_gate": True, "lower_bound": -math.exp(-0.5), "chunk_size": 64}


def share_sequences(model: Any, group: dist.ProcessGroup) -> None:
    """Let the processes of a group share the sequences that a model of FLA's reads.

    Args:
        model: a transformer, gated_deltanet or rwkv7, which from now on wants ``cu_seqlens``, counted over all parts.
        group: the processes.

    Raises:
        UserError: if the GPU is none that FLA's kernels for it take.
    """
    on_gpu, recurrent = torch.cuda.is_available(), model.config.model_type != "transformer"
    if on_gpu and recurrent and (torch.version.hip or torch.cuda.get_device_capability() < (8, 0)):
        raise UserError(
            f"parallelism.context_parallel_degree: found {dist.get_world_size(group)}, but FLA's kernels for it take an NVIDIA "
            "GPU of compute capability 8.0 or more: use 1"
        )
    model.base_model.register_forward_pre_hook(_without_cache, with_kwargs=True)
    calls = _Calls(group, getattr(model.config, "conv_size", None))
    for module in model.base_model.layers.modules():
        match module:
            case Attention():
                _share_attention(module, group)
            case ShortConvolution():
                call_others(module, causal_conv1d=partial(calls.given, causal_conv1d))
            case GatedDeltaNet():
                rule = partial(calls.given, chunk_gated_delta_rule)
                call_others(module, chunk_gated_delta_rule=rule, fused_recurrent_gated_delta_rule=rule)
            case RWKV7Attention():
                rule, few = partial(calls.given, chunk_rwkv7), calls.recurrent_rwkv7
                call_others(module, chunk_rwkv7=rule, fused_mul_recurrent_rwkv7=few, token_shift=calls.token_shift)
            case RWKV7FeedForward():
                call_others(module, token_shift=calls.token_shift)


def _without_cache(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A part's states are of no use to whoever goes on with the text."""
    return inputs, {**named, "use_cache": False}


class _Calls:
    """What layers call in place of functions of FLA's, with the same arguments.

    Args:
        group: the processes that share the sequences.
        conv_size: steps that the model's short convolutions span; None if it has none.
    """

    def __init__(self, group: dist.ProcessGroup, conv_size: int | None) -> None:
        self.group, self.conv_size = group, conv_size

    def context(self, cu_seqlens: Tensor) -> FLACPContext:
        """Compute it for the first of a batch's calls: FLA remembers it by its arguments."""
        return build_cp_context(cu_seqlens, self.group, conv1d_kernel_size=self.conv_size)

    def given(self, function: Any, *, cu_seqlens: Tensor, **arguments: Any) -> Any:
        """Call a function that takes a context."""
        return function(cp_context=self.context(cu_seqlens), **arguments)

    def recurrent_rwkv7(self, *, kk: Tensor, a: Tensor, **arguments: Any) -> Any:
        """What layers call for few steps without gradients takes no context: compute what they call in training."""
        return self.given(chunk_rwkv7, a=-kk, b=kk * a, **_OF_TRAINING, **arguments)

    def token_shift(self, x: Tensor, cu_seqlens: Tensor, **_: Any) -> tuple[Tensor, None]:
        return _shift(x, self.context(cu_seqlens)), None


def _share_attention(layer: Any, group: dist.ProcessGroup) -> None:
    """Give an attention layer a forward pass for its part of packed sequences."""

    def forward(hidden_states: Tensor, cu_seqlens: Tensor, **_: Any) -> tuple[Tensor, None, None]:
        steps, projections = hidden_states.shape[1], (layer.q_proj, layer.k_proj, layer.v_proj)
        q, k, v = (project(hidden_states).unflatten(-1, (-1, layer.head_dim)) for project in projections)
        if layer.qk_norm:
            q, k = layer.q_norm(q), layer.k_norm(k)
        start, total = dist.get_rank(group) * steps, dist.get_world_size(group) * steps
        own = part_of(cu_seqlens, start, steps)
        # The sequence that this part begins in the middle of has come so far.
        before = (start - cu_seqlens[:-1]).clamp_min(0)
        q, k = layer.rotary(q, k, seqlen_offset=before, max_seqlen=total, cu_seqlens=own)
        window = (-1, -1) if layer.window_size is None else (layer.window_size - 1, 0)
        o = shared_attention(q, k, v, group, cu_seqlens, window)
        return layer.o_proj(o.flatten(2)), None, None

    layer.forward = forward
