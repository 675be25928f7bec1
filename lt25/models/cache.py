"""What a model remembers between calls: a state of constant size for each layer."""

from collections.abc import Mapping

from torch import Tensor
from transformers.cache_utils import Cache

from lt25.models.configuration import HGRNConfig


class HGRNCache(Cache):
    """The scan's states and the short convolutions' last inputs, layer by layer, and how many steps went into them.

    The states are kept here, not in transformers' own layers of a cache, whose methods differ from version to version. What is
    inherited is the type, by which `generate` knows a cache.

    Attributes:
        recurrent: state [B, D] of each layer's scan; None before the first step.
        convolved: last inputs [B, conv_size - 1, 2 D] of each layer's short convolutions; None before the first step and
            without such convolutions.
        subsampled: of a model of features, the last inputs [B, C, n] of each convolution that halves the rate, n at most 2; None
            before the first step.
        lower_bounds: of the forget gates [D], layer by layer, which depend on the weights alone; None until a model without
            gradients has computed them.
        steps: how many steps have been read, padding included.
    """

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__(layers=[])
        self.recurrent: list[Tensor | None] = [None] * config.num_hidden_layers
        self.convolved: list[Tensor | None] = [None] * config.num_hidden_layers
        self.subsampled: list[Tensor | None] = [None] * (config.subsampling.bit_length() - 1)
        self.lower_bounds: list[Tensor | None] | None = None
        self.steps = 0

    def __len__(self) -> int:
        return len(self.recurrent)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many steps have been read, padding included."""
        return self.steps

    def reset(self) -> None:
        """Forget what was read."""
        self.recurrent = [None] * len(self)
        self.convolved = [None] * len(self)
        self.subsampled = [None] * len(self.subsampled)
        self.steps = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return all that it remembers by name, as `restore` takes it."""
        return {
            f"{kind} {layer}": state
            for kind, states in self._kinds().items()
            for layer, state in enumerate(states)
            if state is not None
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what `tensors` has returned, here or of another cache; other names are left out."""
        for kind, states in self._kinds().items():
            states[:] = [tensors.get(f"{kind} {layer}") for layer in range(len(states))]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the sequences of the given indices, int64 [B], in their order; called by beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences of the given indices, int64 [B], in their order."""
        self._each_state(lambda state: state.index_select(0, indices.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        self._each_state(lambda state: state.repeat_interleave(repeats, 0))

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: a state cannot be cut back to an earlier step.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("HGRNCache: a state cannot be cut back to an earlier step, so no assisted generation")

    @property
    def batch_size(self) -> int:
        """The number of sequences; -1 before the first step."""
        return -1 if self.recurrent[0] is None else len(self.recurrent[0])

    @property
    def is_compileable(self) -> bool:
        """False: keeps `generate` from compiling the model unasked."""
        return False

    def _kinds(self) -> dict[str, list[Tensor | None]]:
        return {"recurrent": self.recurrent, "convolved": self.convolved, "subsampled": self.subsampled}

    def _each_state(self, change) -> None:
        for states in self._kinds().values():
            states[:] = [None if state is None else change(state) for state in states]
