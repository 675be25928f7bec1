"""What lt25 overrides of transformers' internals, in one place; right for transformers 5.17 to 5.23.

A model tells transformers some things only by names that begin with an underscore. They may change with any release, so a new
version of transformers is first compared with this file.
"""

from importlib import import_module

from torch import nn
from transformers.modeling_utils import PreTrainedModel


class ModelHooks(PreTrainedModel):
    """What every HGRN model tells transformers."""

    # What `device_map` must leave on one device: a layer's residual stream is joined in its middle.
    _no_split_modules: tuple[str, ...] = ("HGRNLayer",)
    # Where `get_input_embeddings` looks; "embed_tokens" if unsaid.
    _input_embed_layer = "embeddings"
    # A state cannot be cut back to an earlier step, so `generate` refuses assisted generation.
    _is_stateful = True

    def _init_weights(self, module: nn.Module) -> None:
        # Called for each module after construction, and after loading for those whose weights a checkpoint lacks.
        self.initialise_module(module)

    def initialise_module(self, module: nn.Module) -> None:
        """Write initial values into the parameters that a module itself owns."""
        raise NotImplementedError


class CausalLMHooks:
    """What the language model tells transformers besides; a base class that stands before `PreTrainedModel`."""

    # Which weight is left out of a checkpoint, and which it then is, if the config says `tie_word_embeddings`.
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # The first forward of `generate` makes the cache, an HGRNCache, not `generate`.
        return False


def use_pipeline(task: str, module: str, name: str) -> None:
    """Let ``pipeline(task, ...)`` be a class of lt25's, which stands for transformers' own and derives from it.

    Public is only to add a pipeline under a new name. From some version on transformers keeps the class as a dotted name, so that
    nothing is imported before it is used.
    """
    from transformers.pipelines import PIPELINE_REGISTRY

    entry = PIPELINE_REGISTRY.supported_tasks[task]
    lazy = isinstance(entry["impl"], str)
    entry["impl"] = f"{module}.{name}" if lazy else getattr(import_module(module), name)
