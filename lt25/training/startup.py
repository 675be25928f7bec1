"""What only saves seconds before the first step. None of it changes a number."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from lt25.training.replaced import replaced


@contextmanager
def without_garbage() -> Iterator[None]:
    """Import without looking for garbage: nearly everything that is imported stays. Saves an eighth of the imports' time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def fewer_imports() -> Iterator[None]:
    """Import torchtitan and transformers without libraries that are never used here."""
    validation = ModuleType("torchtitan.hf_datasets.text_datasets")
    validation.build_text_validation_dataloader = None
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


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import models, and what reads checkpoints, without `torch.compile`, sympy, scipy and scikit-learn.

    For exporting and evaluating: torch and all that they import take 2.3 times as long as torch alone in place of 4.3 times.
    Whoever compiles in the same process imports the compiler then.
    """
    import torch
    import transformers.utils

    with ExitStack() as shortcuts:
        for library in ("is_scipy_available", "is_sklearn_available"):
            shortcuts.enter_context(replaced(transformers.utils, library, lambda: False))
        # DTensor imports sympy for slices of symbolic sizes, and transformers the compiler for attention masks.
        shortcuts.enter_context(_when_called("torch.fx.experimental.symbolic_shapes", "statically_known_true"))
        shortcuts.enter_context(_when_called("torch._dynamo._trace_wrapped_higher_order_op", "TransformGetItemToIndex"))
        with _undecorated(torch):
            import transformers.generation.candidate_generator
            import transformers.generation.continuous_batching.cache
            import transformers.modeling_utils
        yield


@contextmanager
def _undecorated(torch: ModuleType) -> Iterator[None]:
    """Leave out decorators that tell the compiler about attention and products of kinds not used here: they import it."""

    def same(function: Any = None, **options: Any) -> Any:
        return (lambda own: own) if function is None else function

    if "torch._dynamo" in sys.modules:
        yield
        return
    with replaced(torch.compiler, "disable", same), replaced(torch.compiler, "allow_in_graph", same):
        vars(torch)["_dynamo"] = SimpleNamespace(allow_in_graph=same, assume_constant_result=same)
        try:
            yield
        finally:
            # torch imports the real one when it is asked for it.
            vars(torch).pop("_dynamo", None)


@contextmanager
def _when_called(name: str, function: str) -> Iterator[None]:
    """Let a function be imported from a module that is itself imported only when the function is called.

    Whatever else is asked of the module imports it at once.
    """
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)

    def real(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    setattr(stand_in, function, lambda *arguments, **options: real(function)(*arguments, **options))
    stand_in.__getattr__ = real
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


def open_gpu() -> None:
    """Open this rank's GPU and load the library of matrix products in a thread, while other things are imported."""

    import torch

    def multiply() -> None:
        # Whatever is wrong with the GPU, the trainer meets it too, and says so.
        with suppress(RuntimeError):
            one = torch.ones(16, 16, dtype=torch.bfloat16, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
            one @ one

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
