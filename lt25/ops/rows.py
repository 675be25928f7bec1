"""The row-wise operations of a layer between its matrix products: SwiGLU, and RMS norm with the residual sum or a gate.

SwiGLU is from "GLU Variants Improve Transformer" (https://arxiv.org/abs/2002.05202), the norm from "Root Mean Square Layer
Normalization" (https://arxiv.org/abs/1910.07467). Each is one pass over the data, forward and backward.
"""

from torch import Tensor

from lt25.ops.backends import choose, kernels, reference, sum_dtype
from lt25.ops.operator import operator


def swiglu(gate_up: Tensor, backend: str | None = None) -> Tensor:
    """silu(gate) * up.

    Args:
        gate_up: float [..., 2 I], gate | up along the last axis.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (anywhere); by default chosen by the device.

    Returns:
        [..., I] in the same dtype.

    Raises:
        ValueError: a last axis of odd size, an unknown backend.
    """
    backend = choose("swiglu", gate_up, backend)
    if gate_up.shape[-1] % 2:
        raise ValueError(f"swiglu: gate_up must be [..., 2 I], got {tuple(gate_up.shape)}")
    return reference.swiglu(gate_up) if backend == "reference" else _swiglu(gate_up, backend)


@operator("lt25::swiglu")
def _swiglu(gate_up: Tensor, backend: str) -> Tensor:
    return kernels(backend, "rows").swiglu_forward(gate_up)


@_swiglu.register_fake
def _(gate_up, backend):
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@operator("lt25::swiglu_backward")
def _swiglu_backward(grad_y: Tensor, gate_up: Tensor, backend: str) -> Tensor:
    return kernels(backend, "rows").swiglu_backward(grad_y, gate_up)


@_swiglu_backward.register_fake
def _(grad_y, gate_up, backend):
    return gate_up.new_empty(gate_up.shape)


def _swiglu_setup_context(ctx, inputs, output):
    gate_up, ctx.backend = inputs
    ctx.save_for_backward(gate_up)


def _swiglu_differentiate(ctx, grad_y):
    return _swiglu_backward(grad_y, *ctx.saved_tensors, ctx.backend), None


_swiglu.register_autograd(_swiglu_differentiate, setup_context=_swiglu_setup_context)


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The sum of a branch and the residual stream, and its RMS norm: sum / sqrt(mean(sum^2) + eps) * weight.

    Args:
        x: float [..., H].
        residual: float [..., H], or None for 0.
        weight: float [H].
        eps: added to the mean square.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        normed [..., H] in x's dtype, and the sum [..., H] in the wider dtype of x and residual. Without a residual the sum is
        a copy of x: one operator then computes the gradient of both uses of x, which need no addition afterwards.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("add_rms_norm", x, backend)
    if weight.shape != x.shape[-1:] or (residual is not None and residual.shape != x.shape):
        raise ValueError(
            f"add_rms_norm: x and residual must be [..., H] and weight [H], got {tuple(x.shape)}, "
            f"{None if residual is None else tuple(residual.shape)} and {tuple(weight.shape)}"
        )
    if backend == "reference":
        return reference.add_rms_norm(x, residual, weight, eps)
    return _add_norm(x, residual, weight, eps, backend)


@operator("lt25::add_rms_norm")
def _add_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    return kernels(backend, "rows").add_rms_norm_forward(x, residual, weight, eps)


@_add_norm.register_fake
def _(x, residual, weight, eps, backend):
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=sum_dtype(x, residual))


@operator("lt25::add_rms_norm_backward")
def _norm_backward(
    grad_normed: Tensor, grad_sum: Tensor | None, total: Tensor, weight: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor]:
    return kernels(backend, "rows").add_rms_norm_backward(grad_normed, grad_sum, total, weight, eps)


@_norm_backward.register_fake
def _(grad_normed, grad_sum, total, weight, eps, backend):
    return total.new_empty(total.shape), weight.new_empty(weight.shape)


def _add_norm_setup_context(ctx, inputs, output):
    x, residual, weight, ctx.eps, ctx.backend = inputs
    ctx.save_for_backward(output[1], weight)
    ctx.dtypes = x.dtype, None if residual is None else residual.dtype
    ctx.set_materialize_grads(False)


def _add_norm_differentiate(ctx, grad_normed, grad_sum):
    total, weight = ctx.saved_tensors
    if grad_normed is None:
        grad_normed = total.new_zeros(total.shape, dtype=ctx.dtypes[0])
    grad, grad_weight = _norm_backward(grad_normed, grad_sum, total, weight, ctx.eps, ctx.backend)
    return *(dtype and grad.to(dtype) for dtype in ctx.dtypes), grad_weight, None, None


_add_norm.register_autograd(_add_norm_differentiate, setup_context=_add_norm_setup_context)


def gated_rms_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, gate_first: bool = False, backend: str | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight * silu(gate), the means over the last axis.

    Args:
        x: float [..., D].
        gate: float [..., D]; columns of a wider matrix are read where they lie.
        weight: float [D].
        eps: added to the mean square.
        gate_first: the norm is that of x * silu(gate), and the gate comes in nowhere else.
        backend: "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [..., D] in x's dtype.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("gated_rms_norm", x, backend)
    if weight.shape != x.shape[-1:] or gate.shape != x.shape:
        raise ValueError(
            f"gated_rms_norm: x and gate must be [..., D] and weight [D], got {tuple(x.shape)}, {tuple(gate.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if backend == "reference":
        return reference.gated_rms_norm(x, gate, weight, eps, gate_first)
    return _gated_norm(x, gate, weight, eps, gate_first)


def _rows(x: Tensor) -> Tensor:
    """[..., D] as rows, each of which lies whole in memory: a view of what is so already."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


@operator("lt25::gated_rms_norm")
def _gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, gate_first: bool) -> Tensor:
    return kernels("triton", "rows").norm_forward(x.contiguous(), None, _rows(gate), weight, eps, gate_first)[0]


@_gated_norm.register_fake
def _(x, gate, weight, eps, gate_first):
    return x.new_empty(x.shape)


@operator("lt25::gated_rms_norm_backward")
def _gated_backward(
    grad_normed: Tensor, x: Tensor, gate: Tensor, weight: Tensor, eps: float, gate_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_gate = gate.new_empty(gate.shape)
    backward = kernels("triton", "rows").norm_backward
    grads = grad_normed.contiguous(), None, x.contiguous(), _rows(gate), _rows(grad_gate)
    grad_x, grad_weight = backward(*grads, weight, eps, gate_first)
    return grad_x, grad_gate, grad_weight.to(weight.dtype)


@_gated_backward.register_fake
def _(grad_normed, x, gate, weight, eps, gate_first):
    return x.new_empty(x.shape), gate.new_empty(gate.shape), weight.new_empty(weight.shape)


def _gated_setup_context(ctx, inputs, output):
    x, gate, weight, ctx.eps, ctx.gate_first = inputs
    ctx.save_for_backward(x, gate, weight)


def _gated_differentiate(ctx, grad_normed):
    return *_gated_backward(grad_normed, *ctx.saved_tensors, ctx.eps, ctx.gate_first), None, None


_gated_norm.register_autograd(_gated_differentiate, setup_context=_gated_setup_context)
