"""What only saves seconds before the first step. None of it changes a number."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType

from lt25.importing import compiling_when_called
from lt25.replaced import replaced


@contextmanager
def fewer_imports() -> Iterator[None]:
    """Import torchtitan and transformers without libraries that are never used here. Saves a third of the imports' time."""
    validation = ModuleType("torchtitan.hf_datasets.text_datasets")
    vars(validation)["build_text_validation_dataloader"] = None
    import transformers.utils

    with ExitStack() as shortcuts:
        # Hugging Face datasets, for torchtitan's own validation.
        loaded = sys.modules.setdefault(validation.__name__, validation)
        # torchtitan hands attention to `torch.compile` when it is imported.
        shortcuts.enter_context(compiling_when_called())
        # transformers imports scipy for losses of object detection and scikit-learn for assisted generation.
        for library in ("is_scipy_available", "is_sklearn_available"):
            shortcuts.enter_context(replaced(transformers.utils, library, lambda: False))
        yield
        import transformers.generation.candidate_generator
        import transformers.modeling_utils

        if loaded is validation:
            del sys.modules[validation.__name__]


def open_gpu() -> None:
    """Open this rank's GPU and load the library of matrix products in a thread, while other things are imported."""

    import torch

    def multiply() -> None:
        # Whatever is wrong with the GPU, the trainer meets it too, and says so.
        with suppress(RuntimeError):
            one = torch.ones(16, 16, dtype=torch.bfloat16, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
            torch.mm(one, one)

    threading.Thread(target=multiply, name="gpu").start()
