"""What a call of an operator costs the host: lt25's, flash-linear-attention's and torch's of a layer without its matrix products.

    python benchmarks/host.py [--steps 50]

The tensors are so small, 1 x 16 x 64, that the GPU is done with a call before the host makes the next. Printed are microseconds
of the host for an operator without gradients, and for one with its backward pass, as a training step meets them: 16 calls with
tensors of their own, then one backward pass through all, whose start costs the host as much as several operators. It is the
median of nine times so many steps, divided by 16. "mix", "swiglu" and "norm" are those of layer.py.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from device import Set, forward, needing
from layer import CASES
from torch import Tensor

from lt25.compiling import time_briefly

SHAPE = (1, 16, 64)
# Operators of a step.
CALLS = 16


def without_gradients(call: Callable, sets: Sequence[Set]) -> None:
    for arguments, grads in sets:
        forward(call, arguments, grads)


class _Loss(torch.autograd.Function):
    """What hands all results their gradients, as those that read them would: torch checks the gradients that it is given."""

    @staticmethod
    def forward(ctx: Any, grads: Sequence[Tensor], *results: Tensor) -> Tensor:
        ctx.grads = grads
        return results[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, *ctx.grads


def step(call: Callable, sets: Sequence[Set]) -> tuple[Tensor, ...]:
    """The gradients of all that need them."""
    results: list[Tensor] = []
    for arguments, _ in sets:
        found = call(*arguments)
        results.extend(found if isinstance(found, tuple) else (found,))
    loss = _Loss.apply([grad for _, grads in sets for grad in grads], *results)
    return torch.autograd.grad(loss, [each for arguments, _ in sets for each in needing(arguments)])


def microseconds(run: Callable[[], object], steps: int) -> float:
    """Return what an operator of a step takes the host, warm."""
    found = []
    for times in (max(1, steps // 5), *[steps] * 9):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            run()
        found.append((time.perf_counter() - began) / (times * CALLS) * 1e6)
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="timed together; default: %(default)s")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU: on a CPU the host computes as well")
    time_briefly()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| what | whose | us forward | us forward and backward |\n| --- | --- | ---: | ---: |")
    for operation, whose, call, _, make in CASES:
        sets = [make(SHAPE) for _ in range(CALLS)]
        plain, differentiated = (
            microseconds(partial(each, call, sets), options.steps) for each in (without_gradients, step)
        )
        print(f"| {operation} | {whose} | {plain:.1f} | {differentiated:.1f} |", flush=True)


if __name__ == "__main__":
    main()
