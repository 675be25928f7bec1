"""Which tensors the fused Triton kernels support. Kept apart from the kernels, so that asking does not import Triton."""

from collections.abc import Sequence

import torch
from torch import Tensor

_HALVES = (torch.bfloat16, torch.float16)
# Hidden sizes, and the largest number of outputs, of a fused norm and product. Up to these a program has room for the gradients
# of several rows and for the sums that become the gradients of the weights.
_NORM_WIDTHS, _NORM_OUTS = (16, 32, 64), 192
# The largest hidden sizes of the two fused MLPs. In the narrow one, a program holds the gradients of its part of the weights; in
# the wide one, its columns of the weights.
_NARROW_MLP, _WIDE_MLP = 64, 256


def on_hopper() -> bool:
    """Whether the GPU is a Hopper: some kernels need its large shared memory or its tensor descriptors."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


# What torch.compiler.assume_constant_result does, which imports the compiler: three seconds.
on_hopper._dynamo_marked_constant = True


def fits_norm_linear(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether one kernel computes the norm of rows x [..., D] and their products with one to three weights [N, D]."""
    outs, width = weights[0].shape
    small = width in _NORM_WIDTHS and outs % 16 == 0 and len(weights) * outs <= _NORM_OUTS and len(weights) <= 3
    alike = all(weight.shape == weights[0].shape and weight.dtype == x.dtype for weight in weights)
    return small and alike and x.dtype in _HALVES and (not x.is_cuda or on_hopper())


def fits_narrow_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether one kernel computes a gated MLP of x [..., H] with weights [I, H], [I, H] and [H, I]."""
    return _whole_units(x, gate, up, down) and gate.shape[1] <= _NARROW_MLP


def fits_wide_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether SwiGLU can be fused into the products before and after it; arguments as in `fits_narrow_mlp`."""
    return _whole_units(x, gate, up, down) and gate.shape[1] <= _WIDE_MLP and x.is_cuda and on_hopper()


def _whole_units(x: Tensor, *weights: Tensor) -> bool:
    """Whether all tensors have one half-precision dtype, and all sizes are multiples of 16."""
    sizes = weights[0].shape
    alike = all(weight.dtype == x.dtype for weight in weights)
    return alike and x.dtype in _HALVES and all(size > 0 and size % 16 == 0 for size in sizes)


# So many rows take no longer than the reading of the weights.
_FEW = 16


def is_few(x: Tensor) -> bool:
    """Whether x [..., H] has so few rows that to join weights would take longer than to multiply with each of them."""
    return x.shape[:-1].numel() <= _FEW


def fits_row(x: Tensor, *others: Tensor | None) -> bool:
    """Whether x [..., H] is a single row that needs no gradient, of the dtype of all others: weights, and a residual or None."""
    tensors = [x, *(each for each in others if each is not None)]
    alike = all(each.dtype == x.dtype for each in tensors) and x.dtype in (*_HALVES, torch.float32)
    grad = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    return alike and not grad and x.shape[:-1].numel() == 1


def are_constant(*weights: Tensor) -> bool:
    """Whether a Hopper GPU may read weights before the kernel that was queued before has ended.

    A parameter is not what that kernel computes; the product of a cast could be.
    """
    return all(isinstance(weight, torch.nn.Parameter) and weight.is_cuda for weight in weights) and on_hopper()
