"""What stands between two tokens of a text: the choice of the likeliest, and its embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import kernels
from lt25.ops.operator import operator


def argmax(x: Tensor) -> Tensor:
    """The index of the largest element of each row, of equal ones the first.

    Args:
        x: float [B, V], V > 0, without NaN.

    Returns:
        int64 [B, 1].
    """
    # The kernel compares float32.
    return _argmax(x) if x.is_cuda and x.dtype != torch.float64 else x.argmax(-1, keepdim=True)


@operator("lt25::argmax")
def _argmax(x: Tensor) -> Tensor:
    return kernels("triton", "token").argmax(x)


@_argmax.register_fake
def _(x):
    return x.new_empty(len(x), 1, dtype=torch.int64)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """:func:`torch.nn.functional.embedding`, on a GPU of a single token by a kernel that those around it overlap.

    Args:
        ids: int64 [...].
        weight: float [V, H].

    Returns:
        [..., H] in the weight's dtype.
    """
    differentiable = torch.is_grad_enabled() and weight.requires_grad
    if weight.is_cuda and ids.numel() == 1 and ids.dtype == torch.int64 and not differentiable:
        return _embedding(ids, weight)
    return F.embedding(ids, weight)


@operator("lt25::embedding_row")
def _embedding(ids: Tensor, weight: Tensor) -> Tensor:
    return kernels("triton", "token").embedding(ids, weight)


@_embedding.register_fake
def _(ids, weight):
    return weight.new_empty(*ids.shape, weight.shape[1])
