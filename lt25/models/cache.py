"""What a language model remembers between calls: a state of constant size for each layer."""

from transformers.cache_utils import DynamicCache

from lt25.models.configuration import HGRNConfig


class HGRNCache(DynamicCache):
    """The scan's state and the short convolutions' last inputs, layer by layer, and how many steps went into them.

    The states are transformers' own (`LinearAttentionLayer`), so that beam search reorders them like any other cache.
    """

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__(config=config)
        self.steps = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Steps seen so far, padding included."""
        return self.steps

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.steps = 0

    @property
    def is_compileable(self) -> bool:
        """False: keeps `generate` from compiling the model unasked."""
        return False
