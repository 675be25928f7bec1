"""The scan on a CPU, compiled by numba: one pass over the data forward, and one backward.

A sequence is a range of rows of D contiguous channels. The inner loop runs over channels and vectorizes; the outer loop runs
over time and keeps the state in a row that stays in the first-level cache. Threads share out the sequences and, where these are
few or of unequal length, blocks of channels. Each channel goes through the same operations in the same order in either case, so
the result does not depend on the number of threads.
"""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends import state_dtype
from lt25.ops.backends.numba_common import (
    AHEAD,
    JIT,
    ROWS,
    block_width,
    exp,
    fetch,
    initial,
    offsets_of,
    put,
    rows,
    stored_dtype,
    widened,
)

# The loops over channels start at 0 and index slices of rows. numba allows negative indices; where it cannot prove an index
# nonnegative, its check for them prevents vectorization.


@njit(parallel=True, **JIT)
def _forward(x, log_f, offsets, reverse, width, h, final_state):
    sequences, channels = final_state.shape
    for item in prange(sequences * ((channels + width - 1) // width)):
        n, block = item % sequences, item // sequences
        part = slice(block * width, min(channels, (block + 1) * width))
        state = final_state[n, part]
        for k in range(offsets[n + 1] - offsets[n]):
            t = offsets[n + 1] - 1 - k if reverse else offsets[n] + k
            ahead = t - AHEAD if reverse else t + AHEAD
            fetch(x[ahead, part])
            fetch(log_f[ahead, part])
            fetch(h[ahead, part])
            x_t, log_f_t, h_t = x[t, part], log_f[t, part], h[t, part]
            for d in range(len(state)):
                value = exp(widened(log_f_t[d])) * state[d] + widened(x_t[d])
                state[d] = value
                put(h_t, d, value)


@njit(parallel=True, **JIT)
def _backward(grad_h, log_f, h, initial_state, offsets, reverse, width, grad_x, grad_log_f, grad_state):
    """Go through blocks of rows, the last first: compute f in the order of memory, then scan the cached block backward.

    Processors prefetch rows read in the order of memory, but not those read backward.
    """
    sequences, channels = grad_state.shape
    for item in prange(sequences * ((channels + width - 1) // width)):
        n, block = item % sequences, item // sequences
        part = slice(block * width, min(channels, (block + 1) * width))
        state = grad_state[n, part]
        f = np.empty((ROWS, len(state)), state.dtype)
        length = offsets[n + 1] - offsets[n]
        for block in range((length - 1) // ROWS, -1, -1):
            # The rows of the block; in a reversed scan, rows and steps run in opposite orders.
            if reverse:
                first, last = max(offsets[n], offsets[n + 1] - (block + 1) * ROWS), offsets[n + 1] - block * ROWS
            else:
                first, last = offsets[n] + block * ROWS, min(offsets[n + 1], offsets[n] + (block + 1) * ROWS)
            for t in range(first, last):
                fetch(h[t, part])
                grad_h_t, log_f_t, grad_x_t, f_t = grad_h[t, part], log_f[t, part], grad_x[t, part], f[t - first]
                for d in range(len(state)):
                    grad_x_t[d] = grad_h_t[d]
                    f_t[d] = exp(widened(log_f_t[d]))
            for k in range(last - first):
                t = first + k if reverse else last - 1 - k
                if t == (offsets[n + 1] - 1 if reverse else offsets[n]):
                    before = initial_state[n, part]
                else:
                    before = h[t + 1 if reverse else t - 1, part]
                grad_x_t, grad_log_f_t, f_t = grad_x[t, part], grad_log_f[t, part], f[t - first]
                for d in range(len(state)):
                    grad = state[d] + widened(grad_x_t[d])
                    put(grad_x_t, d, grad)
                    grad = grad * f_t[d]
                    put(grad_log_f_t, d, grad * widened(before[d]))
                    state[d] = grad


def forward(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in x's dtype and the final state [N, D] in float32 (float64 if x is float64)."""
    stored = stored_dtype(x)
    offsets = offsets_of(x, cu_seqlens)
    h = torch.empty(x.shape, dtype=stored)
    state = initial(initial_state, len(offsets) - 1, x.shape[-1], state_dtype(x))
    _forward(
        rows(x, stored),
        rows(log_f, stored_dtype(log_f)),
        offsets,
        reverse,
        block_width(x.shape[0], x.shape[2], cu_seqlens),
        rows(h),
        state.numpy(),
    )
    return h.to(x.dtype), state


def backward(
    grad_h: Tensor,
    grad_final: Tensor | None,
    log_f: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and log_f, in their dtypes, and of the initial state, given the gradients of h and of the final state."""
    stored, log_stored = stored_dtype(h), stored_dtype(log_f)
    offsets = offsets_of(h, cu_seqlens)
    grad_x, grad_log_f = torch.empty(h.shape, dtype=stored), torch.empty(h.shape, dtype=log_stored)
    start = initial(initial_state, len(offsets) - 1, h.shape[-1], stored)
    grad_state = initial(grad_final, len(offsets) - 1, h.shape[-1], state_dtype(h))
    _backward(
        rows(grad_h, stored),
        rows(log_f, log_stored),
        rows(h, stored),
        rows(start),
        offsets,
        reverse,
        block_width(h.shape[0], h.shape[2], cu_seqlens),
        rows(grad_x),
        rows(grad_log_f),
        grad_state.numpy(),
    )
    return grad_x.to(h.dtype), grad_log_f.to(log_f.dtype), grad_state
