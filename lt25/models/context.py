"""Models whose sequences several processes share, beside HGRN, which does so itself: how attention reads the parts of others."""

from typing import Any, cast

import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface

from lt25.errors import UserError
from lt25.models.attention import shared_attention
from lt25.ops.context import part_of

_SHARED = "lt25_shared"


def share_sequences(model: Any, group: dist.ProcessGroup) -> None:
    """Let the processes of a group share the sequences that a model reads, each an equal part of every one.

    Args:
        model: one of a family with context parallelism.
        group: the processes.

    Raises:
        UserError: for a setting of the model's that does not go with it.
    """
    match model.config.model_type:
        case "lt25_hgrn":
            model.share_sequences(group)
        case "transformer":
            for layer in model.base_model.layers:
                _share_fla_attention(layer.attn, group)
        case "llama":
            if model.config.attention_dropout:
                raise UserError("model.attention_dropout: not with context parallelism: use 0")
            _share_attention_of_transformers(model, group)


def _share_fla_attention(layer: Any, group: dist.ProcessGroup) -> None:
    """Give an attention layer of flash-linear-attention's a forward pass for its part of packed sequences."""

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


def _share_attention_of_transformers(model: Any, group: dist.ProcessGroup) -> None:
    """Let a model of transformers' compute attention by `shared_attention`; its positions are those that it is given."""

    def attention(
        module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return shared_attention(q, k, v, group), None

    AttentionInterface.register(_SHARED, cast(Any, attention))
    model.config._attn_implementation = _SHARED
