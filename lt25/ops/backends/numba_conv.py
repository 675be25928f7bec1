"""The short convolutions on a CPU, compiled by numba: one pass over the rows."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends import state_dtype
from lt25.ops.backends.numba_common import (
    AHEAD,
    JIT,
    ROWS,
    fetch,
    mask_rows,
    multiply_add,
    offsets_of,
    rows,
    use_threads,
)

# Lags added in one loop over the channels, so that their sum stays in registers.
LAGS = 4


@njit(**JIT)
def _sequence_of(row, offsets):
    """The index of the sequence that contains a row; empty sequences are skipped."""
    return np.searchsorted(offsets, row, side="right") - 1


@njit(**JIT)
def _sum(w0, x0, w1, x1, w2, x2, w3, x3):
    """w0 x0 + w1 x1 + w2 x2 + w3 x3, where only the second product is rounded before it is added."""
    return multiply_add(w3, x3, multiply_add(w2, x2, multiply_add(w0, x0, w1 * x1)))


@njit(**JIT)
def _counts(row, mask):
    return len(mask) == 0 or mask[row]


# In the kernels weights are [R, 2 D]: the factors of rows t - behind to t - behind + R - 1 in row t. They are zero for rows that
# a channel does not read, and R is rounded up to a multiple of LAGS. Rows outside the sequence and padding are replaced by
# zeros, since they may contain NaN.


@njit(parallel=True, **JIT)
def _forward(x, weight, behind, mask, offsets, y):
    count, (reads, channels) = len(x), weight.shape
    for item in prange((count + ROWS - 1) // ROWS):
        n = _sequence_of(item * ROWS, offsets)
        zeros = np.zeros(channels, x.dtype)
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            while t >= offsets[n + 1]:
                n += 1
            first, last = offsets[n], offsets[n + 1]
            fetch(x[t + AHEAD])
            fetch(y[t + AHEAD])
            y_t = y[t, :channels]
            y_t[:] = 0
            y[t, channels:] = x[t, channels:]
            for lag in range(0, reads, LAGS):
                s = t - behind + lag
                x0 = x[s, :channels] if first <= s < last and _counts(s, mask) else zeros
                x1 = x[s + 1, :channels] if first <= s + 1 < last and _counts(s + 1, mask) else zeros
                x2 = x[s + 2, :channels] if first <= s + 2 < last and _counts(s + 2, mask) else zeros
                x3 = x[s + 3, :channels] if first <= s + 3 < last and _counts(s + 3, mask) else zeros
                w0, w1, w2, w3 = weight[lag], weight[lag + 1], weight[lag + 2], weight[lag + 3]
                for d in range(channels):
                    y_t[d] += _sum(w0[d], x0[d], w1[d], x1[d], w2[d], x2[d], w3[d], x3[d])


@njit(parallel=True, **JIT)
def _backward(grad_y, x, weight, behind, mask, offsets, grad_x, grad_weights):
    count, (reads, channels) = len(x), weight.shape
    for item in prange((count + ROWS - 1) // ROWS):
        start, stop = item * ROWS, min(count, (item + 1) * ROWS)
        zeros = np.zeros(channels, x.dtype)
        for t in range(start, stop):
            grad_x[t, :channels] = 0
            grad_x[t, channels:] = grad_y[t, channels:]
        # The loop over lags is the outer one: the loop over channels vectorizes only if the rows that it writes never overlap
        # within the loop around it.
        for lag in range(0, reads, LAGS):
            w0, w1, w2, w3 = weight[lag], weight[lag + 1], weight[lag + 2], weight[lag + 3]
            grad_w = grad_weights[item]
            g0, g1, g2, g3 = grad_w[lag], grad_w[lag + 1], grad_w[lag + 2], grad_w[lag + 3]
            n = _sequence_of(start, offsets)
            for t in range(start, stop):
                while t >= offsets[n + 1]:
                    n += 1
                if not _counts(t, mask):
                    continue
                first, last, s = offsets[n], offsets[n + 1], t + behind - lag
                x_t, grad_x_t = x[t, :channels], grad_x[t, :channels]
                y0 = grad_y[s, :channels] if first <= s < last else zeros
                y1 = grad_y[s - 1, :channels] if first <= s - 1 < last else zeros
                y2 = grad_y[s - 2, :channels] if first <= s - 2 < last else zeros
                y3 = grad_y[s - 3, :channels] if first <= s - 3 < last else zeros
                for d in range(channels):
                    grad_x_t[d] += _sum(w0[d], y0[d], w1[d], y1[d], w2[d], y2[d], w3[d], y3[d])
                for d in range(channels):
                    g0[d] += x_t[d] * y0[d]
                    g1[d] += x_t[d] * y1[d]
                    g2[d] += x_t[d] * y2[d]
                    g3[d] += x_t[d] * y3[d]


def forward(ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool) -> Tensor:
    """i and f convolved, and g, [B, T, 3 D] in ifg's dtype."""
    dtype = state_dtype(ifg)
    y = torch.empty(ifg.shape, dtype=dtype)
    use_threads()
    _forward(
        rows(ifg, dtype),
        _by_row(weight, bidirectional, dtype).numpy(),
        weight.shape[1] - 1,
        mask_rows(mask),
        offsets_of(ifg, cu_seqlens),
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
    dtype, size = state_dtype(ifg), weight.shape[1]
    grad = torch.empty(ifg.shape, dtype=dtype)
    x, by_row = rows(ifg, dtype), _by_row(weight, bidirectional, dtype)
    grad_weights = torch.zeros(-(-len(x) // ROWS), *by_row.shape, dtype=dtype)
    use_threads()
    _backward(
        rows(grad_y, dtype),
        x,
        by_row.numpy(),
        size - 1,
        mask_rows(mask),
        offsets_of(ifg, cu_seqlens),
        rows(grad),
        grad_weights.numpy(),
    )
    by_row = grad_weights.sum(0).T
    grad_weight = by_row[:, :size].to(weight.dtype, copy=True)
    if bidirectional:
        _ahead(grad_weight).copy_(_ahead(by_row)[..., size - 1 : 2 * size - 1].flip(-1))
    return grad.to(ifg.dtype), grad_weight.contiguous()


def _by_row(weight: Tensor, bidirectional: bool, dtype: torch.dtype) -> Tensor:
    """The weight [2 D, K] as a copy [R, 2 D] for the kernels."""
    channels, size = weight.shape
    reads = 2 * size - 1 if bidirectional else size
    by_row = weight.new_zeros(channels, -(-reads // LAGS) * LAGS, dtype=dtype)
    by_row[:, :size] = weight.detach()
    if bidirectional:
        _ahead(by_row).zero_()
        _ahead(by_row)[..., size - 1 : reads] = _ahead(weight.detach()).flip(-1)
    return by_row.T.contiguous()


def _ahead(by_channel: Tensor) -> Tensor:
    """The channels that read later steps: from [2 D, ...] the view [2, D / 2, ...]."""
    return by_channel.unflatten(0, (2, 2, -1))[:, 1]
