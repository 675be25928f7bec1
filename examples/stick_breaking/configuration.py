"""The configuration of a stick-breaking language model."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class StickBreakingConfig(PreTrainedConfig):
    """A stack of layers of stick-breaking attention and a gated MLP.

    Attributes:
        hidden_size: width of the residual stream.
        num_hidden_layers: layers.
        num_heads: heads of attention, of hidden_size / num_heads channels each: 16, 32, 64 or 128 on a GPU.
        intermediate_size: width of the gated MLP.
        norm_eps: added to the mean square under the root of the RMS norms.
        initializer_range: standard deviation of initial weights.
        vocab_size: tokens.
        tie_word_embeddings: whether the output layer is the embedding.
    """

    model_type = "stick_breaking"
    keys_to_ignore_at_inference = ("past_key_values",)

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 2816
    norm_eps: float = 1e-6
    initializer_range: float = 0.02
    vocab_size: int = 32000
    tie_word_embeddings: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_architecture(self) -> None:
        """Part of the validation on construction; raises ValueError."""
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}")
