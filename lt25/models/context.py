"""Models whose sequences several processes share, beside HGRN, which does so itself: how attention reads the parts of others."""

from typing import Any, cast

import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface

from lt25.errors import UserError
from lt25.models.attention import shared_attention

_SHARED = "lt25_shared"


def share_sequences(model: Any, group: dist.ProcessGroup) -> None:
    """Let the processes of a group share the sequences that a model reads, each an equal part of every one.

    Args:
        model: one of a family with context parallelism.
        group: the processes.

    Raises:
        UserError: if nothing here shares the sequences of the model's family, or its kernels want another GPU.
    """
    match model.config.model_type:
        case "lt25_hgrn":
            model.share_sequences(group)
        case "transformer" | "gated_deltanet" | "rwkv7":
            # Other models need not wait until FLA is imported.
            from lt25.models import fla_context

            fla_context.share_sequences(model, group)
        case "llama":
            _share_attention(model, group)
        case other:
            raise UserError(
                f"parallelism.context_parallel_degree: found {dist.get_world_size(group)}, but nothing shares the sequences of "
                f"{other}: use 1"
            )


def _share_attention(model: Any, group: dist.ProcessGroup) -> None:
    """Let a model of transformers' compute attention by `shared_attention`; its positions are those that it is given."""

    def attention(
        module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return shared_attention(q, k, v, group), None

    AttentionInterface.register(_SHARED, cast(Any, attention))
    model.config._attn_implementation = _SHARED
