"""A language model of stick-breaking attention, registered with transformers' Auto classes."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .attention import plain, stick_breaking_attention
from .configuration import StickBreakingConfig


class Attention(nn.Module):
    """Projections around stick-breaking attention; no positions go in."""

    def __init__(self, config: StickBreakingConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx, self.num_heads = layer_idx, config.num_heads
        sizes = (config.hidden_size, config.hidden_size)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(*sizes, bias=False) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, cache: DynamicCache | None) -> Tensor:
        """[B, T, D] to the same; ``mask`` [B, S] is False for padding among all S steps that the cache then knows."""
        q, k, v = (proj(x).unflatten(-1, (self.num_heads, -1)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if cache is not None:
            k, v = (part.transpose(1, 2) for part in cache.update(k.transpose(1, 2), v.transpose(1, 2), self.layer_idx))
        if mask is None and k.shape[1] == q.shape[1]:
            o = stick_breaking_attention(q, k, v, cu_seqlens)
        else:
            o = plain(q, k, v, None if mask is None else mask[:, None, None])
        return self.o_proj(o.flatten(-2))


class Layer(nn.Module):
    """Attention and a gated MLP, each behind a norm and added to what comes in."""

    def __init__(self, config: StickBreakingConfig, layer_idx: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attn_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.attn = Attention(config, layer_idx)
        self.mlp_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, cache: DynamicCache | None) -> Tensor:
        """[B, T, D] to the same; the other arguments are those of `Attention.forward`."""
        x = x + self.attn(self.attn_norm(x), mask, cu_seqlens, cache)
        y = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class StickBreakingPreTrainedModel(PreTrainedModel):
    """What both classes tell transformers."""

    config_class = StickBreakingConfig
    base_model_prefix = "model"
    _input_embed_layer = "embeddings"
    _no_split_modules = ("Layer",)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)


class StickBreakingModel(StickBreakingPreTrainedModel):
    """Tokens to hidden states."""

    def __init__(self, config: StickBreakingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, n) for n in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Runs the layers.

        Args:
            input_ids: int [B, T]; or inputs_embeds, float [B, T, D].
            attention_mask: [B, S], 0 for padding, of all S steps, those in the cache included.
            past_key_values: what earlier calls have read; brought up to date in place.
            use_cache: return a cache; by default the config's ``use_cache`` when not training, never with packing.
            cu_seqlens: int [N + 1], boundaries of sequences packed along time, with B = 1 and no mask.

        Returns:
            last_hidden_state [B, T, D], past_key_values.
        """
        x = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and cu_seqlens is None
        cache = (DynamicCache() if past_key_values is None else past_key_values) if use_cache else None
        mask = None if attention_mask is None or attention_mask.all() else attention_mask.bool()
        for layer in self.layers:
            x = layer(x, mask, cu_seqlens, cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=cache)


class StickBreakingForCausalLM(StickBreakingPreTrainedModel, GenerationMixin):
    """Predicts the next token."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: StickBreakingConfig) -> None:
        super().__init__(config)
        self.model = StickBreakingModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **given,
    ) -> CausalLMOutputWithPast:
        """Runs the model; what is not listed as in `StickBreakingModel.forward`.

        Args:
            labels: int64 [B, T], usually the input_ids: step t predicts label t + 1; -100 is left out of the loss.
            logits_to_keep: compute logits for this many last steps only (0: all), or for the steps of an index tensor.

        Returns:
            loss: mean cross entropy in nats, or None without labels; logits [B, T, vocab_size]; past_key_values.
        """
        outputs = self.model(input_ids=input_ids, **given)
        hidden, loss = outputs.last_hidden_state, None
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden)
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


AutoConfig.register(StickBreakingConfig.model_type, StickBreakingConfig, exist_ok=True)
AutoModel.register(StickBreakingConfig, StickBreakingModel, exist_ok=True)
AutoModelForCausalLM.register(StickBreakingConfig, StickBreakingForCausalLM, exist_ok=True)
