"""RMS norm and the matrix products that follow it, fused into one operation where layers are narrow; products of one input."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import (
    are_constant,
    as_multiplied,
    choose,
    fits_norm_linear,
    fits_row,
    is_few,
    joined,
    kernels,
    reference,
    sum_dtype,
)
from lt25.ops.operator import operator
from lt25.ops.rows import add_rms_norm


def add_norm_linear(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream, normalize as :func:`lt25.ops.add_rms_norm` does, and multiply by weights.

    Args:
        x: float [..., H].
        residual: float [..., H], or None for 0.
        norm_weight: float [H].
        eps: added to the mean square.
        weights: one or more, float [N, H] each.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        The products norm(x + residual) @ weight^T concatenated, [..., len(weights) * N], in the dtype of
        :func:`torch.nn.functional.linear` (autocast's under autocast); and the sum x + residual [..., H] in the wider of both
        dtypes, a copy of x if there is no residual.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("add_norm_linear", x, backend)
    size = weights[0].shape[:1] + x.shape[-1:]
    if any(weight.shape != size for weight in weights):
        shapes = ", ".join(str(tuple(each.shape)) for each in (x, *weights))
        raise ValueError(f"add_norm_linear: x must be [..., H] and all weights [N, H], got {shapes}")
    if backend == "reference":
        return reference.add_norm_linear(x, residual, norm_weight, eps, weights)
    if backend == "triton":
        multiplied = as_multiplied(*weights)
        if fits_row(x, residual, *multiplied) and len(weights) <= 3:
            early = are_constant(norm_weight, *multiplied)
            return _row(x, residual, norm_weight, eps, multiplied, early)
        if fits_norm_linear(x, multiplied):
            return _fused(x, residual, norm_weight, eps, multiplied)
    normed, total = add_rms_norm(x, residual, norm_weight, eps, backend)
    if is_few(normed):
        return torch.cat([F.linear(normed, weight) for weight in weights], -1), total
    if backend == "triton":
        normed, *multiplied = as_multiplied(normed, *weights)
        return _joint(normed, multiplied), total
    return F.linear(normed, torch.cat(tuple(weights))), total


@operator("lt25::add_norm_linear_row")
def _row(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], early: bool
) -> tuple[Tensor, Tensor]:
    return kernels("triton", "row").norm_product(x, residual, norm_weight, eps, weights, early)


@_row.register_fake
def _(x, residual, norm_weight, eps, weights, early):
    y = x.new_empty(*x.shape[:-1], len(weights) * weights[0].shape[0])
    return y, x.new_empty(x.shape, dtype=sum_dtype(x, residual))


@operator("lt25::add_norm_linear")
def _fused(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    weights = [weight.contiguous() for weight in weights]
    return kernels("triton", "norm_linear").forward(x, residual, None, norm_weight, eps, weights)


@_fused.register_fake
def _(x, residual, norm_weight, eps, weights):
    y = x.new_empty(*x.shape[:-1], len(weights) * weights[0].shape[0])
    return y, x.new_empty(x.shape, dtype=sum_dtype(x, residual))


@operator("lt25::add_norm_linear_backward")
def _fused_backward(
    grad_y: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    grad_total = None if grad_total is None else grad_total.contiguous()
    weights = [weight.contiguous() for weight in weights]
    return kernels("triton", "norm_linear").backward(
        grad_y.contiguous(), grad_total, total.contiguous(), None, None, norm_weight, eps, weights
    )


@_fused_backward.register_fake
def _(grad_y, grad_total, total, norm_weight, eps, weights):
    outs, width = weights[0].shape
    return (
        total.new_empty(total.shape),
        norm_weight.new_empty(norm_weight.shape, dtype=torch.float32),
        weights[0].new_empty(len(weights) * outs, width),
    )


def _setup_context(ctx, inputs, output):
    x, residual, norm_weight, ctx.eps, weights = inputs
    ctx.count, ctx.dtypes = len(weights), (x.dtype, None if residual is None else residual.dtype)
    ctx.save_for_backward(output[1], norm_weight, *weights)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_total):
    total, norm_weight, *weights = ctx.saved_tensors
    if grad_y is None:
        grad_y = weights[0].new_zeros(*total.shape[:-1], ctx.count * weights[0].shape[0])
    grad, grad_norm_weight, grad_weights = _fused_backward(grad_y, grad_total, total, norm_weight, ctx.eps, weights)
    return (
        *(dtype and grad.to(dtype) for dtype in ctx.dtypes),
        grad_norm_weight.to(norm_weight.dtype),
        None,
        list(grad_weights.chunk(ctx.count)),
    )


_fused.register_autograd(_differentiate, setup_context=_setup_context)


@operator("lt25::joint_linear")
def _joint(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return F.linear(x, joined(weights))


@_joint.register_fake
def _(x, weights):
    return x.new_empty(*x.shape[:-1], len(weights) * weights[0].shape[0])


@operator("lt25::joint_linear_backward")
def _joint_backward(grad_y: Tensor, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    rows = grad_y.reshape(-1, grad_y.shape[-1])
    return grad_y @ joined(weights), rows.T @ x.reshape(-1, x.shape[-1])


@_joint_backward.register_fake
def _(grad_y, x, weights):
    outs, width = weights[0].shape
    return x.new_empty(x.shape), x.new_empty(len(weights) * outs, width)


def _joint_setup_context(ctx, inputs, output):
    x, weights = inputs
    ctx.count = len(weights)
    ctx.save_for_backward(x, *weights)


def _joint_differentiate(ctx, grad_y):
    x, *weights = ctx.saved_tensors
    grad_x, grad_weights = _joint_backward(grad_y, x, weights)
    return grad_x, list(grad_weights.chunk(ctx.count))


_joint.register_autograd(_joint_differentiate, setup_context=_joint_setup_context)


def parallel_linear(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Multiply one input by several weights of any sizes, into tensors of their own.

    In the backward pass each product adds to the gradient of x that the one before it has left: nothing is written only to be
    added up. One product with the concatenated weights would save some launches, and cost a copy of each of its parts for what
    reads them as contiguous tensors, and of each gradient.

    Args:
        x: float [..., H].
        weights: one or more, float [N_i, H].

    Returns:
        x @ weight^T of each weight, [..., N_i], in the dtype of :func:`torch.nn.functional.linear` (autocast's under autocast).
    """
    x, *weights = as_multiplied(x, *weights)
    return _Parallel.apply(x, *weights)


class _Parallel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        return tuple(F.linear(x, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *weights = ctx.saved_tensors
        rows, total, grad_weights = x.reshape(-1, x.shape[-1]), None, []
        # Autocast would change the types of some products here and not of those that add to what is there.
        with torch.autocast(x.device.type, enabled=False):
            for grad, weight, wanted in zip(grads, weights, ctx.needs_input_grad[1:], strict=True):
                if grad is None:
                    grad_weights.append(None)
                    continue
                flat = grad.reshape(-1, grad.shape[-1])
                if ctx.needs_input_grad[0]:
                    total = flat @ weight if total is None else total.addmm_(flat, weight)
                grad_weights.append(flat.T @ rows if wanted else None)
        return None if total is None else total.view(x.shape), *grad_weights
