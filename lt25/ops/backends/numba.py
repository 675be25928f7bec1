"""The scan on a CPU: one pass over the data forward, one backward, compiled by numba.

A sequence is a run of rows of D contiguous channels; the loop over channels is the inner one and vectorises, the loop
over time carries the state in a row that stays in the first-level cache. Work is split over sequences and, where those
are few or of unequal length, over blocks of channels. Each channel is computed by the same operations in the same order
whatever the split, so the number of threads does not change a bit of the result.
"""

import math

import numba
import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import overload
from torch import Tensor

# Contraction lets a*b+c be one instruction and nothing else: re-association would break `_exp`, and NaN must survive.
_JIT = {"fastmath": {"contract"}, "cache": True, "nogil": True}


def _start_threads() -> None:
    """Starts numba's threads without touching torch's: one OpenMP library serves both, and starting sets its number."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


_start_threads()


def _exp(v):
    return math.exp(v)


@overload(_exp)
def _exp_vectorised(v):
    """exp(v), for float32 without a call, so that the loop around it becomes vector instructions.

    Cephes' expf: v = n log 2 + r, |r| <= log(2) / 2, a polynomial in r, times 2**n put together from its bits. Relative
    error below 1e-7; 0 below -87, where float32 loses its last normal numbers; no more than exp(88) above.
    """
    if v != types.float32:
        return lambda v: math.exp(v)
    f = np.float32
    lowest, highest, log2_e = f(-87.0), f(88.0), f(1.44269504)
    # Adding 1.5 * 2**23 rounds to an integer and leaves that integer in the low bits of the sum.
    round_to_int = f(12582912.0)
    log_2_head, log_2_tail = f(0.693359375), f(-2.12194440e-4)
    c0, c1, c2, c3 = f(1.9875691500e-4), f(1.3981999507e-3), f(8.3334519073e-3), f(4.1665795894e-2)
    c4, c5, one, zero = f(1.6666665459e-1), f(5.0000001201e-1), f(1.0), f(0.0)
    bias, mantissa_bits = np.int32(127), np.int32(23)

    def exp(v):
        # The comparisons are written so that NaN passes both of them and reaches the result.
        u = highest if v > highest else v
        shifted = u * log2_e + round_to_int
        n = shifted - round_to_int
        r = u - n * log_2_head
        r = r - n * log_2_tail
        p = c0 * r + c1
        p = p * r + c2
        p = p * r + c3
        p = p * r + c4
        p = p * r + c5
        p = p * (r * r) + r + one
        power = np.int32((np.float32(shifted).view(np.int32) + bias) << mantissa_bits).view(np.float32)
        return zero if u < lowest else p * power

    return exp


# The loops over channels run from 0 over slices of rows: numba lets an index be negative, and where it cannot see that one
# is not, the check keeps the loop from becoming vector instructions.


@njit(parallel=True, **_JIT)
def _forward(x, log_f, offsets, reverse, blocks, h, final_state):
    sequences, channels = final_state.shape
    width = (channels + blocks - 1) // blocks
    for item in prange(sequences * blocks):
        n, block = item % sequences, item // sequences
        part = slice(block * width, min(channels, (block + 1) * width))
        state = final_state[n, part]
        for k in range(offsets[n + 1] - offsets[n]):
            t = offsets[n + 1] - 1 - k if reverse else offsets[n] + k
            x_t, log_f_t, h_t = x[t, part], log_f[t, part], h[t, part]
            for d in range(len(state)):
                value = _exp(log_f_t[d]) * state[d] + x_t[d]
                state[d] = value
                h_t[d] = value


@njit(parallel=True, **_JIT)
def _backward(grad_h, log_f, h, initial_state, offsets, reverse, blocks, grad_x, grad_log_f, grad_state):
    sequences, channels = grad_state.shape
    width = (channels + blocks - 1) // blocks
    for item in prange(sequences * blocks):
        n, block = item % sequences, item // sequences
        part = slice(block * width, min(channels, (block + 1) * width))
        state = grad_state[n, part]
        for k in range(offsets[n + 1] - offsets[n] - 1, -1, -1):
            t = offsets[n + 1] - 1 - k if reverse else offsets[n] + k
            before = initial_state[n, part] if k == 0 else h[t + 1 if reverse else t - 1, part]
            grad_h_t, log_f_t, grad_x_t, grad_log_f_t = (
                grad_h[t, part],
                log_f[t, part],
                grad_x[t, part],
                grad_log_f[t, part],
            )
            for d in range(len(state)):
                grad = state[d] + grad_h_t[d]
                grad_x_t[d] = grad
                grad = grad * _exp(log_f_t[d])
                grad_log_f_t[d] = grad * before[d]
                state[d] = grad


def forward(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in x's dtype and the final state [N, D] in float32 (float64 if x is float64)."""
    dtype = _state_dtype(x)
    offsets = _offsets(x, cu_seqlens)
    h = torch.empty(x.shape, dtype=dtype)
    state = _initial(initial_state, len(offsets) - 1, x.shape[-1], dtype)
    _forward(_rows(x, dtype), _rows(log_f, dtype), offsets, reverse, _blocks(x, cu_seqlens), _rows(h), state.numpy())
    return h.to(x.dtype), state


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    log_f: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, log_f (each in its own dtype) and the initial state, from those of h and the final state."""
    dtype = _state_dtype(h)
    offsets = _offsets(h, cu_seqlens)
    grad_x, grad_log_f = torch.empty(h.shape, dtype=dtype), torch.empty(h.shape, dtype=dtype)
    start = _initial(initial_state, len(offsets) - 1, h.shape[-1], dtype)
    grad_state = grad_final.to(dtype, copy=True, memory_format=torch.contiguous_format)
    _backward(
        _rows(grad_h, dtype),
        _rows(log_f, dtype),
        _rows(h, dtype),
        start.numpy(),
        offsets,
        reverse,
        _blocks(h, cu_seqlens),
        _rows(grad_x),
        _rows(grad_log_f),
        grad_state.numpy(),
    )
    return grad_x.to(h.dtype), grad_log_f.to(log_f.dtype), grad_state


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(tensor: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """[B, T, D] as numpy rows [B * T, D], copied only if the dtype or the layout asks for it."""
    return tensor.detach().to(dtype).contiguous().numpy().reshape(-1, tensor.shape[-1])


def _initial(initial_state: Tensor | None, sequences: int, channels: int, dtype: torch.dtype) -> Tensor:
    """A fresh state [N, D] that the kernel may write on."""
    if initial_state is None:
        return torch.zeros(sequences, channels, dtype=dtype)
    return initial_state.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def _offsets(x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Row offsets int64 [N + 1] of the sequences."""
    batch, time, _ = x.shape
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * time
    offsets = cu_seqlens.numpy().astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != time or (np.diff(offsets) < 0).any():
        raise ValueError(f"cu_seqlens must rise from 0 to T = {time}, got {offsets.tolist()}")
    return offsets


def _blocks(x: Tensor, cu_seqlens: Tensor | None) -> int:
    """Blocks of channels: one if there are sequences enough of equal length, otherwise one for each thread.

    Also tells numba how many threads torch may use: a process of several on one machine is given its share that way.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    if cu_seqlens is None and (x.shape[0] % threads == 0 or x.shape[0] >= 4 * threads):
        return 1
    # 16 float32 channels are one cache line; narrower blocks would have two threads write the same one.
    return max(1, min(threads, x.shape[-1] // 16))
