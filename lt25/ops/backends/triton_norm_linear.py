"""RMS norm, with the residual sum before it or the output gate after it, and the matrix product that follows, in one kernel.

For narrow layers, whose products take less time than reading their operands and writing their results. The normed rows are
never stored; the backward pass recomputes them. In it each program sums the gradient of the product's weight over the rows that
it processes, and the sums of all programs are added in a fixed order.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends import sum_dtype
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import sigmoid
from lt25.ops.backends.triton_rows import add_residual, sum_parts

# Multiprocessors of an H100 and of an H200.
_PROCESSORS = 132
# Rows that a program holds at once, stages of the software pipeline, and warps.
_FORWARD = {"ROWS": 128, "num_warps": 8}
_BACKWARD = {"ROWS": 64, "STAGES": 3, "num_warps": 4}


@triton.jit
def _chunk(first, second, third, n: tl.constexpr, D: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr):
    """Pointers [CHUNK, D] to rows n to n + CHUNK of the concatenated weights, each [N, D]."""
    weight = first
    if n >= N:
        weight = second
    if n >= 2 * N:
        weight = third
    return weight + (n % N + tl.arange(0, CHUNK))[:, None] * D + tl.arange(0, D)[None, :]


@triton.jit
def _gate(gate, at, mask):
    """silu(g) and its derivative."""
    g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
    opened = sigmoid(g)
    return g * opened, opened * (1.0 + g * (1.0 - opened))


@triton.jit(do_not_specialize=("rows",))
def _forward(
    x, residual, gate, norm_weight, first, second, third, y, total, rows, gate_stride, eps,
    D: tl.constexpr, N: tl.constexpr, WEIGHTS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
    RESIDUAL: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """y = rms_norm(x + residual) * norm_weight * silu(gate) @ weight^T."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = (row < rows)[:, None]
    column = tl.arange(0, D)
    at = row[:, None] * D + column[None, :]
    value = add_residual(x, residual, total, at, mask, RESIDUAL, GATED)
    value *= tl.rsqrt(tl.sum(value * value, 1) / D + eps)[:, None]
    value *= tl.load(norm_weight + column).to(tl.float32)[None, :]
    if GATED:
        value *= _gate(gate, row[:, None] * gate_stride + column[None, :], mask)[0]
    normed = value.to(first.dtype.element_ty)
    y += row[:, None] * (WEIGHTS * N) + tl.arange(0, CHUNK)[None, :]
    for n in tl.static_range(0, WEIGHTS * N, CHUNK):
        weight = tl.load(_chunk(first, second, third, n, D, N, CHUNK))
        tl.store(y + n, tl.dot(normed, tl.trans(weight)).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("rows",))
def _backward(
    grad_y, grad_total, total, gate, norm_weight, first, second, third, grad_x, grad_gate, products,
    rows, gate_stride, eps,
    D: tl.constexpr, N: tl.constexpr, WEIGHTS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
    STAGES: tl.constexpr, RESIDUAL: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """dx, dgate and the products d_y^T @ z, from which `_finish` computes the gradients of the weights.

    With n = x / rms(x), z = n * silu(gate), u = d_y @ weight (the gradient of z * norm_weight) and
    dn = u * norm_weight * silu(gate): dx = (dn - n mean(dn n)) / rms(x).
    """
    column = tl.arange(0, D)
    out = tl.arange(0, CHUNK)
    scale = tl.load(norm_weight + column).to(tl.float32)[None, :]
    sums = ()
    for _ in tl.static_range(0, WEIGHTS * N, CHUNK):
        sums = sums + (tl.zeros([CHUNK, D], tl.float32),)  # noqa: RUF005
    for start in tl.range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        mask = (row < rows)[:, None]
        at = row[:, None] * D + column[None, :]
        n = tl.load(total + at, mask=mask, other=0.0).to(tl.float32)
        if RESIDUAL:
            beside = tl.load(grad_total + at, mask=mask, other=0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(n * n, 1) / D + eps)[:, None]
        n *= inverse
        z = n
        if GATED:
            gate_at = row[:, None] * gate_stride + column[None, :]
            opened, slope = _gate(gate, gate_at, mask)
            z = n * opened
        z = z.to(first.dtype.element_ty)
        grad = tl.zeros([ROWS, D], tl.float32)
        added = ()
        for c in tl.static_range(WEIGHTS * N // CHUNK):
            part_at = row[:, None] * (WEIGHTS * N) + (c * CHUNK + out)[None, :]
            part = tl.load(grad_y + part_at, mask=mask, other=0.0)
            grad = tl.dot(part, tl.load(_chunk(first, second, third, c * CHUNK, D, N, CHUNK)), grad)
            added = added + (tl.dot(tl.trans(part), z, sums[c]),)  # noqa: RUF005
        sums = added
        grad *= scale
        if GATED:
            tl.store(grad_gate + gate_at, (grad * n * slope).to(grad_gate.dtype.element_ty), mask=mask)
            grad *= opened
        grad = inverse * (grad - n * (tl.sum(grad * n, 1) / D)[:, None])
        if RESIDUAL:
            grad += beside
        tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=mask)
    products += tl.program_id(0) * (WEIGHTS * N * D) + out[:, None] * D + column[None, :]
    for c in tl.static_range(WEIGHTS * N // CHUNK):
        tl.store(products + c * CHUNK * D, sums[c])


@triton.jit
def _finish(
    products, norm_weight, first, second, third, grad_norm_weight, grad_weight,
    D: tl.constexpr, N: tl.constexpr, WEIGHTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The gradients of both weights from p = d_y^T @ z: d_weight = p * norm_weight, d_norm_weight = sum over rows of weight * p.

    The latter is the sum over rows of u * z, see `_backward`.
    """
    column = tl.arange(0, D)
    scale = tl.load(norm_weight + column).to(tl.float32)[None, :]
    total = tl.zeros([CHUNK, D], tl.float32)
    for n in tl.static_range(0, WEIGHTS * N, CHUNK):
        at = (n + tl.arange(0, CHUNK))[:, None] * D + column[None, :]
        product = tl.load(products + at)
        tl.store(grad_weight + at, (product * scale).to(grad_weight.dtype.element_ty))
        total += product * tl.load(_chunk(first, second, third, n, D, N, CHUNK)).to(tl.float32)
    tl.store(grad_norm_weight + column, tl.sum(total, 0))


@settled
def _product(
    rows: int, width: int, outs: int, weights: int, stride: int, eps: float, residual: bool, gated: bool
) -> Launch:
    grid, cut = (triton.cdiv(rows, _FORWARD["ROWS"]),), _cut(width, outs, weights)
    return Launch(_forward, grid, rows, stride, eps, RESIDUAL=residual, GATED=gated, **_FORWARD, **cut)


@settled
def _gradients(
    rows: int, width: int, outs: int, weights: int, stride: int, eps: float, residual: bool, gated: bool
) -> Launch:
    # Fewer programs where each has many sums, which must be read again.
    most = _PROCESSORS * (1 if weights * outs * width > 8192 else 2)
    grid, cut = (min(most, triton.cdiv(rows, _BACKWARD["ROWS"])),), _cut(width, outs, weights)
    return Launch(_backward, grid, rows, stride, eps, RESIDUAL=residual, GATED=gated, **_BACKWARD, **cut)


@settled
def _end(width: int, outs: int, weights: int) -> Launch:
    return Launch(_finish, (1,), num_warps=8, **_cut(width, outs, weights))


def _cut(width: int, outs: int, weights: int) -> dict[str, int]:
    return {"D": width, "N": outs, "WEIGHTS": weights, "CHUNK": min(64, outs & -outs)}


def _three(weights: Sequence[Tensor]) -> list[Tensor]:
    """One to three tensors, repeated to the three that kernels take."""
    return [*weights, *weights, *weights][:3]


def forward(
    x: Tensor,
    residual: Tensor | None,
    gate: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """y = (rms_norm(x + residual) * norm_weight * silu(gate)) @ weight^T, and x + residual.

    Args:
        x: [..., D], contiguous.
        residual: [..., D], contiguous, or None.
        gate: [..., D] with rows `gate.stride(-2)` apart, or None; excludes a residual.
        norm_weight: [D].
        eps: added to the mean square.
        weights: one to three [N, D], contiguous, of sizes that :func:`lt25.ops.backends.fits_norm_linear` allows.

    Returns:
        y [..., len(weights) * N] in x's dtype, the products concatenated; and the sum [..., D], x itself if there is a gate.
    """
    outs, width = weights[0].shape
    *outer, _ = x.shape
    y = x.new_empty((*outer, len(weights) * outs))
    total = x if gate is not None else torch.empty_like(x, dtype=sum_dtype(x, residual))
    stride, rows = 0 if gate is None else gate.stride(-2), x.numel() // width
    launch = _product(rows, width, outs, len(weights), stride, eps, residual is not None, gate is not None)
    launch(
        x, x if residual is None else residual, x if gate is None else gate, norm_weight, *_three(weights), y, total
    )  # fmt: skip
    return y, total


def backward(
    grad_y: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    gate: Tensor | None,
    grad_gate: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward pass of `forward`; writes grad_gate, which has gate's strides.

    Returns:
        Gradients of the sum [..., D] in its dtype, of norm_weight [D] in float32, and of the concatenated weights
        [len(weights) * N, D] in their dtype.
    """
    outs, width = weights[0].shape
    count = len(weights)
    stride, rows = 0 if gate is None else gate.stride(-2), total.numel() // width
    launch = _gradients(rows, width, outs, count, stride, eps, grad_total is not None, gate is not None)
    grad_x = torch.empty_like(total)
    products = torch.empty(launch.programs, count * outs * width, dtype=torch.float32, device=total.device)
    grad_norm_weight = torch.empty(width, dtype=torch.float32, device=total.device)
    grad_weight = weights[0].new_empty((count * outs, width))
    launch(
        grad_y, total if grad_total is None else grad_total, total, total if gate is None else gate,
        norm_weight, *_three(weights), grad_x, grad_x if grad_gate is None else grad_gate, products,
    )  # fmt: skip
    _end(width, outs, count)(sum_parts(products), norm_weight, *_three(weights), grad_norm_weight, grad_weight)
    return grad_x, grad_norm_weight, grad_weight
