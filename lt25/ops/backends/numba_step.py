"""One step of gates, recurrence and gated norm on a CPU, compiled by numba. It takes microseconds, so it uses one thread."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from lt25.ops.backends import state_dtype
from lt25.ops.backends.numba_common import (
    JIT,
    dot,
    gates,
    multiply_add,
    put,
    rows,
    sigmoid,
    stored_dtype,
    vector,
    widened,
)
from lt25.ops.backends.numba_mix import bound_of


@njit(**JIT)
def _step(ifg, weight, eps, state, lower_bound, y, new_state):
    batch, channels = state.shape
    one = weight.dtype.type(1)
    for n in range(batch):
        i, f, g = ifg[n, :channels], ifg[n, channels : 2 * channels], ifg[n, 2 * channels :]
        state_n, h, y_n = state[n], new_state[n], y[n]
        for d in range(channels):
            keep, take, _, _ = gates(widened(f[d]), lower_bound[d])
            x = widened(i[d])
            h[d] = multiply_add(keep, state_n[d], take * x * sigmoid(x))
        scale = one / np.sqrt(dot(h, h) / type(one)(channels) + eps)
        for d in range(channels):
            x = widened(g[d])
            put(y_n, d, h[d] * scale * weight[d] * (x * sigmoid(x)))


def forward(
    ifg: Tensor, weight: Tensor, eps: float, state: Tensor, lower_bound: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y [B, D] in ifg's dtype and the new state [B, D] in the state's."""
    dtype, stored = state_dtype(ifg), stored_dtype(ifg)
    y, new_state = torch.empty(state.shape, dtype=stored), torch.empty(state.shape, dtype=dtype)
    weight = vector(weight, dtype)
    _step(
        rows(ifg, stored),
        weight,
        weight.dtype.type(eps),
        rows(state, dtype),
        bound_of(lower_bound, len(weight), dtype),
        rows(y),
        new_state.numpy(),
    )
    return y.to(ifg.dtype), new_state
