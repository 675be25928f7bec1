"""Launches of Triton kernels that cost the host little.

Triton looks at every argument of every launch to find out which compiled kernel is meant, and for small models that takes longer
than the kernel. The answer depends on types, constants, and whether numbers and addresses are multiples of 16. A launch of which
all but the tensors is settled keeps it, and from then on launches the compiled kernel itself.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from math import prod
from operator import attrgetter, or_
from typing import Any

import torch
from torch import Tensor

from lt25 import compiling

_device, _dtype, _address = Tensor.get_device, attrgetter("dtype"), Tensor.data_ptr

# Decorates functions that settle a launch by sizes, of which training may meet any number.
settled = lru_cache(maxsize=1024)


class Launch:
    """All of a kernel's launch but its tensors.

    Args:
        kernel: a function of :func:`triton.jit`, whose arguments are tensors, then numbers, and constants last.
        grid: programs along one to three axes.
        numbers: as the kernel takes them.
        constants: by name, and options of the launch.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], *numbers: float, **constants: Any) -> None:
        self.kernel, self.grid, self.numbers, self.constants = kernel, grid, numbers, constants
        self.programs = prod(grid)
        self.last = *numbers, *(constants[name] for name in kernel.arg_names if name in constants)
        # Of tensors at multiples of 16 bytes, by their types and devices: Triton refuses those of a CPU.
        self.compiled: dict[tuple, Callable[..., None]] = {}

    def __call__(self, *tensors: Tensor) -> None:
        """Launch it on the device of the first tensor, unless it is of no program."""
        if not self.programs:
            return
        device = _device(tensors[0])
        if device < 0:
            self._triton(tensors)
            return
        if device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self(*tensors)
            return
        addresses = [*map(_address, tensors)]
        if reduce(or_, addresses) % 16 or compiling.ahead:
            self._triton(tensors)
            return
        key = *map(_dtype, tensors), *map(_device, tensors)
        if run := self.compiled.get(key):
            run(*addresses, *self.last)
            return
        # As Triton's documentation launches a kernel that was compiled beforehand; the interpreter has none.
        compiled = self._triton(tensors)
        if compiled is not None:
            self.compiled[key] = compiled[(*self.grid, 1, 1)[:3]]

    def _triton(self, tensors: tuple[Tensor, ...]) -> Any:
        return self.kernel[self.grid](*tensors, *self.numbers, **self.constants)
