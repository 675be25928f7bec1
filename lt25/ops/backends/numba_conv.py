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
    put,
    rows,
    stored_dtype,
    use_threads,
    widened,
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


# Channels that read earlier steps and channels that read later ones are laid out so that both are the same sum: the weights are
# [R, 2 D], R the kernel's size rounded up to a multiple of LAGS, zero beyond it, and row t of the result is the sum of weight[k]
# times row t + k of what is laid out. Rows outside the sequence and padding are laid out as zeros, since they may contain NaN.


@njit(**JIT)
def _lay_out(x, before, halves, first, last, start, end, mask, laid):
    """Write to ``laid`` the rows that rows start to end of the result are made of.

    Row r of these is row start + r - before[0] of x, or before[1] for channels that read later steps; it is zeros where that is
    not within first to last, or the mask leaves it out.
    """
    span = laid.shape[1] // (2 * halves)
    for r in range(end - start + len(laid) - ROWS):
        fetch(x[start + r + AHEAD])
        for part in range(2 * halves):
            row, begin, stop = start + r - before[part % halves], part * span, (part + 1) * span
            laid_r = laid[r, begin:stop]
            # Element by element: to assign a slice takes numba longer than to copy so few.
            if first <= row < last and (len(mask) == 0 or mask[row]):
                x_r = x[row, begin:stop]
                for d in range(len(laid_r)):
                    laid_r[d] = widened(x_r[d])
            else:
                for d in range(len(laid_r)):
                    laid_r[d] = 0


@njit(parallel=True, **JIT)
def _forward(x, weight, size, halves, mask, offsets, y):
    count, (reads, channels) = len(x), weight.shape
    for item in prange((count + ROWS - 1) // ROWS):
        start, stop = item * ROWS, min(count, (item + 1) * ROWS)
        laid, total = np.empty((ROWS + reads - 1, channels), weight.dtype), np.empty(channels, weight.dtype)
        n = _sequence_of(start, offsets)
        while start < stop:
            while start >= offsets[n + 1]:
                n += 1
            end = min(stop, offsets[n + 1])
            _lay_out(x, (size - 1, 0), halves, offsets[n], offsets[n + 1], start, end, mask, laid)
            for t in range(start, end):
                r = t - start
                fetch(y[t + AHEAD])
                for d in range(channels):
                    total[d] = _sum(
                        weight[0, d], laid[r, d], weight[1, d], laid[r + 1, d],
                        weight[2, d], laid[r + 2, d], weight[3, d], laid[r + 3, d],
                    )  # fmt: skip
                for k in range(LAGS, reads, LAGS):
                    for d in range(channels):
                        total[d] += _sum(
                            weight[k, d], laid[r + k, d], weight[k + 1, d], laid[r + k + 1, d],
                            weight[k + 2, d], laid[r + k + 2, d], weight[k + 3, d], laid[r + k + 3, d],
                        )  # fmt: skip
                y_t, y_g, g = y[t], y[t, channels:], x[t, channels:]
                for d in range(channels):
                    put(y_t, d, total[d])
                for d in range(len(g)):
                    y_g[d] = g[d]
            start = end


@njit(parallel=True, **JIT)
def _backward(grad_y, x, weight, size, halves, mask, offsets, grad_x, grad_weights):
    count, (reads, channels) = len(x), weight.shape
    every = np.empty(0, np.bool_)
    for item in prange((count + ROWS - 1) // ROWS):
        start, stop = item * ROWS, min(count, (item + 1) * ROWS)
        laid, total = np.empty((ROWS + reads - 1, channels), weight.dtype), np.empty((ROWS, channels), weight.dtype)
        grad_w = grad_weights[item]
        n = _sequence_of(start, offsets)
        while start < stop:
            while start >= offsets[n + 1]:
                n += 1
            end = min(stop, offsets[n + 1])
            behind = reads - size, reads - 1
            _lay_out(grad_y, behind, halves, offsets[n], offsets[n + 1], start, end, every, laid)
            total[: end - start] = 0
            # The loop over lags is the outer one: the loop over channels vectorizes only if the rows that it writes never overlap
            # within the loop around it.
            for k in range(0, reads, LAGS):
                g0, g1, g2, g3 = grad_w[k], grad_w[k + 1], grad_w[k + 2], grad_w[k + 3]
                for t in range(start, end):
                    if len(mask) and not mask[t]:
                        continue
                    r, x_t, total_t = t - start + reads - 1 - k, x[t], total[t - start]
                    for d in range(channels):
                        total_t[d] += _sum(
                            weight[k, d], laid[r, d], weight[k + 1, d], laid[r - 1, d],
                            weight[k + 2, d], laid[r - 2, d], weight[k + 3, d], laid[r - 3, d],
                        )  # fmt: skip
                    for d in range(channels):
                        value = widened(x_t[d])
                        g0[d] += value * laid[r, d]
                        g1[d] += value * laid[r - 1, d]
                        g2[d] += value * laid[r - 2, d]
                        g3[d] += value * laid[r - 3, d]
            for t in range(start, end):
                total_t, grad_t, grad_g, g = total[t - start], grad_x[t], grad_x[t, channels:], grad_y[t, channels:]
                for d in range(channels):
                    put(grad_t, d, total_t[d])
                for d in range(len(g)):
                    grad_g[d] = g[d]
            start = end


def forward(ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool) -> Tensor:
    """i and f convolved, and g, [B, T, 3 D] in ifg's dtype."""
    dtype, stored = state_dtype(ifg), stored_dtype(ifg)
    y = torch.empty(ifg.shape, dtype=stored)
    use_threads()
    _forward(
        rows(ifg, stored),
        _by_row(weight, bidirectional, dtype).numpy(),
        weight.shape[1],
        1 + bidirectional,
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
    dtype, stored, size = state_dtype(ifg), stored_dtype(ifg), weight.shape[1]
    grad = torch.empty(ifg.shape, dtype=stored)
    x, by_row = rows(ifg, stored), _by_row(weight, bidirectional, dtype)
    grad_weights = torch.zeros(-(-len(x) // ROWS), *by_row.shape, dtype=dtype)
    use_threads()
    _backward(
        rows(grad_y, stored),
        x,
        by_row.numpy(),
        size,
        1 + bidirectional,
        mask_rows(mask),
        offsets_of(ifg, cu_seqlens),
        rows(grad),
        grad_weights.numpy(),
    )
    grad_weight = grad_weights.sum(0)[:size].T.to(weight.dtype, copy=True)
    if bidirectional:
        _ahead(grad_weight).copy_(_ahead(grad_weight).flip(-1))
    return grad.to(ifg.dtype), grad_weight.contiguous()


def _by_row(weight: Tensor, bidirectional: bool, dtype: torch.dtype) -> Tensor:
    """The weight [2 D, K] as a copy [R, 2 D] for the kernels."""
    channels, size = weight.shape
    by_row = weight.new_zeros(channels, -(-size // LAGS) * LAGS, dtype=dtype)
    by_row[:, :size] = weight.detach()
    if bidirectional:
        _ahead(by_row)[..., :size] = _ahead(weight.detach()).flip(-1)
    return by_row.T.contiguous()


def _ahead(by_channel: Tensor) -> Tensor:
    """The channels that read later steps: from [2 D, ...] the view [2, D / 2, ...]."""
    return by_channel.unflatten(0, (2, 2, -1))[:, 1]
