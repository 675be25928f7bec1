"""Operators that torch.compile, checkpointing and sharded training see, and that cost little where nobody looks.

The dispatcher takes about 60 microseconds to call an operator written in Python, and twice that with a gradient: for small models
more than the kernels take. So an operator is registered with torch.library, and called through it only where something is there
that wants to see the call.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_NO_TENSOR = frozenset((type(None), bool, int, float, str))


class Operator:
    """A function of tensors, registered with torch.library under a name.

    Attributes:
        registered: what torch.library made of it, ``torch.ops.lt25.<name>.default``.
        function: what computes it.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self._definition = torch.library.custom_op(name, mutates_args=())(function)
        self.registered = self._definition._opoverload
        self.register_fake = self._definition.register_fake
        self.apply: Callable[..., Any] | None = None
        # How many arguments stand before a list of tensors, which comes last; an autograd function looks into no list.
        parameters = list(inspect.signature(function).parameters.values())
        self.before = len(parameters) - 1 if parameters[-1].annotation == Sequence[Tensor] else None

    def register_autograd(self, differentiate: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """Define the gradient, with the arguments of :func:`torch.library.register_autograd`."""
        self._definition.register_autograd(differentiate, setup_context=setup_context)
        function, before = self.function, self.before

        class Direct(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *arguments: Any) -> Any:
                inputs = arguments if before is None else (*arguments[:before], list(arguments[before:]))
                output = function(*inputs)
                setup_context(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                found = differentiate(ctx, *gradients)
                return found if before is None else (*found[:before], *found[before])

        # Not Direct.apply, which first looks for transforms of torch.func: no call gets here under these.
        self.apply = super(torch.autograd.Function, Direct).apply  # type: ignore[misc]

    def __call__(self, *arguments: Any) -> Any:
        """Compute it; all arguments stand at their places."""
        if (
            torch.compiler.is_compiling()
            or torch._C._len_torch_dispatch_stack()
            or torch._C._are_functorch_transforms_active()
        ):
            return self.registered(*arguments)
        flat = arguments if self.before is None else (*arguments[: self.before], *arguments[self.before])
        differentiable = False
        for argument in flat:
            kind = type(argument)
            if kind in _PLAIN:
                if argument.is_meta:
                    return self.registered(*arguments)
                differentiable |= argument.requires_grad
            elif kind not in _NO_TENSOR and isinstance(argument, Tensor):
                return self.registered(*arguments)
        if not differentiable or not torch.is_grad_enabled():
            return self.function(*arguments)
        return self.registered(*arguments) if self.apply is None else self.apply(*flat)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an `Operator` of a function whose annotations are those that torch.library asks for."""
    return lambda function: Operator(name, function)
