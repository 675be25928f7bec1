"""A module's forward pass by other functions than those that its source names, or than its children."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from types import FunctionType, MethodType
from typing import Any

from torch import nn


def own_forward(module: nn.Module) -> Any:
    """The forward function of a module's class, without decorators around it: its ``__globals__`` are what its source names."""
    return unwrap(type(module).forward)


def call_others(module: nn.Module, **functions: Callable[..., Any]) -> None:
    """Let a module's own forward call other functions in place of some of its source's; other modules are not touched.

    Args:
        module: decorators around its class's forward are left out.
        functions: global name in that forward -> what is called instead.

    Raises:
        KeyError: if forward's source has no such global name.
    """
    whole = own_forward(module)
    if missing := functions.keys() - whole.__globals__.keys():
        raise KeyError(f"{whole.__module__} has no {', '.join(sorted(missing))}")
    names = {**whole.__globals__, **functions}
    own = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__, whole.__closure__)
    own.__kwdefaults__ = whole.__kwdefaults__
    module.forward = MethodType(own, module)


@contextmanager
def called_instead(module: nn.Module, functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Let a module find functions where it would find its children, which it has all the same.

    Args:
        module: one that calls its children as attributes.
        functions: name of a child -> what is called instead.
    """
    # Before it looks among its children, a module looks here.
    here = vars(module)
    here.update(functions)
    try:
        yield
    finally:
        for name in functions:
            del here[name]
