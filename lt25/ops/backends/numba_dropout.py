"""Dropout on a CPU: one pass, compiled by numba."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends.numba_common import JIT, put, rows, stored_dtype, use_threads, widened

# Elements of one work item.
ELEMENTS = 4096


@njit(**JIT)
def _mix(bits):
    """The hash lowbias32 of a 32-bit integer, by Wellons (https://nullprogram.com/blog/2018/07/31/)."""
    bits = np.uint32(bits ^ (bits >> np.uint32(16)))
    bits = np.uint32(bits * np.uint32(0x7FEB352D))
    bits = np.uint32(bits ^ (bits >> np.uint32(15)))
    bits = np.uint32(bits * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@njit(parallel=True, **JIT)
def _dropout(x, threshold, low, high, scale, y):
    zero = type(scale)(0)
    for item in prange((len(x) + ELEMENTS - 1) // ELEMENTS):
        start = item * ELEMENTS
        x_part, y_part = x[start : start + ELEMENTS], y[start : start + ELEMENTS]
        for k in range(len(x_part)):
            bits = _mix(np.uint32(_mix(np.uint32(np.uint32(start + k) ^ low)) ^ high))
            # Dropped elements are multiplied by 0 too, so that NaN survives.
            put(y_part, k, widened(x_part[k]) * (zero if bits < threshold else scale))


def dropout(x: Tensor, p: float, seed: Tensor) -> Tensor:
    """x / (1 - p) or 0, in x's dtype."""
    seed, stored = int(seed), stored_dtype(x)
    y = torch.empty(1, x.numel(), dtype=stored)
    use_threads()
    scale = (np.float64 if x.dtype == torch.float64 else np.float32)(1 / (1 - p))
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    _dropout(rows(x.reshape(1, -1), stored)[0], np.uint32(p * 2**32), low, high, scale, rows(y)[0])
    return y.view(x.shape).to(x.dtype)
