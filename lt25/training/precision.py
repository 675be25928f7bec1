"""The weights of matrix products in the precision of autocast."""

from types import TracebackType
from typing import Self

import torch
from torch import nn


class LowPrecision:
    """Copies of weights that stand in their place during a forward and backward pass, made for all of them at once.

    Autocast casts every weight by itself and every gradient back: two launches each, in a small model a good part of all.
    The numbers are autocast's, under which the model is still to be called. In memory the copies stand in the order of the
    modules, so that one product by several of them, see :func:`lt25.ops.backends.joined`, needs no copy of these.

        with copies:
            model(inputs).backward()    # the gradients are added to those of the weights at the end

    Args:
        model: its `nn.Linear` and `nn.Conv1d` get copies, except for weights that another module has as well.
        dtype: autocast's.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        products = [part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv1d)]
        others = {
            parameter
            for part in model.modules()
            if part not in products
            for parameter in part.parameters(recurse=False)
        }
        self.places = [
            (part, name)
            for part in products
            for name, parameter in part.named_parameters(recurse=False)
            if parameter not in others
        ]
        self.weights = [part.get_parameter(name) for part, name in self.places]
        # Each begins at a multiple of 128 bytes, as fast products want it.
        room = [-(-weight.numel() // 64) * 64 for weight in self.weights]
        parts = torch.empty(sum(room), dtype=dtype, device=next(model.parameters()).device).split(room)
        self.copies = [
            part[: weight.numel()].view(weight.shape).requires_grad_()
            for weight, part in zip(self.weights, parts, strict=True)
        ]
        self.copy_of = dict(zip(self.weights, self.copies, strict=True))

    @torch.no_grad()
    def __enter__(self) -> Self:
        torch._foreach_copy_(self.copies, self.weights)
        self._place(self.copies)
        return self

    @torch.no_grad()
    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._place(self.weights)
        reached = [pair for pair in zip(self.weights, self.copies, strict=True) if pair[1].grad is not None]
        new = [pair for pair in reached if pair[0].grad is None]
        old = [pair for pair in reached if pair[0].grad is not None]
        if old:
            torch._foreach_add_([weight.grad for weight, _ in old], [copy.grad for _, copy in old])
        for weight, _ in new:
            weight.grad = torch.empty_like(weight)
        if new:
            torch._foreach_copy_([weight.grad for weight, _ in new], [copy.grad for _, copy in new])
        for _, copy in reached:
            copy.grad = None

    def _place(self, tensors: list[torch.Tensor]) -> None:
        for (part, name), tensor in zip(self.places, tensors, strict=True):
            part._parameters[name] = tensor
