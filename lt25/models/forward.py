"""A module's forward pass by other functions than those that its source names."""

from collections.abc import Callable
from inspect import unwrap
from types import FunctionType, MethodType
from typing import Any

from torch import nn


def call_others(module: nn.Module, **functions: Callable[..., Any]) -> None:
    """Let a module's own forward call other functions in place of some of its source's; other modules are not touched.

    Args:
        module: whose class's forward, if there is a decorator around it, names what that wraps; the decorator is left out.
        functions: global name in that forward -> what is called instead.

    Raises:
        KeyError: if forward's source has no such global name.
    """
    whole: Any = unwrap(type(module).forward)
    if missing := functions.keys() - whole.__globals__.keys():
        raise KeyError(f"{whole.__module__} has no {', '.join(sorted(missing))}")
    names = {**whole.__globals__, **functions}
    own = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__, whole.__closure__)
    own.__kwdefaults__ = whole.__kwdefaults__
    module.forward = MethodType(own, module)
