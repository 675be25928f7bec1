"""The weights of matrix products in the precision of autocast."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class LowPrecision:
    """A model whose matrix products read copies of their weights, made for all of them at once.

    Autocast casts every weight by itself and every gradient back: two launches each, in a small model a good part of all.
    The numbers are autocast's, under which the model is still to be called. In memory the copies stand in the order of the
    modules, so that one product by several of them, see :func:`lt25.ops.backends.joined`, needs no copy of these.

    Args:
        model: its `nn.Linear` and `nn.Conv1d` get copies, except for weights that another module has as well.
        dtype: autocast's.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model = model
        products = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv1d)}
        others = {
            parameter
            for name, part in model.named_modules()
            if name not in products
            for parameter in part.parameters(recurse=False)
        }
        self.weights = {
            f"{name}.{own}": parameter
            for name, part in products.items()
            for own, parameter in part.named_parameters(recurse=False)
            if parameter not in others
        }
        # Each begins at a multiple of 128 bytes, as fast products want it.
        room = [-(-weight.numel() // 64) * 64 for weight in self.weights.values()]
        parts = torch.empty(sum(room), dtype=dtype, device=next(model.parameters()).device).split(room)
        self.copies = {
            name: part[: weight.numel()].view(weight.shape).requires_grad_()
            for (name, weight), part in zip(self.weights.items(), parts, strict=True)
        }
        self.copy_of = {weight: self.copies[name] for name, weight in self.weights.items()}

    @torch.no_grad()
    def renew(self) -> None:
        """Make the copies what the weights are."""
        torch._foreach_copy_(list(self.copies.values()), list(self.weights.values()))

    def __call__(self, *inputs: Tensor, **options: Any) -> Any:
        return functional_call(self.model, self.copies, inputs, options)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of the copies to those of the weights."""
        reached = [name for name, copy in self.copies.items() if copy.grad is not None]
        new = [name for name in reached if self.weights[name].grad is None]
        old = [name for name in reached if self.weights[name].grad is not None]
        if old:
            torch._foreach_add_([self.weights[name].grad for name in old], [self.copies[name].grad for name in old])
        for name in new:
            self.weights[name].grad = torch.empty_like(self.weights[name])
        if new:
            torch._foreach_copy_([self.weights[name].grad for name in new], [self.copies[name].grad for name in new])
        for name in reached:
            self.copies[name].grad = None
