"""HGRN as a classifier of whole sequences."""

from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from lt25.models.configuration import HGRNConfig
from lt25.models.hgrn import HGRNModel, HGRNPreTrainedModel
from lt25.ops.context import total, whole


class HGRNForSequenceClassification(HGRNPreTrainedModel):
    """A series (an image as its pixels, a recording, measurements) to one of num_labels classes."""

    main_input_name = "input_features"

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__(config)
        if config.input_size is None:
            raise ValueError("HGRNForSequenceClassification reads features: set input_size to their number of channels")
        self.model = HGRNModel(config)
        # What a step counts for is the exponential of this.
        self.importance = nn.Linear(config.hidden_size, 1, bias=False) if config.pooling == "attention" else None
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Runs the model.

        Args:
            input_features: float [B, T, input_size].
            attention_mask: [B, T], 0 where a step is padding; all steps count if None.
            labels: int64 [B].
            num_items_in_batch: what the summed loss is divided by, where a step accumulates several batches; by default
                the number of sequences in this batch.

        Returns:
            loss: mean cross entropy in nats, or None without labels; logits [B, num_labels]; hidden_states.
        """
        outputs = self.model(
            input_features=input_features, attention_mask=attention_mask, output_hidden_states=output_hidden_states
        )
        mask = None if attention_mask is None else attention_mask[:, :: self.config.subsampling]
        hidden = outputs.last_hidden_state
        if self.importance is None:
            pooled = _pool(hidden, mask, self.config.pooling, self.model.group)
        else:
            pooled = _attend(hidden, self.importance(hidden)[..., 0], mask, self.model.group)
        logits = self.classifier(pooled)
        loss = None
        if labels is not None:
            count = len(labels) if num_items_in_batch is None else num_items_in_batch
            loss = F.cross_entropy(logits.float(), labels, reduction="sum") / count
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def _pool(hidden: Tensor, mask: Tensor | None, pooling: str, group: dist.ProcessGroup | None) -> Tensor:
    """[B, T, H] to [B, H]: the mean over steps that are not padding, or the last of them; of all parts that a group shares."""
    if mask is None:
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.int64)
    every = mask if group is None else whole(mask, group)
    if pooling == "mean":
        # As a product: it reads the hidden states once, and its backward pass writes their gradient once.
        shares = mask / every.sum(1, keepdim=True, dtype=torch.float32).clamp_min(1)
        pooled = (shares[:, None].to(hidden.dtype) @ hidden)[:, 0]
        return pooled if group is None else total(pooled, group)
    last = (torch.arange(every.shape[1], device=hidden.device) * every).amax(1)
    if group is None:
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    own = torch.arange(hidden.shape[1], device=hidden.device) + dist.get_rank(group) * hidden.shape[1]
    return total(hidden.where((own == last[:, None])[..., None], 0.0).sum(1), group)


def _attend(hidden: Tensor, scores: Tensor, mask: Tensor | None, group: dist.ProcessGroup | None) -> Tensor:
    """[B, T, H] to [B, H]: the mean over steps that are not padding, weighted by the exponentials of their scores [B, T]."""
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -torch.inf)
    top = scores.detach().amax(1, keepdim=True)
    if group is not None:
        top = whole(top, group).amax(1, keepdim=True)
    # A sequence may have nothing but padding in a part.
    weights = (scores - top.clamp_min(torch.finfo(top.dtype).min)).exp()
    sums = weights.sum(1, keepdim=True)
    shares = weights / (sums if group is None else total(sums, group)).clamp_min(torch.finfo(sums.dtype).tiny)
    pooled = (shares[:, None].to(hidden.dtype) @ hidden)[:, 0]
    return pooled if group is None else total(pooled, group)
