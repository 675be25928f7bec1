"""The gated MLP of an HGRN layer, "GLU Variants Improve Transformer" (https://arxiv.org/abs/2002.05202).

In a small model, reading and writing its pre-activations takes most of the memory bandwidth of a training step. On a GPU, narrow
models therefore use one kernel for all three products, and the backward pass recomputes the values between them. In wider
models SwiGLU is fused into the products before and after it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import (
    as_multiplied,
    choose,
    fits_narrow_mlp,
    fits_wide_mlp,
    is_few,
    kernels,
    reference,
)
from lt25.ops.operator import operator
from lt25.ops.rows import swiglu


def gated_mlp(
    x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor, backend: str | None = None
) -> Tensor:
    """down(silu(gate(x)) * up(x)), where gate, up and down are linear maps without bias.

    Args:
        x: float [..., H].
        gate_weight: float [I, H].
        up_weight: float [I, H].
        down_weight: float [H, I].
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [..., H] in the dtype of :func:`torch.nn.functional.linear` (autocast's under autocast).

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("gated_mlp", x, backend)
    width, hidden = gate_weight.shape
    if x.shape[-1:] != (hidden,) or up_weight.shape != (width, hidden) or down_weight.shape != (hidden, width):
        shapes = ", ".join(str(tuple(each.shape)) for each in (x, gate_weight, up_weight, down_weight))
        raise ValueError(f"gated_mlp: x must be [..., H], gate and up [I, H] and down [H, I], got {shapes}")
    if backend == "reference":
        return reference.gated_mlp(x, gate_weight, up_weight, down_weight)
    if backend == "triton":
        arguments = as_multiplied(x, gate_weight, up_weight, down_weight)
        if fits_narrow_mlp(*arguments):
            return _fused(*arguments)
        if fits_wide_mlp(*arguments):
            return _wide(*arguments)[0]
    if is_few(x):
        gate_up = torch.cat((F.linear(x, gate_weight), F.linear(x, up_weight)), -1)
    else:
        gate_up = F.linear(x, torch.cat((gate_weight, up_weight)))
    return swiglu_linear(gate_up, down_weight, backend)


def swiglu_linear(gate_up: Tensor, weight: Tensor, backend: str | None = None) -> Tensor:
    """The second half of a gated MLP: the product of silu(gate) * up with a weight.

    Args:
        gate_up: float [..., 2 I], gate | up along the last axis.
        weight: float [H, I].
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [..., H] in the dtype of :func:`torch.nn.functional.linear` (autocast's under autocast).

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("swiglu_linear", gate_up, backend)
    if gate_up.shape[-1] != 2 * weight.shape[1]:
        raise ValueError(
            f"swiglu_linear: gate_up must be [..., 2 I] and weight [H, I], got {tuple(gate_up.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if backend == "reference":
        return reference.swiglu_linear(gate_up, weight)
    return F.linear(swiglu(gate_up, backend), weight)


@operator("lt25::gated_mlp")
def _fused(x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor) -> Tensor:
    return kernels("triton", "mlp").forward(x, gate_weight, up_weight, down_weight)


@_fused.register_fake
def _(x, gate_weight, up_weight, down_weight):
    return x.new_empty(x.shape)


@operator("lt25::gated_mlp_backward")
def _fused_backward(
    grad_y: Tensor, x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor
) -> tuple[Tensor, Tensor]:
    return kernels("triton", "mlp").backward(grad_y, x, gate_weight, up_weight, down_weight)


@_fused_backward.register_fake
def _(grad_y, x, gate_weight, up_weight, down_weight):
    return x.new_empty(x.shape), x.new_empty(3 * gate_weight.numel())


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad_y):
    x, *weights = ctx.saved_tensors
    grad_x, grad_weights = _fused_backward(grad_y, x, *weights)
    return grad_x, *(grad.view_as(weight) for grad, weight in zip(grad_weights.chunk(3), weights, strict=True))


_fused.register_autograd(_differentiate, setup_context=_setup_context)


@operator("lt25::wide_mlp")
def _wide(x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, *saved = kernels("triton", "products").forward(x.reshape(-1, x.shape[-1]), gate_weight, up_weight, down_weight)
    return y.view(x.shape), *saved


@_wide.register_fake
def _(x, gate_weight, up_weight, down_weight):
    rows, width = x.shape[:-1].numel(), gate_weight.shape[0]
    return x.new_empty(x.shape), x.new_empty(rows, 2 * width), x.new_empty(rows, width)


@operator("lt25::wide_mlp_backward")
def _wide_backward(
    grad_y: Tensor,
    x: Tensor,
    gate_up: Tensor,
    act: Tensor,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_y, flat = grad_y.reshape(-1, grad_y.shape[-1]), x.reshape(-1, x.shape[-1])
    grads = kernels("triton", "products").backward(grad_y, flat, gate_up, act, gate_weight, up_weight, down_weight)
    return grads[0].view(x.shape), *grads[1:]


@_wide_backward.register_fake
def _(grad_y, x, gate_up, act, gate_weight, up_weight, down_weight):
    width, hidden = gate_weight.shape
    return x.new_empty(x.shape), x.new_empty(2 * width, hidden), x.new_empty(hidden, width)


def _wide_setup_context(ctx, inputs, output):
    x, *weights = inputs
    _, gate_up, act = output
    ctx.mark_non_differentiable(gate_up, act)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gate_up, act, *weights)


def _wide_differentiate(ctx, grad_y, *_):
    if grad_y is None:
        return None, None, None, None
    grad_x, grad_gate_up, grad_down = _wide_backward(grad_y, *ctx.saved_tensors)
    return grad_x, *grad_gate_up.chunk(2), grad_down


_wide.register_autograd(_wide_differentiate, setup_context=_wide_setup_context)
