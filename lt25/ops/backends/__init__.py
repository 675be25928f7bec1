"""Backends of the operators, one module for each operator and backend, and the choice between them.

numba runs on CPUs, Triton on CUDA devices; the reference runs anywhere, in float64 and slowly, and is what tests trust.
"""

import importlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

BACKENDS = ("numba", "triton", "reference")


def choose(operator: str, x: Tensor, backend: str | None) -> str:
    """The backend asked for or, if none was, the one for x's device: for float64 on CUDA, which has no kernels, the reference.

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


def kernels(backend: str, operator: str) -> ModuleType:
    """The module of one operator's kernels, imported when first used: numba and Triton each take a second to import."""
    return importlib.import_module(f"lt25.ops.backends.{backend}_{operator}")


def state_dtype(x: Tensor) -> torch.dtype:
    """In which a recurrent state is kept beside x: float32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def sum_dtype(x: Tensor, residual: Tensor | None) -> torch.dtype:
    """Of x + residual."""
    return x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)


def as_multiplied(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the dtype in which :func:`torch.nn.functional.linear` would take them: autocast's where it is on."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def joined(weights: Sequence[Tensor]) -> Tensor:
    """Matrices [N, D] of equal shape one below the other, [len(weights) * N, D]; not copied where memory has them so."""
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
