"""The input side of models that read features (pixels, log-mel frames, series) in place of tokens."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lt25.errors import UserError
from lt25.models.configuration import HGRNConfig
from lt25.models.plain import dtype_of, from_channels
from lt25.ops.context import neighbour


class FeatureEncoder(nn.Module):
    """Features [B, T, input_size] to hidden states [B, ceil(T / subsampling), hidden_size].

    Without subsampling a linear map of each step; otherwise a convolution over three steps for each halving of the rate.
    With position embeddings, the embedding of a hidden state's place in the sequence is added to it.

    Attributes:
        group: the processes that share the sequences, as of `lt25.models.hgrn.HGRNModel`.
    """

    group: dist.ProcessGroup | None = None

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__()
        input_size = cast(int, config.input_size)
        halvings = config.subsampling.bit_length() - 1
        self.proj = nn.Linear(input_size, config.hidden_size) if halvings == 0 else None
        self.convs: Any = nn.ModuleList(
            nn.Conv1d(config.hidden_size if n else input_size, config.hidden_size, 3, stride=2, padding=1)
            for n in range(halvings)
        )
        count = config.position_embeddings
        self.positions = nn.Embedding(count, config.hidden_size) if count else None

    def forward(self, features: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states, and the attention mask [B, T'] at their rate; padding is read as zero.

        Raises:
            UserError: a sequence longer than there are position embeddings.
        """
        hidden, attention_mask = self._encode(features, attention_mask)
        if self.positions is None:
            return hidden, attention_mask
        steps, count = hidden.shape[1], self.positions.num_embeddings
        start, total = 0, steps
        if self.group is not None:
            start, total = steps * dist.get_rank(self.group), steps * dist.get_world_size(self.group)
        # Parts are of one length, so the last ones may end in padding that has no embedding.
        if total - count > total // steps - 1:
            raise UserError(
                f"model.position_embeddings: found a sequence of {total} steps, but the model has {count}: use {total} or more"
            )
        places = self.positions.weight[start : start + steps]
        places = F.pad(places, (0, 0, 0, steps - len(places)))
        return hidden + places.to(hidden.dtype), attention_mask

    def stream(self, features: Tensor, kept: list[Tensor | None], last: bool) -> Tensor:
        """Return the hidden states [B, T', hidden_size] that are complete once features [B, T, input_size] more have come.

        Args:
            features: may be of no step.
            kept: the last inputs of each convolution, brought up to date in place; None before the first.
            last: whether nothing comes after these features, so that all hidden states are complete.
        """
        if self.proj is not None:
            return from_channels(features, self.proj)
        hidden = features.to(dtype_of(self.convs[0])).transpose(1, 2)
        for number, conv in enumerate(self.convs):
            before = kept[number]
            hidden = torch.cat((hidden.new_zeros(*hidden.shape[:2], 1) if before is None else before, hidden), 2)
            if last and hidden.shape[2] % 2 == 0:
                hidden = F.pad(hidden, (0, 1))
            # Each step reads one before its pair of inputs, which is kept.
            pairs = (hidden.shape[2] - 1) // 2
            kept[number] = hidden[:, :, 2 * pairs :].clone()
            weight, bias = conv.weight, conv.bias
            if pairs:
                hidden = F.silu(F.conv1d(hidden[:, :, : 2 * pairs + 1], weight, bias, stride=2))
            else:
                hidden = hidden.new_zeros(len(hidden), len(weight), 0)
        return hidden.transpose(1, 2)

    def _encode(self, features: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.proj is not None:
            return from_channels(features, self.proj), attention_mask
        hidden = features.to(dtype_of(self.convs[0])).transpose(1, 2)
        for conv in self.convs:
            if attention_mask is not None:
                hidden = hidden * attention_mask[:, None]
                attention_mask = attention_mask[:, ::2]
            if self.group is None:
                hidden = F.silu(conv(hidden))
                continue
            # A step reads the one before its pair, which the first of a part has from its neighbour; with even parts none reads
            # the one after.
            before = neighbour(hidden[..., -1:], -1, self.group)
            hidden = F.silu(F.conv1d(torch.cat((before, hidden), 2), conv.weight, conv.bias, stride=2))
        return hidden.transpose(1, 2), attention_mask
