"""Backends of the operators, one module for each operator and backend, and the choice between them.

Which tensors the fused Triton kernels support is told here too, so that asking does not import Triton.

numba runs on CPUs and Triton on CUDA devices. The reference runs anywhere, slowly and in float64; tests compare with it.
"""

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

BACKENDS = ("numba", "triton", "reference")

_HALVES = (torch.bfloat16, torch.float16)
# Hidden sizes, and the largest number of outputs, of a fused norm and product. Up to these a program has room for the gradients
# of several rows and for the sums that become the gradients of the weights.
_NORM_WIDTHS, _NORM_OUTS = (16, 32, 64), 192
# The largest hidden sizes of the two fused MLPs. In the narrow one, a program holds the gradients of its part of the weights; in
# the wide one, its columns of the weights.
_NARROW_MLP, _WIDE_MLP = 64, 256
# So many rows take no longer than the reading of the weights.
_FEW = 16


def choose(operator: str, x: Tensor, backend: str | None, available: Sequence[str] = BACKENDS) -> str:
    """Choose a backend: the requested one, or by default the one for x's device.

    There are no kernels for float64 on CUDA; the default there is the reference, as it is in graphs that torch.export makes for
    other programs.

    Args:
        operator: name for the message.
        x: the operator's first argument.
        backend: one of those available, or None.
        available: all backends of the operator. Without numba, the default on a CPU is the reference.

    Returns:
        One of those available.

    Raises:
        ValueError: an unknown backend.
    """
    if backend is None:
        if is_exported():
            return "reference"
        if not x.is_cuda:
            return "numba" if "numba" in available else "reference"
        return "reference" if x.dtype == torch.float64 else "triton"
    if backend not in available:
        raise ValueError(f"{operator}: unknown backend {backend!r}, choose from {', '.join(available)}")
    return backend


def is_exported() -> bool:
    """Whether torch.export traces the operators, for other programs; torch.compile says that it exports too."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


@cache
def kernels(backend: str, operator: str) -> ModuleType:
    """The module of one operator's kernels, imported when first used: numba and Triton each take a second to import."""
    return importlib.import_module(f"lt25.ops.backends.{backend}_{operator}")


def check_shapes(operator: str, sizes: Mapping[str, tuple[Tensor, Sequence[int]]]) -> None:
    """Raise ValueError if a tensor has not the shape that stands beside it, under the name that an operator gives it."""
    for name, (tensor, size) in sizes.items():
        if tensor.shape != tuple(size):
            raise ValueError(f"{operator}: {name} must be {tuple(size)}, got {tuple(tensor.shape)}")


def count_sequences(x: Tensor, cu_seqlens: Tensor | None) -> int:
    """The number N of sequences in x [B, T, ...]."""
    return x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the recurrent state for inputs x: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def sum_dtype(x: Tensor, residual: Tensor | None) -> torch.dtype:
    """The dtype of x + residual."""
    return x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)


def as_multiplied(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors as :func:`torch.nn.functional.linear` would: to autocast's dtype where autocast is on."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def joined(weights: Sequence[Tensor]) -> Tensor:
    """Concatenate matrices [N, D] to [len(weights) * N, D], without a copy if they already lie so in memory."""
    first, (rows, columns) = weights[0], weights[0].shape
    # The address first: it is told at once, and seldom the one that is looked for.
    if first.is_contiguous() and all(
        weight.data_ptr() == first.data_ptr() + n * first.nbytes
        and weight.is_contiguous()
        and weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        for n, weight in enumerate(weights[1:], 1)
    ):
        return first.as_strided((len(weights) * rows, columns), (columns, 1))
    return torch.cat(tuple(weights))


def on_hopper() -> bool:
    """Whether the GPU is a Hopper: some kernels need its large shared memory or its tensor descriptors."""
    return _is_hopper()


@cache
def _is_hopper() -> bool:
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


def is_few(x: Tensor) -> bool:
    """Whether x [..., H] has so few rows that to join weights would take longer than to multiply with each of them."""
    return x.shape[:-1].numel() <= _FEW


def fits_row(x: Tensor, *others: Tensor | None) -> bool:
    """Whether x [..., H] is a single row that needs no gradient, of the dtype of all others: weights, and a residual or None."""
    if x.shape[:-1].numel() != 1:
        return False
    tensors = [x, *(each for each in others if each is not None)]
    grad = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    return not grad and all(each.dtype == x.dtype for each in tensors) and x.dtype in (*_HALVES, torch.float32)


def are_constant(*weights: Tensor) -> bool:
    """Whether a Hopper GPU may read weights before the kernel that was queued before has ended.

    A parameter is not what that kernel computes; the product of a cast could be.
    """
    return all(isinstance(weight, torch.nn.Parameter) and weight.is_cuda for weight in weights) and on_hopper()
