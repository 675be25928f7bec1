"""Importing libraries without what is never used here, which only saves seconds. None of it changes a number."""

import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial, wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from lt25.memory import no_collection
from lt25.replaced import replaced


@contextmanager
def without_garbage() -> Iterator[None]:
    """Import without looking for garbage: nearly everything that is imported stays. Saves an eighth of the imports' time."""
    with no_collection():
        try:
            yield
        finally:
            gc.freeze()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import models, and what reads checkpoints, without `torch.compile`, sympy, scipy, scikit-learn and torchvision.

    For exporting and evaluating: torch and all that they import take 2.3 times as long as torch alone in place of 4.3 times.
    Whoever compiles in the same process imports the compiler then.
    """
    import torch
    import transformers.utils

    with ExitStack() as shortcuts:
        for library in ("is_scipy_available", "is_sklearn_available", "is_torchvision_available"):
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
def compiling_when_called() -> Iterator[None]:
    """Have functions that are handed to `torch.compile` compiled, and the compiler imported, only when one of them is called.

    flash-linear-attention decorates some for options that few models use, and torchtitan an attention that none here has.
    """
    import torch

    own = torch.compile

    def decorate(function: Any = None, **options: Any) -> Any:
        if function is None:
            return partial(decorate, **options)
        compiled = lru_cache(None)(partial(own, function, **options))

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            # Whoever compiles what calls it compiles it too.
            made = function if torch.compiler.is_compiling() else compiled()
            return made(*arguments, **named)

        return call

    with replaced(torch, "compile", decorate):
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
        stand_in = ModuleType("torch._dynamo")
        vars(stand_in).update(allow_in_graph=same, assume_constant_result=same)
        # Another library may import the compiler all the same, which then looks for its own parts here.
        vars(stand_in)["__getattr__"] = lambda name: getattr(import_module("torch._dynamo"), name)
        vars(torch)["_dynamo"] = stand_in
        try:
            yield
        finally:
            if vars(torch).get("_dynamo") is stand_in:
                # torch imports the real one when it is asked for it.
                del vars(torch)["_dynamo"]


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
    vars(stand_in)["__getattr__"] = real
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
