"""SwiGLU and RMS norm with the residual sum on a CPU, compiled by numba: each one pass over the rows."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends import state_dtype, sum_dtype
from lt25.ops.backends.numba_common import (
    JIT,
    ROWS,
    dot,
    put,
    rows,
    sigmoid,
    stored_dtype,
    use_threads,
    vector,
    widened,
)


@njit(parallel=True, **JIT)
def _swiglu(gate_up, y):
    count, width = y.shape
    for item in prange((count + ROWS - 1) // ROWS):
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            gate, up, y_t = gate_up[t, :width], gate_up[t, width:], y[t]
            for d in range(width):
                g = widened(gate[d])
                put(y_t, d, g * sigmoid(g) * widened(up[d]))


@njit(parallel=True, **JIT)
def _swiglu_backward(grad_y, gate_up, grad_gate_up):
    count, width = grad_y.shape
    for item in prange((count + ROWS - 1) // ROWS):
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            gate, up, grad_y_t = gate_up[t, :width], gate_up[t, width:], grad_y[t]
            grad_gate, grad_up = grad_gate_up[t, :width], grad_gate_up[t, width:]
            for d in range(width):
                g, grad = widened(gate[d]), widened(grad_y_t[d])
                s = sigmoid(g)
                silu = g * s
                put(grad_up, d, grad * silu)
                # silu' = s + silu (1 - s)
                put(grad_gate, d, grad * widened(up[d]) * (s + silu - silu * s))


@njit(parallel=True, **JIT)
def _norm(x, residual, weight, eps, normed, total):
    count, width = x.shape
    one = weight.dtype.type(1)
    for item in prange((count + ROWS - 1) // ROWS):
        row = np.empty(width, weight.dtype)
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            x_t, normed_t = x[t], normed[t]
            if len(residual):
                residual_t, total_t = residual[t], total[t]
                for d in range(width):
                    row[d] = widened(x_t[d]) + widened(residual_t[d])
                    put(total_t, d, row[d])
            else:
                for d in range(width):
                    row[d] = widened(x_t[d])
            scale = one / np.sqrt(dot(row, row) / type(one)(width) + eps)
            for d in range(width):
                put(normed_t, d, row[d] * scale * weight[d])


@njit(parallel=True, **JIT)
def _norm_backward(grad_normed, grad_total, total, weight, eps, grad, grad_weights):
    count, width = total.shape
    one = weight.dtype.type(1)
    for item in prange((count + ROWS - 1) // ROWS):
        grad_weight, pulled = grad_weights[item], np.empty(width, weight.dtype)
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            row, grad_normed_t, grad_t = total[t], grad_normed[t], grad[t]
            scale = one / np.sqrt(dot(row, row) / type(one)(width) + eps)
            for d in range(width):
                g = widened(grad_normed_t[d])
                grad_weight[d] += g * widened(row[d]) * scale
                pulled[d] = g * weight[d]
            # With n = row * scale and u the gradient of n: grad = scale * (u - n * mean(u * n)).
            pull = dot(pulled, row) * scale * scale / type(one)(width)
            if len(grad_total):
                grad_total_t = grad_total[t]
                for d in range(width):
                    put(grad_t, d, scale * (pulled[d] - widened(row[d]) * pull) + widened(grad_total_t[d]))
            else:
                for d in range(width):
                    put(grad_t, d, scale * (pulled[d] - widened(row[d]) * pull))


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., I] from gate | up [..., 2 I]."""
    stored = stored_dtype(gate_up)
    y = torch.empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2, dtype=stored)
    use_threads()
    _swiglu(rows(gate_up, stored), rows(y))
    return y.to(gate_up.dtype)


def swiglu_backward(grad_y: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient of gate | up."""
    stored = stored_dtype(gate_up)
    grad = torch.empty(gate_up.shape, dtype=stored)
    use_threads()
    _swiglu_backward(rows(grad_y, stored), rows(gate_up, stored), rows(grad))
    return grad.to(gate_up.dtype)


def add_rms_norm_forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normed sum in x's dtype, and the sum in the wider of both dtypes; a copy of x without a residual."""
    wide = torch.empty(0, dtype=sum_dtype(x, residual))
    stored, dtype = stored_dtype(wide), state_dtype(wide)
    normed = torch.empty(x.shape, dtype=stored)
    absent = _absent(x, stored)
    total = None if residual is None else torch.empty(x.shape, dtype=stored)
    use_threads()
    weight = vector(weight, dtype)
    _norm(
        rows(x, stored),
        absent if residual is None else rows(residual, stored),
        weight,
        weight.dtype.type(eps),
        rows(normed),
        absent if total is None else rows(total),
    )
    return normed.to(x.dtype), x.clone() if total is None else total.to(wide.dtype)


def add_rms_norm_backward(
    grad_normed: Tensor, grad_total: Tensor | None, total: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Backward pass of `add_rms_norm_forward`.

    Args:
        grad_normed: gradient of the normed sum, [..., H].
        grad_total: gradient of the sum from its other uses, [..., H], or None.
        total: the sum, [..., H].
        weight: [H].
        eps: added to the mean square.

    Returns:
        The gradients of x (and, equal to it, of the residual) and of the weight, in the dtypes of total and weight.
    """
    stored, dtype = stored_dtype(total), state_dtype(total)
    grad = torch.empty(total.shape, dtype=stored)
    use_threads()
    total_rows, values = rows(total, stored), vector(weight, dtype)
    grad_weights = torch.zeros(-(-len(total_rows) // ROWS), total.shape[-1], dtype=dtype)
    _norm_backward(
        rows(grad_normed, stored),
        _absent(total, stored) if grad_total is None else rows(grad_total, stored),
        total_rows,
        values,
        values.dtype.type(eps),
        rows(grad),
        grad_weights.numpy(),
    )
    return grad.to(total.dtype), grad_weights.sum(0).to(weight.dtype)


def _absent(x: Tensor, stored: torch.dtype) -> np.ndarray:
    """No residual, as an array without rows: for None, numba would compile the kernel a second time."""
    return rows(torch.empty(0, x.shape[-1], dtype=stored))
