"""HGRN as a speech recogniser: an encoder with a CTC head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput, can_return_tuple

from lt25.models.cache import HGRNCache
from lt25.models.configuration import HGRNConfig
from lt25.models.hgrn import HGRNModel, HGRNPreTrainedModel
from lt25.models.plain import to_classes
from lt25.ops import ctc_loss
from lt25.ops.context import joined, whole

# Finite, so that a log-softmax over a padded frame stays finite, in half precision too.
_NEVER = -1e4


@dataclass
class CTCOutput(ModelOutput):
    """What HGRNForCTC returns.

    Attributes:
        loss: nats per target character, or None without labels.
        logits: float [B, T', vocab_size]; past the end of an utterance the blank has all the probability, but while training
            these are anything.
        logit_lengths: int64 [B], frames of each utterance.
        hidden_states: float [B, T', hidden_size] of each layer, if asked for.
        intermediate_logits: float [B, T', vocab_size] of the middle layer, anything past the end of an utterance, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    logit_lengths: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    intermediate_logits: Tensor | None = None


class HGRNForCTC(HGRNPreTrainedModel):
    """Log-mel frames to characters; class `pad_token_id` (0 if unset) is the blank."""

    main_input_name = "input_features"

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__(config)
        if config.input_size is None:
            raise ValueError("HGRNForCTC reads features: set input_size to their number of channels")
        self.model = HGRNModel(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_intermediate_logits: bool = False,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs,
    ) -> CTCOutput:
        """Runs the model.

        Args:
            input_features: float [B, T, input_size].
            attention_mask: [B, T], 1 for frames and then 0 for padding; all frames count if None.
            labels: int [B, L], padded with -100.
            output_intermediate_logits: return also what norm and head make of the stream after half of the layers, rounded down.
            num_items_in_batch: what the summed loss is divided by, where a step accumulates several batches; by default
                the number of labels in this batch.
        """
        outputs = self.model(
            input_features=input_features,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            intermediate_layers=self.config.num_hidden_layers // 2 if output_intermediate_logits else None,
        )
        logits, intermediate = self._logits(outputs.last_hidden_state), None
        if outputs.intermediate_state is not None:
            intermediate = self._logits(outputs.intermediate_state)
        if self.model.group is not None and attention_mask is not None:
            attention_mask = whole(attention_mask, self.model.group)
        blank = self.config.pad_token_id or 0
        if attention_mask is None:
            logit_lengths = logits.new_full(logits.shape[:1], logits.shape[1], dtype=torch.int64)
        else:
            logit_lengths = self.frames(attention_mask.long().sum(1))
        # The loss reads no frame past the end.
        if attention_mask is not None and not self.training:
            classes = torch.arange(logits.shape[2], device=logits.device)
            silence = torch.where(classes == blank, 0.0, _NEVER).to(logits.dtype)
            frames = torch.arange(logits.shape[1], device=logits.device)
            logits = torch.where((frames < logit_lengths[:, None])[..., None], logits, silence)
        loss = None
        if labels is not None:
            count = (labels >= 0).sum().clamp_min(1) if num_items_in_batch is None else num_items_in_batch
            loss = ctc_loss(logits, logit_lengths, labels, blank) / count
        return CTCOutput(
            loss=loss,
            logits=logits,
            logit_lengths=logit_lengths,
            hidden_states=outputs.hidden_states,
            intermediate_logits=intermediate,
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        """The logits [B, T, vocab_size] of hidden states [B, T', H]: of all of an utterance on each process that shares it."""
        logits = to_classes(hidden, self.ctc_head)
        return logits if self.model.group is None else joined(logits, self.model.group)

    @torch.inference_mode()
    def stream(self, input_features: Tensor, cache: HGRNCache, last: bool = False) -> Tensor:
        """Read on: the logits [B, T', vocab_size] that are complete once more features have come; together those of `forward`.

        Args:
            input_features: float [B, T, input_size] that follow what was read; may be of no step.
            cache: what was read before, brought up to date in place.
            last: whether nothing comes after them.

        Raises:
            ValueError: of a model that reads each sequence from both ends, or has embeddings of its places.
        """
        config = self.config
        if config.bidirectional or config.position_embeddings:
            raise ValueError("HGRNForCTC: a model that is bidirectional or has position embeddings reads no stream")
        hidden = self.model.features.stream(input_features, cache.subsampled, last)
        if not hidden.shape[1]:
            return hidden.new_zeros(len(hidden), 0, config.vocab_size)
        outputs = self.model(inputs_embeds=hidden, past_key_values=cache, use_cache=True)
        return to_classes(outputs.last_hidden_state, self.ctc_head)

    def frames(self, input_lengths: Tensor) -> Tensor:
        """Return the number of frames of logits for numbers of frames of input (int, any shape)."""
        return -(-input_lengths // self.config.subsampling)
