"""Weights of matrix products, and what embeddings give, in the precision of autocast."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

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
        self.weights = tuple(part.get_parameter(name) for part, name in self.places)
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
        pairs = zip(self.weights, self.copies, strict=True)
        reached = [(weight, copy.grad) for weight, copy in pairs if copy.grad is not None]
        new = [(weight, gradient) for weight, gradient in reached if weight.grad is None]
        old = [(weight.grad, gradient) for weight, gradient in reached if weight.grad is not None]
        if old:
            torch._foreach_add_([total for total, _ in old], [gradient for _, gradient in old])
        if new:
            empty = [torch.empty_like(weight) for weight, _ in new]
            for (weight, _), total in zip(new, empty, strict=True):
                weight.grad = total
            torch._foreach_copy_(empty, [gradient for _, gradient in new])
        for copy in self.copies:
            copy.grad = None

    def _place(self, tensors: Iterable[Any]) -> None:
        for (part, name), tensor in zip(self.places, tensors, strict=True):
            part._parameters[name] = tensor


def embed_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let a model's embeddings give numbers of autocast's dtype, as its linear maps do.

    Autocast leaves them in float32, and with them the whole residual stream, whose sums and norms then read and write twice the
    bytes. Shards of weights in low precision, as FSDP2 gathers them, have no such stream either. Gradients of the embedding
    stay float32.
    """
    for part in model.modules():
        if isinstance(part, nn.Embedding):
            part.register_forward_hook(lambda module, arguments, embedded: embedded.to(dtype))
