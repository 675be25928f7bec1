"""Optimizer and schedule that move together or, when a gradient is not finite, not at all.

What is decided anew in every step stays on the device, so that the host never waits for it: whether the step is taken, how
many were, and the learning rate, which is looked up by that number in a table of the whole schedule.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.stateful import Stateful
from torchtitan.components.lr_scheduler import build_lr_schedulers
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.config import LRScheduler as LRSchedulerConfig
from torchtitan.config import Optimizer as OptimizerConfig
from torchtitan.distributed import ParallelDims

from lt25.errors import UserError
from lt25.models.families import find
from lt25.replaced import replaced
from lt25.training.muon import Muon, hidden_matrices
from lt25.training.shards import Adam, local

OPTIMIZERS: dict[str, Callable[..., Adam]] = {
    "Adam": Adam,
    "AdamW": partial(Adam, decoupled_weight_decay=True),
    "Muon": Muon,
}
# The name of a weight's running mean in its optimizer's state.
EMA = "ema"


class FiniteOptimizers(OptimizersContainer):
    """torchtitan's optimizers, except that a step with a NaN or infinite gradient is left out and counted.

    Args:
        model_parts: what has the parameters.
        name: one of ``OPTIMIZERS``.
        options: `torch.optim.Adam`'s.
        gates: of forget gates: what the names of their parameters end in, and `torch.optim.Adam`'s options that differ for them.
        ema_decay: of the running mean of the weights, float32 at least, that is kept in the optimizers' state; 0: none. In the
            first steps it is less, so that the mean soon forgets where training began.

    Attributes:
        taken, skipped: int64 [1] on the device of the parameters, the steps taken and left out.
        rate: scalar, the learning rate of the last step; float64 on a CPU, float32 on a GPU, whose kernels read no other.
        rates: [steps + 1] of the same dtype, the rate of each step by the number of steps taken before.
    """

    def __init__(
        self,
        model_parts: list[nn.Module],
        name: str,
        options: dict[str, Any],
        gates: tuple[tuple[str, ...], dict[str, Any]] = ((), {}),
        ema_decay: float = 0.0,
    ) -> None:
        self.ema_decay = ema_decay
        build: Any = OPTIMIZERS[name]
        if name == "Muon":
            build = partial(build, matrices=set[Tensor]().union(*map(hidden_matrices, model_parts)))
        super().__init__(model_parts, build, {**options, "fused": True})
        if gates[1]:
            own = {one for part in model_parts for name, one in part.named_parameters() if name.endswith(gates[0])}
            for optimizer in self.optimizers:
                optimizer.param_groups[:] = [
                    {**group, **options, "params": [one for one in group["params"] if (one in own) == gate]}
                    for group in optimizer.param_groups
                    for gate, options in ((False, {}), (True, gates[1]))
                ]
        device = next(part.device for model in model_parts for part in model.parameters())
        self.taken, self.skipped = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.capturable, self.constant = device.type == "cuda", options["lr"]
        self.follow([options["lr"]])
        for optimizer in self.optimizers:
            # Otherwise torch remarks that a step which could be captured in a graph is not.
            optimizer._warned_capturable_if_run_uncaptured = True
        # Torch makes the state of all weights in a step of zero, and resuming expects it of all. Left to the first step, there
        # would be none of weights that never have a gradient, such as the lower bounds of an HGRN of one layer.
        super().state_dict()
        for value in (value for one in self.optimizers for state in one.state.values() for value in state.values()):
            value.zero_()

    def state_dict(self) -> dict[str, Any]:
        if self.ema_decay:
            self._weights_and_means()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state_dict()

        policy = "_process_value_according_to_param_policy"
        own = getattr(torch.optim.Optimizer, policy)

        def as_stored(
            weight: Tensor, value: Tensor, number: int, groups: list[dict[str, Any]], key: Any = None
        ) -> Tensor:
            return value.to(weight.device) if key == EMA else own(weight, value, number, groups, key)

        # Otherwise torch gives what it loads the dtype of the weight, and the means are finer than that.
        with replaced(torch.optim.Optimizer, policy, staticmethod(as_stored)):
            super().load_state_dict(state_dict)

    def follow(self, rates: list[float]) -> None:
        """Take the learning rates of a schedule, the last of which stays."""
        dtype = torch.float32 if self.capturable else torch.float64
        self.rates = torch.tensor(rates, dtype=dtype, device=self.taken.device)
        self.rate = self.rates[:1].clone()

    @torch.no_grad()
    def step(self, norm: Tensor) -> None:
        """Take a step, if the norm of the gradients over all ranks, a scalar, is finite."""
        # A norm is not negative, and no comparison holds for NaN.
        finite = (norm < math.inf).to(device=self.taken.device, dtype=torch.int64)
        missed = 1 - finite
        torch.index_select(self.rates, 0, self.taken.clamp_max(len(self.rates) - 1), out=self.rate)
        for optimizer in self.optimizers:
            optimizer.found_inf = missed.float()
            highest = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                own = group["lr"] != self.constant
                rate = self.rate[0] * (group["lr"] / self.constant) if own else self.rate[0]
                group["lr"], group["capturable"] = rate, self.capturable
            optimizer.step()
            # What a checkpoint holds is the same on every device.
            optimizer.found_inf = None
            for group, lr in zip(optimizer.param_groups, highest, strict=True):
                group["lr"], group["capturable"] = lr, False
        if self.ema_decay:
            self._average(finite.reshape(()))
        self.skipped += missed
        self.taken += finite

    def _average(self, finite: Tensor) -> None:
        """Move the means of the weights towards these, if ``finite`` is 1; if it is 0, they stay."""
        weights, means = self._weights_and_means()
        steps = self.taken[0].float()
        share = finite * (1 - ((1 + steps) / (10 + steps)).clamp_max(self.ema_decay))
        away = torch._foreach_sub(weights, means)
        torch._foreach_mul_(away, share)
        torch._foreach_add_(means, away)

    def _weights_and_means(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return this rank's parts of the weights and of their means, which begin as the weights."""
        weights, means = [], []
        for optimizer in self.optimizers:
            for weight in (one for group in optimizer.param_groups for one in group["params"]):
                # What is frozen has no state.
                if state := optimizer.state.get(weight):
                    if EMA not in state:
                        # A mean in bfloat16 would stand still: what a step adds is less than its last digit.
                        state[EMA] = weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
                    weights.append(weight)
                    means.append(state[EMA])
        return local(weights), local(means)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the means of the weights in their place for a while, if they are kept."""
        if not self.ema_decay:
            yield
            return
        with torch.no_grad():
            weights, means = self._weights_and_means()
            own = [weight.clone() for weight in weights]
            torch._foreach_copy_(weights, means)
        yield
        with torch.no_grad():
            torch._foreach_copy_(weights, own)


class Schedule(Stateful):
    """The learning rates of a run, as torchtitan wants to save and step them; the optimizers keep the place in it."""

    def __init__(self, optimizers: FiniteOptimizers, rates: list[float]) -> None:
        self.optimizers = optimizers
        optimizers.follow(rates)

    def state_dict(self) -> dict[str, int]:
        return {"last_epoch": int(self.optimizers.taken)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.optimizers.taken.fill_(state["last_epoch"])


def build_optimizers(
    model_parts: list[nn.Module], config: OptimizerConfig, parallel_dims: ParallelDims
) -> FiniteOptimizers:
    """Build the optimizers of a job, as a TrainSpec wants them built.

    Raises:
        UserError: for an optimizer of torchtitan's whose steps cannot be left out.
    """
    if config.early_step_in_backward or config.implementation != "fused":
        key = "early_step_in_backward" if config.early_step_in_backward else "implementation"
        found = getattr(config, key)
        raise UserError(f"optimizer.{key}: found {found}, but only fused optimizers leave out a step: remove the key")
    options = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}
    options["weight_decay"] = config.weight_decay
    added = cast(Any, config)
    own = {"lr": added.gate_lr, "weight_decay": added.gate_weight_decay}
    own = {name: value for name, value in own.items() if value is not None}
    names = find(cast(Any, model_parts[0]).hf.config.model_type).gates if own else ()
    return FiniteOptimizers(model_parts, config.name, options, (names, own), added.ema_decay)


def build_schedule(optimizers: FiniteOptimizers, config: LRSchedulerConfig, steps: int) -> Schedule:
    """Build the schedule of a job from torchtitan's, as a TrainSpec wants it built."""
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=optimizers.constant)
    (schedule,) = cast(Any, build_lr_schedulers)([stand_in], config, steps)
    return Schedule(optimizers, [optimizers.constant * schedule.lr_lambdas[0](step) for step in range(steps + 1)])
