"""What only saves seconds before the first step. None of it changes a number."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from lt25.replaced import replaced


@contextmanager
def fewer_imports() -> Iterator[None]:
    """Import torchtitan and transformers without libraries that are never used here. Saves a third of the imports' time."""
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
    """Keep compiled kernels for the next start in Triton's own directory; inductor would choose another in mid-run.

    Saves 5 to 13 s of the next start, see "The trainer itself" in benchmarks/RESULTS.md.
    """
    # An account without a home directory keeps nothing.
    with suppress(RuntimeError):
        home = os.environ.get("TRITON_HOME") or Path.home()
        os.environ.setdefault("TRITON_CACHE_DIR", str(Path(home, ".triton", "cache")))
    # So that kernels which are tuned, as flash-linear-attention's are, are tuned once.
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")


def compile_ahead(function: Callable[[], Any]) -> None:
    """Compile the Triton kernels that a function launches, side by side, without launching them.

    The first step would compile them one after the other. What the kernels should have written is left as it was. The function
    may run on several threads, as a backward pass does. Of a kernel that is tuned when it is first called, as
    flash-linear-attention's are, every configuration is compiled, unless the right one is known; the step itself then only
    times them, and briefly.
    """
    from triton.runtime import JITFunction, driver
    from triton.runtime._async_compile import AsyncCompileMode, active_mode
    from triton.runtime.autotuner import Autotuner

    launch, seen = JITFunction.run, set()

    def only_compile(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        before = active_mode.set(mode)
        try:
            return launch(self, *arguments, grid=grid, warmup=True, **options)
        finally:
            active_mode.reset(before)

    def compile_all(self: Autotuner, *arguments: Any, **options: Any) -> None:
        self.nargs = dict(zip(self.arg_names, arguments, strict=False))
        given = {name: value for name, value in {**self.nargs, **options}.items() if name in self.arg_names}
        sizes = [given[name] for name in self.keys if name in given]
        known = self.cache.get((*sizes, *(str(value.dtype) for value in given.values() if hasattr(value, "dtype"))))
        # Layers call it alike.
        call = id(self), *(getattr(value, "dtype", value) for value in (*arguments, *options.values()))
        if call not in seen:
            seen.add(call)
            for config in self.prune_configs(options) if known is None else [known]:
                self.fn.run(*arguments, **options, **config.all_kwargs())

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        mode = AsyncCompileMode(workers)
        with replaced(JITFunction, "run", only_compile), replaced(Autotuner, "run", compile_all):
            function()
        for kernel in list(mode.future_kernels.values()):
            # What cannot be compiled is left to the step: a tuner passes over such a configuration.
            with suppress(Exception):
                kernel.result()
    tuner: Any = Autotuner
    tuner.do_bench = property(lambda self: partial(driver.active.get_benchmarker(), warmup=5, rep=20))
