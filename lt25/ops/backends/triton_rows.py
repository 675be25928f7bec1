"""The row-wise operations of a layer on a GPU: RMS norm with the residual sum or the output gate, and SwiGLU.

Each pass reads and writes every element once. Each program sums the gradient of a norm's weight over the rows that it processes;
a second kernel sums over programs, always in the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends import sum_dtype
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import sigmoid

# Elements that a program holds at once; it takes as many rows as fit.
_ELEMENTS = 4096
# Programs of the backward pass, each with its own sum of the weight's gradient: four for every multiprocessor.
_PROGRAMS = 528


@triton.jit
def add_residual(x, residual, total, at, mask, RESIDUAL: tl.constexpr, GATED: tl.constexpr):
    """Compute x + residual in float32, and store it as `total` unless there is a gate; a gate excludes a residual."""
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    if not GATED:
        # The backward pass reads the sum as it is stored, so the norm is computed from the rounded values too.
        value = value.to(total.dtype.element_ty)
        tl.store(total + at, value, mask=mask)
        value = value.to(tl.float32)
    return value


@triton.jit(do_not_specialize=("rows",))
def _norm_forward(
    x, residual, gate, weight, normed, total, rows, gate_stride, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, RESIDUAL: tl.constexpr, GATED: tl.constexpr,
    GATE_FIRST: tl.constexpr,
):  # fmt: skip
    """normed = rms_norm(x + residual) * weight * silu(gate), or rms_norm(x * silu(gate)) * weight."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (column < D)[None, :]
    at = row[:, None] * D + column[None, :]
    value = add_residual(x, residual, total, at, mask, RESIDUAL, GATED)
    if GATED:
        g = tl.load(gate + row[:, None] * gate_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
        g *= sigmoid(g)
        if GATE_FIRST:
            value *= g
    scale = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
    value = value * scale[:, None] * tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    if GATED and not GATE_FIRST:
        value *= g
    tl.store(normed + at, value.to(normed.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("rows",))
def _norm_backward(
    grad_normed, grad_total, total, gate, weight, grad_x, grad_gate, grad_weight,
    rows, gate_stride, grad_gate_stride, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
    RESIDUAL: tl.constexpr, GATED: tl.constexpr, GATE_FIRST: tl.constexpr,
):  # fmt: skip
    """With n = x / rms(x): dx = (dn - n mean(dn n)) / rms(x), dn = d_normed * weight * silu(gate).

    With GATE_FIRST, x is x * silu(gate) there, dn lacks the gate, and dx is the gradient of that product.
    """
    column = tl.arange(0, BLOCK)
    scale = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    grad_scale = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in tl.range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        mask = (row < rows)[:, None] & (column < D)[None, :]
        at = row[:, None] * D + column[None, :]
        grad_gate_at = row[:, None] * grad_gate_stride + column[None, :]
        grad = tl.load(grad_normed + at, mask=mask, other=0.0).to(tl.float32)
        n = tl.load(total + at, mask=mask, other=0.0).to(tl.float32)
        # All loads come before the first sum over a row, so that they overlap.
        if GATED:
            g = tl.load(gate + row[:, None] * gate_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
        if RESIDUAL:
            beside = tl.load(grad_total + at, mask=mask, other=0.0).to(tl.float32)
        if GATED:
            open_g = sigmoid(g)
            slope = open_g * (1.0 + g * (1.0 - open_g))
            g *= open_g
            if GATE_FIRST:
                slope *= n
                n *= g
        inverse = tl.rsqrt(tl.sum(n * n, 1) / D + eps)[:, None]
        n *= inverse
        if GATED and not GATE_FIRST:
            tl.store(grad_gate + grad_gate_at, (grad * n * scale * slope).to(grad_gate.dtype.element_ty), mask=mask)
            grad *= g
        grad_scale += grad * n
        grad *= scale
        grad = inverse * (grad - n * (tl.sum(grad * n, 1) / D)[:, None])
        if GATED and GATE_FIRST:
            tl.store(grad_gate + grad_gate_at, (grad * slope).to(grad_gate.dtype.element_ty), mask=mask)
            grad *= g
        if RESIDUAL:
            grad += beside
        tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=mask)
    tl.store(grad_weight + tl.program_id(0) * D + column, tl.sum(grad_scale, 0), mask=column < D)


@triton.jit(do_not_specialize=("count",))
def _sum(parts, total, count, D: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    value = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, count, ROWS):
        mask = ((first + row) < count)[:, None] & (column < D)[None, :]
        value += tl.load(parts + (first + row)[:, None] * D + column[None, :], mask=mask, other=0.0)
    tl.store(total + column, tl.sum(value, 0).to(total.dtype.element_ty), mask=column < D)


# Triton specializes `size` on whether it is divisible by 16. Without that, the mask would prevent vectorized loads.
@triton.jit
def _swiglu_forward(gate_up, y, size, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    source = at // WIDTH * (2 * WIDTH) + at % WIDTH
    gate = tl.load(gate_up + source, mask=at < size).to(tl.float32)
    up = tl.load(gate_up + source + WIDTH, mask=at < size).to(tl.float32)
    tl.store(y + at, (gate * sigmoid(gate) * up).to(y.dtype.element_ty), mask=at < size)


@triton.jit
def _swiglu_backward(grad_y, gate_up, grad_gate_up, size, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    source = at // WIDTH * (2 * WIDTH) + at % WIDTH
    grad = tl.load(grad_y + at, mask=at < size).to(tl.float32)
    gate = tl.load(gate_up + source, mask=at < size).to(tl.float32)
    up = tl.load(gate_up + source + WIDTH, mask=at < size).to(tl.float32)
    opened = sigmoid(gate)
    dtype = grad_gate_up.dtype.element_ty
    grad_gate = grad * up * opened * (1.0 + gate * (1.0 - opened))
    tl.store(grad_gate_up + source, grad_gate.to(dtype), mask=at < size)
    tl.store(grad_gate_up + source + WIDTH, (grad * gate * opened).to(dtype), mask=at < size)


@settled
def _norm(rows: int, channels: int, stride: int, eps: float, **flags: bool) -> Launch:
    cut = _cut(channels)
    return Launch(_norm_forward, (triton.cdiv(rows, cut["ROWS"]),), rows, stride, eps, **flags, **cut)


@settled
def _norm_gradients(rows: int, channels: int, strides: tuple[int, int], eps: float, **flags: bool) -> Launch:
    cut = _cut(channels)
    cut["ROWS"] = max(1, cut["ROWS"] // 4)
    grid = (min(_PROGRAMS, triton.cdiv(rows, cut["ROWS"])),)
    return Launch(_norm_backward, grid, rows, *strides, eps, STAGES=3, **flags, **cut)


@settled
def _sum_of(count: int, channels: int) -> Launch:
    # With few columns there are few programs, so each holds many rows at once.
    columns, rows, warps = (64, 64, 4) if channels >= 4096 else (16, 256, 8)
    sizes = {"D": channels, "COLUMNS": columns, "ROWS": rows, "num_warps": warps}
    return Launch(_sum, (triton.cdiv(channels, columns),), count, **sizes)


@settled
def _swiglu(backward: bool, size: int, width: int) -> Launch:
    kernel = _swiglu_backward if backward else _swiglu_forward
    return Launch(kernel, (triton.cdiv(size, 2048),), size, WIDTH=width, BLOCK=2048)


def _cut(channels: int) -> dict[str, int]:
    block = triton.next_power_of_2(channels)
    return {"D": channels, "BLOCK": block, "ROWS": max(1, _ELEMENTS // block), "num_warps": 4 if block <= 4096 else 16}


def norm_forward(
    x: Tensor, residual: Tensor | None, gate: Tensor | None, weight: Tensor, eps: float, gate_first: bool = False
) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual) * weight * silu(gate), and x + residual.

    Args:
        x: [..., D], contiguous.
        residual: [..., D], contiguous, or None.
        gate: [..., D] with rows `gate.stride(-2)` apart, or None; excludes a residual.
        weight: [D].
        eps: added to the mean square.
        gate_first: rms_norm(x * silu(gate)) * weight.

    Returns:
        The normed sum [..., D] in x's dtype, and the sum [..., D], x itself if there is a gate.
    """
    normed = torch.empty_like(x)
    total = x if gate is not None else torch.empty_like(x, dtype=sum_dtype(x, residual))
    flags = {"RESIDUAL": residual is not None, "GATED": gate is not None, "GATE_FIRST": gate_first}
    launch = _norm(*_sizes(x), 0 if gate is None else gate.stride(-2), eps, **flags)
    launch(x, x if residual is None else residual, x if gate is None else gate, weight, normed, total)
    return normed, total


def norm_backward(
    grad_normed: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    gate: Tensor | None,
    grad_gate: Tensor | None,
    weight: Tensor,
    eps: float,
    gate_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Backward pass of `norm_forward`; writes grad_gate, with rows `grad_gate.stride(-2)` apart.

    Returns:
        Gradients of the sum [..., D] in its dtype, and of the weight [D] in float32.
    """
    grad_x = torch.empty_like(total)
    strides = (0, 0) if gate is None or grad_gate is None else (gate.stride(-2), grad_gate.stride(-2))
    flags = {"RESIDUAL": grad_total is not None, "GATED": gate is not None, "GATE_FIRST": gate_first}
    launch = _norm_gradients(*_sizes(total), strides, eps, **flags)
    grad_weight = torch.empty(launch.programs, weight.shape[0], dtype=torch.float32, device=total.device)
    launch(
        grad_normed, total if grad_total is None else grad_total, total, total if gate is None else gate, weight,
        grad_x, grad_x if grad_gate is None else grad_gate, grad_weight,
    )  # fmt: skip
    return grad_x, sum_parts(grad_weight)


def _sizes(x: Tensor) -> tuple[int, int]:
    """Rows and channels of x [..., D]."""
    channels = x.shape[-1]
    return x.numel() // max(channels, 1), channels


def sum_parts(parts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sum over the first axis, float32 [P, D] to [D]; faster than torch's reduction for many short rows."""
    total = torch.empty(parts.shape[1], dtype=dtype, device=parts.device)
    _sum_of(*parts.shape)(parts, total)
    return total


def add_rms_norm_forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`norm_forward` without a gate."""
    return norm_forward(x.contiguous(), None if residual is None else residual.contiguous(), None, weight, eps)


def add_rms_norm_backward(
    grad_normed: Tensor, grad_sum: Tensor | None, total: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x (and, equal to it, of the residual) and of the weight, in the dtypes of total and weight."""
    grad_sum = None if grad_sum is None else grad_sum.contiguous()
    grad_x, grad_weight = norm_backward(grad_normed.contiguous(), grad_sum, total.contiguous(), None, None, weight, eps)
    return grad_x, grad_weight.to(weight.dtype)


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., I], from gate | up [..., 2 I]."""
    gate_up = gate_up.contiguous()
    *outer, width = gate_up.shape
    y = gate_up.new_empty((*outer, width // 2))
    _swiglu(False, y.numel(), width // 2)(gate_up, y)
    return y


def swiglu_backward(grad_y: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient of gate | up [..., 2 I]."""
    grad_y, gate_up = grad_y.contiguous(), gate_up.contiguous()
    grad = torch.empty_like(gate_up)
    _swiglu(True, grad_y.numel(), grad_y.shape[-1])(grad_y, gate_up, grad)
    return grad
