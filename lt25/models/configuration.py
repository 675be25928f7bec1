"""The configuration of every HGRN model."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from lt25.errors import UserError

# Settings of an FLA checkpoint that select another computation, with the one value that is this computation.
_FLA_FIXED = {"hidden_act": "swish", "elementwise_affine": True, "attn": None, "attnres_block_size": None}
# Settings of an FLA checkpoint that choose between implementations of the same computation, or that HGRN does not read.
_FLA_IGNORED = {
    "attn_mode",
    "fuse_norm",
    "fuse_swiglu",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "use_l2warp",
    "max_position_embeddings",
}


@strict
class HGRNConfig(PreTrainedConfig):
    """A stack of HGRN layers and what goes in and out of it; names and defaults of FLA's HGRNConfig where it has them.

    What each field means stands with its bounds in :mod:`lt25.models.families`, where the keys of an experiment's `model`
    section are.
    """

    model_type = "lt25_hgrn"
    keys_to_ignore_at_inference = ("past_key_values", "logit_lengths")

    hidden_size: int = 2048
    num_hidden_layers: int = 24
    expand_ratio: int | float = 1
    hidden_ratio: int | float | None = 4
    intermediate_size: int | None = None
    use_short_conv: bool = False
    conv_size: int = 4
    use_lower_bound: bool = True
    bidirectional: bool = False
    dropout: float | int = 0.0
    tied_dropout: bool = False
    stochastic_depth: float | int = 0.0
    norm: Literal["rms", "layer", "batch"] = "rms"
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    initializer_range: float = 0.02
    vocab_size: int = 32000
    tie_word_embeddings: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    input_size: int | None = None
    subsampling: Literal[1, 2, 4, 8, 16] = 1
    position_embeddings: int = 0
    hop_length: int = 160
    pooling: Literal["mean", "last", "attention"] = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        for key, expected in _FLA_FIXED.items():
            if (found := kwargs.pop(key, expected)) != expected:
                raise UserError(f"model config, {key}: found {found!r}, lt25's HGRN computes {expected!r} only")
        kwargs = {key: value for key, value in kwargs.items() if key not in _FLA_IGNORED}
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Part of the validation on construction; raises ValueError."""
        if self.bidirectional and self.channels % 2:
            raise ValueError(f"bidirectional needs an even number of recurrent channels, got {self.channels}")

    @property
    def channels(self) -> int:
        """Recurrent channels of a layer."""
        return int(self.hidden_size * self.expand_ratio)

    @property
    def mlp_size(self) -> int:
        """Width of the gated MLP."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        width = int(self.hidden_size * (4 if self.hidden_ratio is None else self.hidden_ratio) * 2 / 3)
        return -(-width // 256) * 256

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Audio samples to one logit, by which transformers' speech pipeline cuts its chunks."""
        return self.hop_length * self.subsampling

    @property
    def layer_types(self) -> list[str]:
        """The kind of cache that transformers' generation makes for each layer: one of constant size."""
        return ["linear_attention"] * self.num_hidden_layers

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in the base class; the config of an FLA checkpoint, model type "hgrn", is taken as this one."""
        config, kwargs = super().get_config_dict(*args, **kwargs)
        if config.get("model_type") == "hgrn":
            config = {**config, "model_type": cls.model_type}
        return config, kwargs
