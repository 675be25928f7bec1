"""Backends of the operators, one module for each operator and backend, and the choice between them.

numba runs on CPUs and Triton on CUDA devices. The reference runs anywhere, slowly and in float64; tests compare with it.
"""

import importlib
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

BACKENDS = ("numba", "triton", "reference")


def choose(operator: str, x: Tensor, backend: str | None) -> str:
    """Choose a backend: the requested one, or by default the one for x's device.

    There are no kernels for float64 on CUDA; the default there is the reference.

    Args:
        operator: name for the message.
        x: the operator's first argument.
        backend: one of BACKENDS, or None.

    Returns:
        One of BACKENDS.

    Raises:
        ValueError: an unknown backend.
    """
    if backend is None:
        if not x.is_cuda:
            return "numba"
        return "reference" if x.dtype == torch.float64 else "triton"
    if backend not in BACKENDS:
        raise ValueError(f"{operator}: unknown backend {backend!r}, choose from {', '.join(BACKENDS)}")
    return backend


@cache
def kernels(backend: str, operator: str) -> ModuleType:
    """The module of one operator's kernels, imported when first used: numba and Triton each take a second to import."""
    return importlib.import_module(f"lt25.ops.backends.{backend}_{operator}")


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
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    if all(
        weight.is_contiguous()
        and weight.untyped_storage().data_ptr() == storage
        and weight.storage_offset() == start + n * first.numel()
        for n, weight in enumerate(weights)
    ):
        return first.as_strided((len(weights) * rows, columns), (columns, 1))
    return torch.cat(tuple(weights))
