"""HGRN: "Hierarchically Gated Recurrent Neural Network for Sequence Modeling" (https://arxiv.org/abs/2311.04823).

Parameters have the names and the meaning they have in flash-linear-attention, whose checkpoints load. Shapes: B
sequences, T steps, H hidden_size, D recurrent channels, L layers.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_recurrent_attention_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import can_return_tuple

from lt25.models.cache import HGRNCache
from lt25.models.configuration import HGRNConfig
from lt25.models.features import FeatureEncoder
from lt25.models.plain import is_plain
from lt25.models.short_conv import ShortConvolution, last_inputs
from lt25.models.transformers_internals import ModelHooks
from lt25.ops import (
    add_norm_linear,
    add_rms_norm,
    dropout,
    embedding,
    gated_mlp,
    hgrn_mix,
    hgrn_scan,
    hgrn_step,
    mixer_step,
    mlp_step,
    short_conv,
)
from lt25.ops.context import of_first


class RMSNorm(nn.RMSNorm):
    """Its base class, never without an eps."""

    eps: float


class LayerNorm(nn.LayerNorm):
    """Its base class, in float32 whatever the residual stream is."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] to float32 [B, T, H]."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


class BatchNorm(nn.Module):
    """Scales each channel by its mean and deviation over all steps of a batch that are not padding.

    When not training, it takes averages of these over the last batches that it was trained on: a step then depends on no other.

    Attributes:
        running_mean, running_var: those averages, float32 [H].
    """

    # The part of an average that the newest batch is.
    NEWEST = 0.1

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, H], and the mask bool [B, T], False for padding, to float32 [B, T, H]."""
        x = x.float()
        if not self.training:
            mean, var = self.running_mean, self.running_var
        else:
            inside = x.new_ones(1, 1, 1) if mask is None else mask[..., None].float()
            steps = x.shape[0] * x.shape[1] if mask is None else inside.sum().clamp_min(1)
            mean = (x * inside).sum((0, 1)) / steps
            var = ((x - mean) * inside).square().sum((0, 1)) / steps
            with torch.no_grad():
                # A batch that overflows is no step of the weights either.
                for average, newest in ((self.running_mean, mean), (self.running_var, var)):
                    average.lerp_(newest.to(average.dtype).where(newest.isfinite(), average), self.NEWEST)
        return (x - mean) * (self.weight.float() * (var + self.eps).rsqrt()) + self.bias.float()


def _norm(config: HGRNConfig) -> nn.Module:
    """Return a norm of the residual stream."""
    kinds = {"rms": RMSNorm, "layer": LayerNorm, "batch": BatchNorm}
    return kinds[config.norm](config.hidden_size, eps=config.norm_eps)


class HGRNMixer(nn.Module):
    """Mixes over time: norm, projections, optional short convolution, gates, scan, gated RMS norm, projection.

    Attributes:
        group: as of `HGRNModel`.
    """

    group: dist.ProcessGroup | None = None

    def __init__(self, config: HGRNConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx, self.post_norm = layer_idx, config.norm_position == "post"
        self.bidirectional, self.conv_size = config.bidirectional, config.conv_size
        # Of equal parts of the channels, whether each is convolved and scanned from the end of the sequence.
        self.directions = (False, True) if config.bidirectional else (False,)
        self.i_proj = nn.Linear(config.hidden_size, config.channels, bias=False)
        self.f_proj = nn.Linear(config.hidden_size, config.channels, bias=False)
        self.g_proj = nn.Linear(config.hidden_size, config.channels, bias=False)
        self.i_conv1d = ShortConvolution(config.channels, config.conv_size) if config.use_short_conv else None
        self.f_conv1d = ShortConvolution(config.channels, config.conv_size) if config.use_short_conv else None
        self.g_norm = RMSNorm(config.channels, eps=config.norm_eps)
        self.o_proj = nn.Linear(config.channels, config.hidden_size, bias=False)

    def forward(
        self,
        branch: Tensor,
        residual: Tensor | None,
        norm: nn.Module,
        lower_bound: Tensor | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        cache: HGRNCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What is mixed of norm(branch + residual), and the residual stream, all [B, T, H].

        The stream is branch + residual, or what the norm makes of it if the norm's position is "post". The other arguments are
        those of :func:`lt25.ops.hgrn_mix`. A cache is read and brought up to date in place: the scan's state [B, D], and the last
        inputs of the short convolutions [B, conv_size - 1, 2 D].
        """
        projections = (self.i_proj, self.f_proj, self.g_proj)
        if (
            not self.post_norm
            and isinstance(norm, RMSNorm)
            and is_plain(RMSNorm, norm)
            and is_plain(nn.Linear, *projections)
        ):
            weights = [projection.weight for projection in projections]
            ifg, residual = add_norm_linear(branch, residual, norm.weight, norm.eps, weights)
        else:
            normed, residual = _add_norm(branch, residual, norm, mask, self.post_norm)
            ifg = torch.cat([projection(normed) for projection in projections], -1)
        if self.i_conv1d is not None and self.f_conv1d is not None:
            ifg = self._convolve(ifg, self.i_conv1d, self.f_conv1d, mask, cu_seqlens, cache)
        state = None if cache is None else cache.recurrent[self.layer_idx]
        if not is_plain(RMSNorm, self.g_norm):
            y, state = self._mix(ifg, lower_bound, mask, state, cu_seqlens)
            mixed = self.o_proj(y)
        # A single step has no gradient.
        elif state is not None and ifg.shape[1] == 1 and mask is None and not ifg.requires_grad:
            y, state = hgrn_step(ifg[:, 0], self.g_norm.weight, self.g_norm.eps, state, lower_bound)
            mixed = self.o_proj(y)[:, None]
        else:
            fused = is_plain(nn.Linear, self.o_proj)
            mixed, state = hgrn_mix(
                ifg,
                self.g_norm.weight,
                self.g_norm.eps,
                lower_bound,
                mask,
                state,
                cu_seqlens,
                self.bidirectional,
                output_final_state=cache is not None,
                out_weight=self.o_proj.weight if fused else None,
                group=self.group,
            )
            mixed = mixed if fused else self.o_proj(mixed)
        if cache is not None:
            cache.recurrent[self.layer_idx] = state
        return mixed, residual

    def step(self, stream: Tensor, norm: RMSNorm, lower_bound: Tensor | None, cache: HGRNCache) -> Tensor:
        """`forward` over one step, without convolution: from the residual stream [B, 1, H] before it to that after it."""
        stream, cache.recurrent[self.layer_idx] = mixer_step(
            stream[:, 0],
            norm.weight,
            norm.eps,
            [self.i_proj.weight, self.f_proj.weight, self.g_proj.weight],
            self.g_norm.weight,
            self.g_norm.eps,
            cast(Tensor, cache.recurrent[self.layer_idx]),
            lower_bound,
            self.o_proj.weight,
        )
        return stream[:, None]

    def log_forget(self, normed: Tensor, lower_bound: Tensor | None, mask: Tensor | None) -> Tensor:
        """The logarithms of the forget gates, float32 [B, T, D], of what the norm before the projections gives."""
        f = self.f_proj(normed)
        if self.f_conv1d is not None:
            f = self.f_conv1d(f, mask, None, self.bidirectional)
        log_f = F.logsigmoid(f.float())
        if lower_bound is None:
            return log_f
        return torch.logaddexp(lower_bound.log(), torch.log1p(-lower_bound) + log_f)

    def _mix(
        self,
        ifg: Tensor,
        lower_bound: Tensor | None,
        mask: Tensor | None,
        state: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What :func:`lt25.ops.hgrn_mix` computes, [B, T, D], with the norm called; and the state [N, D] after it."""
        i, f, g = ifg.chunk(3, -1)
        i, f = (part.to(torch.promote_types(ifg.dtype, torch.float32)) for part in (i, f))
        x, log_f = F.silu(i) * (-f).sigmoid(), F.logsigmoid(f)
        if lower_bound is not None:
            x, log_f = x * (1 - lower_bound), torch.logaddexp(lower_bound.log(), torch.log1p(-lower_bound) + log_f)
        if mask is not None:
            x, log_f = (part.masked_fill(~mask[..., None], 0) for part in (x, log_f))
        ways = len(self.directions)
        states = [None] * ways if state is None else state.chunk(ways, -1)
        parts = zip(x.chunk(ways, -1), log_f.chunk(ways, -1), states, self.directions, strict=True)
        alone = self.group is None
        scanned = [
            hgrn_scan(x.contiguous(), log_f.contiguous(), start, cu_seqlens, reverse, alone, self.group)
            for x, log_f, start, reverse in parts
        ]
        h = torch.cat([h for h, _ in scanned], -1)
        final = torch.cat([cast(Tensor, last) for _, last in scanned], -1) if alone else None
        return self.g_norm(h.to(g.dtype)) * F.silu(g), final

    def _convolve(
        self,
        ifg: Tensor,
        i_conv1d: ShortConvolution,
        f_conv1d: ShortConvolution,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        cache: HGRNCache | None,
    ) -> Tensor:
        """Convolve i and f of ifg [B, T, 3 D]."""
        # The steps before, of i and f alone, go in front; what is computed for them is of no use.
        count = 0
        if cache is not None:
            channels, count = ifg.shape[2] // 3 * 2, self.conv_size - 1
            past = cache.convolved[self.layer_idx]
            past = ifg.new_zeros(len(ifg), count, channels) if past is None else past.to(ifg.dtype)
            ifg = torch.cat((F.pad(past, (0, channels // 2)), ifg), 1)
            mask = None if mask is None else F.pad(mask, (count, 0), value=True)
            # A copy, so that it does not hold all of ifg.
            cache.convolved[self.layer_idx] = last_inputs(ifg[..., :channels], mask, count).clone()
        options = mask, cu_seqlens, len(self.directions) == 2, self.directions == (True,), self.group
        if is_plain(ShortConvolution, i_conv1d, f_conv1d):
            weight = torch.cat((i_conv1d.weight, f_conv1d.weight)).squeeze(1)
            ifg = short_conv(ifg, weight, *options)
        else:
            i, f, g = ifg.chunk(3, -1)
            i, f = (conv(x, *options) for conv, x in ((i_conv1d, i), (f_conv1d, f)))
            ifg = torch.cat((i, f, g), -1)
        return ifg[:, count:]


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), step by step."""

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] to [B, T, H]."""
        if is_plain(nn.Linear, self.gate_proj, self.up_proj, self.down_proj):
            return gated_mlp(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Dropout(nn.Dropout):
    """Its base class, on a CPU by the operator that takes all of its threads; ``tied``: the same for all steps of a sequence."""

    group: dist.ProcessGroup | None = None

    def __init__(self, p: float, tied: bool = False) -> None:
        super().__init__(p)
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] to [B, T, H]."""
        if self.tied and self.training and self.p:
            kept = super().forward(x.new_ones(len(x), 1, x.shape[2]))
            return x * (kept if self.group is None else of_first(kept, self.group))
        if x.device.type == "cpu" and self.training and 0 < self.p < 1:
            return dropout(x, self.p)
        return super().forward(x)


class StochasticDepth(nn.Module):
    """Leaves a branch out of a sequence, with a probability, and makes up for it in the others."""

    group: dist.ProcessGroup | None = None

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] to [B, T, H]."""
        if not self.training or not self.p:
            return x
        kept = F.dropout(x.new_ones(len(x), 1, 1), self.p)
        return x * (kept if self.group is None else of_first(kept, self.group))


class HGRNLayer(GradientCheckpointingLayer):
    """A mixer and an MLP, each behind a norm and joined to the residual stream.

    With the norm's position "post" the stream itself is what the norm made of it: x + f(x) is normalised, and the next branch is
    added to that.
    """

    def __init__(self, config: HGRNConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn_norm = _norm(config)
        self.attn = HGRNMixer(config, layer_idx)
        self.mlp_norm = _norm(config)
        self.mlp = GatedMLP(config)
        self.dropout = Dropout(config.dropout, config.tied_dropout)
        # The deeper a layer, the more can do without it: the probability rises from a share of the last one's to that.
        self.depth = StochasticDepth(config.stochastic_depth * (layer_idx + 1) / config.num_hidden_layers)

    def forward(
        self,
        branch: Tensor,
        residual: Tensor | None,
        lower_bound: Tensor | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        cache: HGRNCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the last MLP added and the residual stream before it, both [B, T, H], to the same one layer on.

        They are handed on unadded, so that each sum is formed together with the norm after it. Of a single step the sum itself is
        handed on, and None. The other arguments are those of :meth:`HGRNMixer.forward`.
        """
        is_step = branch.shape[1] == 1 and mask is None and self._drops_nothing()
        if is_step and cache is not None and self._takes_steps(cache):
            norm, stream = cast(RMSNorm, self.attn_norm), _sum(branch, residual)
            branch, residual = self.attn.step(stream, norm, lower_bound, cache), None
        else:
            mixed, residual = self.attn(branch, residual, self.attn_norm, lower_bound, mask, cu_seqlens, cache)
            branch = self.depth(self.dropout(mixed))
        if is_step and cache is not None and self._is_plain():
            mlp, norm = self.mlp, cast(RMSNorm, self.mlp_norm)
            weights = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
            return mlp_step(_sum(branch, residual), norm.weight, norm.eps, *weights), None
        normed, residual = _add_norm(branch, residual, self.mlp_norm, mask, self.attn.post_norm)
        return self.depth(self.dropout(self.mlp(normed))), residual

    def _drops_nothing(self) -> bool:
        """Whether what follows a branch need not be called."""
        training = self.training or self.dropout.training or self.depth.training
        return not training and is_plain(Dropout, self.dropout) and is_plain(StochasticDepth, self.depth)

    def _takes_steps(self, cache: HGRNCache) -> bool:
        """Whether the mixer may compute a step without being called."""
        attn = self.attn
        linears = is_plain(HGRNMixer, attn) and is_plain(nn.Linear, attn.i_proj, attn.f_proj, attn.g_proj, attn.o_proj)
        plain = (
            linears and is_plain(RMSNorm, self.attn_norm, attn.g_norm) and attn.i_conv1d is None and not attn.post_norm
        )
        return plain and cache.recurrent[attn.layer_idx] is not None and not torch.is_grad_enabled()

    def _is_plain(self) -> bool:
        """Whether the MLP and the norm before it may be computed without being called."""
        mlp = self.mlp
        linears = is_plain(GatedMLP, mlp) and is_plain(nn.Linear, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        return linears and is_plain(RMSNorm, self.mlp_norm) and not self.attn.post_norm


def _sum(branch: Tensor, residual: Tensor | None) -> Tensor:
    return branch if residual is None else branch + residual


def _add_norm(
    branch: Tensor, residual: Tensor | None, norm: nn.Module, mask: Tensor | None = None, post: bool = False
) -> tuple[Tensor, Tensor]:
    """norm(branch + residual), and the residual stream: the sum, or with ``post`` what the norm made of it; all [B, T, H]."""
    if isinstance(norm, RMSNorm) and is_plain(RMSNorm, norm):
        normed, total = add_rms_norm(branch, residual, norm.weight, norm.eps)
    else:
        total = _sum(branch, residual)
        normed = (norm(total, mask) if isinstance(norm, BatchNorm) else norm(total)).to(branch.dtype)
    return normed, normed if post else total


class HGRNPreTrainedModel(ModelHooks):
    """What all HGRN models share: configuration, initialisation, and how transformers handles them."""

    config: HGRNConfig
    config_class = HGRNConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # transformers' Trainer divides by the items of all accumulated batches: the heads take `num_items_in_batch`.
    accepts_loss_kwargs = True

    def share_sequences(self, group: dist.ProcessGroup) -> None:
        """Let the processes of a group share the sequences that the model reads."""
        for module in self.modules():
            if isinstance(module, HGRNModel | HGRNMixer | FeatureEncoder | Dropout | StochasticDepth):
                module.group = group

    def initialise_module(self, module: nn.Module) -> None:
        """Write initial values into the parameters that a module itself owns."""
        std = self.config.initializer_range
        if isinstance(module, ShortConvolution):
            # Of unit gain rather than small: it stands before the gates, with no norm between.
            bound = module.weight.shape[-1] ** -0.5
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Linear | nn.Conv1d):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, LayerNorm | BatchNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, BatchNorm):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
        elif isinstance(module, HGRNModel) and module.lower_bounds is not None:
            init.zeros_(module.lower_bounds)


@dataclass
class HGRNOutput(BaseModelOutputWithPast):
    """What HGRNModel returns.

    Attributes:
        intermediate_state: float [B, T', H], what the final norm makes of the residual stream after a layer on the way, if asked
            for.
    """

    intermediate_state: Tensor | None = None


class HGRNModel(HGRNPreTrainedModel):
    """The stack of layers: tokens or features in, hidden states out.

    Attributes:
        group: the processes that share the sequences, None if this one has them to itself. Each then reads an equal part of every
            sequence, whose steps are a multiple of ``subsampling``; ``cu_seqlens`` counts over all parts.
    """

    group: dist.ProcessGroup | None = None

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__(config)
        if config.input_size is None:
            self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        else:
            self.features = FeatureEncoder(config)
            self.main_input_name = "input_features"
        self.lower_bounds = (
            nn.Parameter(torch.zeros(config.num_hidden_layers, config.channels)) if config.use_lower_bound else None
        )
        self.layers = nn.ModuleList(HGRNLayer(config, n) for n in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        input_features: Tensor | None = None,
        past_key_values: HGRNCache | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool | None = None,
        intermediate_layers: int | None = None,
        head_weight: Tensor | None = None,
        **kwargs,
    ) -> HGRNOutput:
        """Runs the stack.

        Args:
            input_ids: int [B, T]; or inputs_embeds, float [B, T, H]; or input_features, float [B, T, input_size].
            attention_mask: [B, T], 0 where a step is padding. Padding may stand on either side of tokens and
                embeddings, and after features if these are subsampled. It changes nothing but its own outputs.
            past_key_values: a cache from an earlier call on the same sequences; brought up to date in place.
            use_cache: return a cache; by default config.use_cache when not training, never for features or packing.
            cu_seqlens: int [N + 1], boundaries of sequences packed along time, with B = 1 and no mask.
            output_hidden_states: return the input of each layer and the final output as well.
            intermediate_layers: return what the final norm makes of the stream after so many layers as well.
            head_weight: float [V, H], or None: multiply the final output with it, in one operator with the norm. The product
                [B, T', V] then stands for it.

        Returns:
            last_hidden_state [B, T', H], T' = ceil(T / subsampling) for features and T otherwise; past_key_values;
            hidden_states; intermediate_state.

        Raises:
            ValueError: not exactly one kind of input, packing together with a mask or a cache, a cache for a
                bidirectional model.
        """
        if sum(given is not None for given in (input_ids, inputs_embeds, input_features)) != 1:
            raise ValueError("HGRNModel needs exactly one of input_ids, inputs_embeds and input_features")
        if cu_seqlens is not None and (attention_mask is not None or past_key_values is not None):
            raise ValueError("HGRNModel: packed sequences (cu_seqlens) take neither an attention mask nor a cache")
        if past_key_values is not None and self.config.bidirectional:
            raise ValueError("HGRNModel: a bidirectional model has no cache, it reads each sequence from both ends")

        if input_features is not None:
            hidden, attention_mask = self.features(input_features, attention_mask)
        else:
            hidden = self._embed(cast(Tensor, input_ids)) if inputs_embeds is None else inputs_embeds
            attention_mask = create_recurrent_attention_mask(self.config, hidden, attention_mask)
        mask = None if attention_mask is None else attention_mask.bool()
        alone = cu_seqlens is None and self.group is None
        cacheable = input_features is None and alone and not self.config.bidirectional
        if use_cache is None:
            use_cache = cacheable and self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = HGRNCache(self.config)

        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        cache = past_key_values if use_cache else None
        lower_bounds = self._lower_bounds() if cache is None or cache.lower_bounds is None else cache.lower_bounds
        if cache is not None and not torch.is_grad_enabled():
            cache.lower_bounds = lower_bounds
        all_hidden, residual, intermediate = [], None, None
        for done, (layer, lower_bound) in enumerate(zip(self.layers, lower_bounds, strict=True), start=1):
            if keep_hidden:
                all_hidden.append(_sum(hidden, residual))
            hidden, residual = layer(hidden, residual, lower_bound, mask, cu_seqlens, cache)
            if done == intermediate_layers:
                intermediate, _ = _add_norm(hidden, residual, self.norm, mask)
        if head_weight is not None and is_plain(RMSNorm, self.norm):
            norm = cast(RMSNorm, self.norm)
            hidden, _ = add_norm_linear(hidden, residual, norm.weight, norm.eps, [head_weight])
        else:
            hidden, _ = _add_norm(hidden, residual, self.norm, mask)
            hidden = hidden if head_weight is None else F.linear(hidden, head_weight)
        if use_cache and past_key_values is not None:
            past_key_values.steps += hidden.shape[1]
        return HGRNOutput(
            last_hidden_state=hidden,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*all_hidden, hidden) if keep_hidden else None,
            intermediate_state=intermediate,
        )

    @torch.no_grad()
    def time_constants(self, **inputs: Tensor) -> list[Tensor]:
        """For each layer how many steps its channels remember: float32 [D], after how many they have forgotten all but 1 / e.

        The gates depend on the data: what counts is the mean of a channel's logarithms over the steps of a batch that are not
        padding.

        Args:
            inputs: of `forward`.
        """
        streams = self(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        mask = inputs.get("attention_mask")
        if mask is not None and "input_features" in inputs:
            mask = mask[:, :: self.config.subsampling]
        mask = None if mask is None else mask.bool()
        constants = []
        for layer, stream, bound in zip(self.layers, streams, self._lower_bounds(), strict=False):
            mixer = cast(HGRNMixer, layer.attn)
            log_f = mixer.log_forget(cast(nn.Module, layer.attn_norm)(stream).to(stream.dtype), bound, mask)
            every = log_f.flatten(0, 1) if mask is None else log_f[mask]
            constants.append(-1 / every.mean(0))
        return constants

    def _embed(self, ids: Tensor) -> Tensor:
        if ids.numel() == 1 and is_plain(nn.Embedding, self.embeddings):
            return embedding(ids, self.embeddings.weight)
        return self.embeddings(ids)

    def _lower_bounds(self) -> list[Tensor | None]:
        """For each layer the lower bound [D] of its forget gates, equation 7 of the paper; none for the first."""
        if self.lower_bounds is None:
            return [None] * len(self.layers)
        dtype = torch.promote_types(self.lower_bounds.dtype, torch.float32)
        shares = self.lower_bounds.softmax(0, dtype=dtype)
        return [None, *(shares.cumsum(0) - shares[0])[1:]]
