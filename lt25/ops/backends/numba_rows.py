"""SwiGLU and RMS norm with the residual sum on a CPU, compiled by numba: each one pass over the rows."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends import state_dtype, sum_dtype
from lt25.ops.backends.numba_common import JIT, ROWS, dot, rows, sigmoid, use_threads, vector


@njit(parallel=True, **JIT)
def _swiglu(gate_up, y):
    count, width = y.shape
    for item in prange((count + ROWS - 1) // ROWS):
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            gate, up, y_t = gate_up[t, :width], gate_up[t, width:], y[t]
            for d in range(width):
                y_t[d] = gate[d] * sigmoid(gate[d]) * up[d]


@njit(parallel=True, **JIT)
def _swiglu_backward(grad_y, gate_up, grad_gate_up):
    count, width = grad_y.shape
    for item in prange((count + ROWS - 1) // ROWS):
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            gate, up, grad_y_t = gate_up[t, :width], gate_up[t, width:], grad_y[t]
            grad_gate, grad_up = grad_gate_up[t, :width], grad_gate_up[t, width:]
            for d in range(width):
                s = sigmoid(gate[d])
                silu = gate[d] * s
                grad_up[d] = grad_y_t[d] * silu
                # silu' = s + silu (1 - s)
                grad_gate[d] = grad_y_t[d] * up[d] * (s + silu - silu * s)


@njit(parallel=True, **JIT)
def _norm(x, residual, weight, eps, normed, total):
    count, width = x.shape
    one = weight.dtype.type(1)
    for item in prange((count + ROWS - 1) // ROWS):
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            row, normed_t = x[t], normed[t]
            if len(residual):
                residual_t, total_t = residual[t], total[t]
                for d in range(width):
                    total_t[d] = row[d] + residual_t[d]
                row = total_t
            scale = one / np.sqrt(dot(row, row) / type(one)(width) + eps)
            for d in range(width):
                normed_t[d] = row[d] * scale * weight[d]


@njit(parallel=True, **JIT)
def _norm_backward(grad_normed, grad_total, total, weight, eps, grad, grad_weights):
    count, width = total.shape
    one = weight.dtype.type(1)
    for item in prange((count + ROWS - 1) // ROWS):
        grad_weight = grad_weights[item]
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            row, grad_normed_t, grad_t = total[t], grad_normed[t], grad[t]
            scale = one / np.sqrt(dot(row, row) / type(one)(width) + eps)
            for d in range(width):
                grad_weight[d] += grad_normed_t[d] * row[d] * scale
                grad_t[d] = grad_normed_t[d] * weight[d]
            # With n = row * scale and u the gradient of n: grad = scale * (u - n * mean(u * n)).
            pull = dot(grad_t, row) * scale * scale / type(one)(width)
            if len(grad_total):
                grad_total_t = grad_total[t]
                for d in range(width):
                    grad_t[d] = scale * (grad_t[d] - row[d] * pull) + grad_total_t[d]
            else:
                for d in range(width):
                    grad_t[d] = scale * (grad_t[d] - row[d] * pull)


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., I] from gate | up [..., 2 I]."""
    dtype = state_dtype(gate_up)
    y = torch.empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2, dtype=dtype)
    use_threads()
    _swiglu(rows(gate_up, dtype), rows(y))
    return y.to(gate_up.dtype)


def swiglu_backward(grad_y: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient of gate | up."""
    dtype = state_dtype(gate_up)
    grad = torch.empty(gate_up.shape, dtype=dtype)
    use_threads()
    _swiglu_backward(rows(grad_y, dtype), rows(gate_up, dtype), rows(grad))
    return grad.to(gate_up.dtype)


def add_rms_norm_forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normed sum in x's dtype, and the sum in the wider of both dtypes; a copy of x without a residual."""
    wide = sum_dtype(x, residual)
    dtype = torch.promote_types(wide, torch.float32)
    normed = torch.empty(x.shape, dtype=dtype)
    # No residual is an array without rows: for None, numba would compile the kernel a second time.
    absent = np.empty((0, x.shape[-1]), _numpy(dtype))
    total = None if residual is None else torch.empty(x.shape, dtype=dtype)
    use_threads()
    _norm(
        rows(x, dtype),
        absent if residual is None else rows(residual, dtype),
        vector(weight, dtype),
        _numpy(dtype).type(eps),
        rows(normed),
        absent if residual is None else rows(total),
    )
    return normed.to(x.dtype), x.clone() if residual is None else total.to(wide)


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
    dtype = state_dtype(total)
    grad = torch.empty(total.shape, dtype=dtype)
    absent = np.empty((0, total.shape[-1]), _numpy(dtype))
    use_threads()
    total_rows = rows(total, dtype)
    grad_weights = torch.zeros(-(-len(total_rows) // ROWS), total.shape[-1], dtype=dtype)
    _norm_backward(
        rows(grad_normed, dtype),
        absent if grad_total is None else rows(grad_total, dtype),
        total_rows,
        vector(weight, dtype),
        _numpy(dtype).type(eps),
        rows(grad),
        grad_weights.numpy(),
    )
    return grad.to(total.dtype), grad_weights.sum(0).to(weight.dtype)


def _numpy(dtype: torch.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)
