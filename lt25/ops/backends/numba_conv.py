"""The short convolutions on a CPU, compiled by numba: one pass over the rows, each of which reads those around it."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends import state_dtype
from lt25.ops.backends.numba_common import JIT, ROWS, mask_rows, offsets_of, rows, use_threads


@njit(**JIT)
def _sequence_of(row, offsets):
    """The sequence that a row belongs to; empty ones are passed over."""
    return np.searchsorted(offsets, row, side="right") - 1


@njit(**JIT)
def _counts(row, mask):
    return len(mask) == 0 or mask[row]


# Channels in groups that read the same way: all of i and f forward, or in turn a half forward and a half backward. Weights
# are [K, 2 D] here, with that of lag j in row K - 1 - j.


@njit(parallel=True, **JIT)
def _forward(x, weight, mask, offsets, groups, y):
    count, (size, channels) = len(x), weight.shape
    span = channels // groups
    for item in prange((count + ROWS - 1) // ROWS):
        n = _sequence_of(item * ROWS, offsets)
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            while t >= offsets[n + 1]:
                n += 1
            y[t, channels:] = x[t, channels:]
            for group in range(groups):
                part = slice(group * span, (group + 1) * span)
                y_t = y[t, part]
                y_t[:] = 0
                for lag in range(size):
                    source = t + lag if group % 2 else t - lag
                    if source < offsets[n] or source >= offsets[n + 1]:
                        break
                    if _counts(source, mask):
                        x_s, w = x[source, part], weight[size - 1 - lag, part]
                        for d in range(span):
                            y_t[d] += w[d] * x_s[d]


@njit(parallel=True, **JIT)
def _backward(grad_y, x, weight, mask, offsets, groups, grad_x, grad_weights):
    count, (size, channels) = len(x), weight.shape
    span = channels // groups
    for item in prange((count + ROWS - 1) // ROWS):
        n = _sequence_of(item * ROWS, offsets)
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            while t >= offsets[n + 1]:
                n += 1
            grad_x[t, channels:] = grad_y[t, channels:]
            for group in range(groups):
                part = slice(group * span, (group + 1) * span)
                x_t, grad_x_t = x[t, part], grad_x[t, part]
                grad_x_t[:] = 0
                if not _counts(t, mask):
                    continue
                for lag in range(size):
                    target = t - lag if group % 2 else t + lag
                    if target < offsets[n] or target >= offsets[n + 1]:
                        break
                    grad_y_s = grad_y[target, part]
                    w, grad_w = weight[size - 1 - lag, part], grad_weights[item, size - 1 - lag, part]
                    for d in range(span):
                        grad_x_t[d] += w[d] * grad_y_s[d]
                        grad_w[d] += x_t[d] * grad_y_s[d]


def forward(ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool) -> Tensor:
    """i and f convolved, and g, [B, T, 3 D] in ifg's dtype."""
    dtype = state_dtype(ifg)
    y = torch.empty(ifg.shape, dtype=dtype)
    use_threads()
    _forward(
        rows(ifg, dtype),
        _weight(weight, dtype),
        mask_rows(mask),
        offsets_of(ifg, cu_seqlens),
        4 if bidirectional else 1,
        rows(y),
    )
    return y.to(ifg.dtype)


def backward(
    grad_y: Tensor,
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ifg and weight, in their dtypes."""
    dtype = state_dtype(ifg)
    grad = torch.empty(ifg.shape, dtype=dtype)
    x = rows(ifg, dtype)
    grad_weights = torch.zeros(-(-len(x) // ROWS), *weight.shape[::-1], dtype=dtype)
    use_threads()
    _backward(
        rows(grad_y, dtype),
        x,
        _weight(weight, dtype),
        mask_rows(mask),
        offsets_of(ifg, cu_seqlens),
        4 if bidirectional else 1,
        rows(grad),
        grad_weights.numpy(),
    )
    return grad.to(ifg.dtype), grad_weights.sum(0).T.to(weight.dtype).contiguous()


def _weight(weight: Tensor, dtype: torch.dtype) -> np.ndarray:
    """[2 D, K] as a numpy copy [K, 2 D]."""
    return weight.detach().T.to(dtype, copy=True, memory_format=torch.contiguous_format).numpy()
