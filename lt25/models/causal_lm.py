"""HGRN as a language model."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from lt25.models.cache import HGRNCache
from lt25.models.configuration import HGRNConfig
from lt25.models.hgrn import HGRNModel, HGRNPreTrainedModel
from lt25.models.plain import is_plain
from lt25.models.transformers_internals import CausalLMHooks


class HGRNForCausalLM(CausalLMHooks, HGRNPreTrainedModel, GenerationMixin):
    """Predicts the next token; its parameters are named as those of flash-linear-attention's HGRNForCausalLM."""

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__(config)
        if config.bidirectional or config.input_size is not None:
            raise ValueError(
                "a language model reads tokens in one direction: bidirectional and input_size must be unset"
            )
        self.model = HGRNModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: HGRNCache | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Runs the model; arguments that are not listed as in :meth:`HGRNModel.forward`.

        Args:
            labels: int64 [B, T], usually the input_ids themselves: they are shifted here, so that step t predicts
                label t + 1 of its own sequence. -100 is left out of the loss.
            logits_to_keep: compute logits for this many last steps only (0: all), or for the steps of an index tensor.
            num_items_in_batch: what the summed loss is divided by, where a step accumulates several batches; by default
                the number of predicted tokens in this batch.

        Returns:
            loss: mean cross entropy in nats per predicted token, or None without labels; logits [B, T, vocab_size];
            past_key_values; hidden_states.
        """
        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        steps = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        # Of a single step the head is one operator with the norm.
        plain = is_plain(nn.Linear, self.lm_head) and is_plain(HGRNModel, self.model)
        headed = steps is not None and steps.numel() == 1 and not keep_hidden and plain
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            cu_seqlens=cu_seqlens,
            output_hidden_states=output_hidden_states,
            head_weight=self.lm_head.weight if headed else None,
        )
        hidden = outputs.last_hidden_state
        if isinstance(logits_to_keep, int):
            hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        else:
            hidden = hidden[:, logits_to_keep]
        logits = hidden if headed else self.lm_head(hidden)
        loss = None
        if labels is not None:
            targets = _next_tokens(labels, cu_seqlens)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            loss = loss / ((targets != -100).sum().clamp_min(1) if num_items_in_batch is None else num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


def _next_tokens(labels: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Labels moved one step back, -100 at the end of each sequence."""
    targets = F.pad(labels[:, 1:], (0, 1), value=-100)
    if cu_seqlens is not None:
        targets = targets.index_fill(1, (cu_seqlens[1:].long() - 1).clamp_min(0), -100)
    return targets
