"""Optimizer and schedule that move together or, when a gradient is not finite, not at all."""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torchtitan.components.lr_scheduler import LRSchedulersContainer
from torchtitan.components.optimizer import OptimizersContainer


class FiniteOptimizers:
    """torchtitan's optimizers, except that a step with a NaN or infinite gradient on any rank is left out and counted.

    Attributes:
        stepped: whether the last `step` was taken.
        skipped: how many were left out.
    """

    def __init__(self, optimizers: OptimizersContainer):
        self.optimizers = optimizers
        self.stepped, self.skipped = True, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizers, name)

    def step(self) -> None:
        self.stepped = self._finite()
        if self.stepped:
            self.optimizers.step()
        else:
            self.skipped += 1

    def _finite(self) -> bool:
        gradients = [
            parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            for part in self.optimizers.model_parts
            for parameter in part.parameters()
            if parameter.grad is not None
        ]
        norms = torch.stack(torch._foreach_norm([gradient for gradient in gradients if gradient.numel()], float("inf")))
        bad = (~norms.isfinite()).any().int()
        if dist.get_world_size() > 1:
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        return not bad.item()


class FiniteSchedulers:
    """torchtitan's schedules, which stand still when the optimizers did."""

    def __init__(self, schedulers: LRSchedulersContainer, optimizers: FiniteOptimizers):
        self.inner, self.optimizers = schedulers, optimizers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self) -> None:
        if self.optimizers.stepped:
            self.inner.step()
