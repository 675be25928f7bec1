"""For which tensors there are fused Triton kernels; a module of its own, since to ask is no reason to import Triton."""

from collections.abc import Sequence

import torch
from torch import Tensor

_HALVES = (torch.bfloat16, torch.float16)
# Hidden sizes at which a norm and a product, and results of a row, of which a program can hold several rows' gradients beside the
# sums for their weights.
_NORM_WIDTHS, _NORM_OUTS = (16, 32, 64), 192
# The widest hidden size at which a program can hold the gradients of an MLP's weights, and its columns of these weights.
_NARROW_MLP, _WIDE_MLP = 64, 256


@torch.compiler.assume_constant_result
def on_hopper() -> bool:
    """Whether the GPU is a Hopper, whose shared memory, or whose tensor descriptors, kernels count on."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def fits_norm_linear(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether norm and products of rows x [..., D] by one to three weights [N, D] are one kernel."""
    outs, width = weights[0].shape
    small = width in _NORM_WIDTHS and outs % 16 == 0 and len(weights) * outs <= _NORM_OUTS and len(weights) <= 3
    alike = all(weight.shape == weights[0].shape and weight.dtype == x.dtype for weight in weights)
    return small and alike and x.dtype in _HALVES and (not x.is_cuda or on_hopper())


def fits_narrow_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether a gated MLP of x [..., H] with weights [I, H], [I, H] and [H, I] is one kernel."""
    return _whole_units(x, gate, up, down) and gate.shape[1] <= _NARROW_MLP


def fits_wide_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether the products beside SwiGLU do its work; arguments as in `fits_narrow_mlp`."""
    return _whole_units(x, gate, up, down) and gate.shape[1] <= _WIDE_MLP and x.is_cuda and on_hopper()


def _whole_units(x: Tensor, *weights: Tensor) -> bool:
    """Half precision throughout, and sizes that are multiples of 16."""
    sizes = weights[0].shape
    alike = all(weight.dtype == x.dtype for weight in weights)
    return alike and x.dtype in _HALVES and all(size > 0 and size % 16 == 0 for size in sizes)
