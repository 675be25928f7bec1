"""What only saves seconds before the first step. None of it changes a number."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from lt25.replaced import replaced


@contextmanager
def fewer_imports() -> Iterator[None]:
    """Import torchtitan and transformers without libraries that are never used here."""
    validation = ModuleType("torchtitan.hf_datasets.text_datasets")
    vars(validation)["build_text_validation_dataloader"] = None
    import torch
    import transformers.utils

    with ExitStack() as shortcuts:
        # Hugging Face datasets, for torchtitan's own validation.
        loaded = sys.modules.setdefault(validation.__name__, validation)
        # torchtitan hands attention to `torch.compile` when it is imported, which imports the compiler.
        shortcuts.enter_context(replaced(torch, "compile", lambda function, **_: function))
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


def keep_kernels() -> None:
    """Keep compiled kernels for the next start in Triton's own directory; inductor would choose another in mid-run."""
    home = os.environ.get("TRITON_HOME", Path.home())
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(home, ".triton", "cache")))


def compile_ahead(function: Callable[[], Any]) -> None:
    """Compile the Triton kernels that a function launches, side by side, without launching them.

    The first step would compile them one after the other. What the kernels should have written is left as it was. The function
    may run on several threads, as a backward pass does.
    """
    from triton.runtime import JITFunction
    from triton.runtime._async_compile import AsyncCompileMode, active_mode

    launch = JITFunction.run

    def only_compile(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        before = active_mode.set(mode)
        try:
            return launch(self, *arguments, grid=grid, warmup=True, **options)
        finally:
            active_mode.reset(before)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        mode = AsyncCompileMode(workers)
        with replaced(JITFunction, "run", only_compile):
            function()
        for kernel in list(mode.future_kernels.values()):
            kernel.result()
