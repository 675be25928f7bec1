"""The gated MLP of an HGRN layer, "GLU Variants Improve Transformer" (https://arxiv.org/abs/2002.05202).

In narrow models its pre-activations are most of what a training step moves through memory. There, on a GPU, one kernel does
all three products and the way back computes again what lies between them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import choose, kernels, reference
from lt25.ops.rows import swiglu

# Beyond it the products take longer than the memory.
_WIDEST_FUSED = 128


def gated_mlp(
    x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor, backend: str | None = None
) -> Tensor:
    """down(silu(gate(x)) * up(x)), each a product with a weight and without a bias.

    Args:
        x: float [..., H].
        gate_weight: float [I, H].
        up_weight: float [I, H].
        down_weight: float [H, I].
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [..., H] in the dtype of :func:`torch.nn.functional.linear`, which under autocast is autocast's.

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
        arguments = (x, gate_weight, up_weight, down_weight)
        if torch.is_autocast_enabled(x.device.type):
            arguments = tuple(each.to(torch.get_autocast_dtype(x.device.type)) for each in arguments)
        if _can_fuse(*arguments):
            return _fused(*arguments)
    gate_up = F.linear(x, torch.cat((gate_weight, up_weight)))
    return F.linear(swiglu(gate_up, backend), down_weight)


def _can_fuse(x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor) -> bool:
    width, hidden = gate_weight.shape
    dtypes = {each.dtype for each in (x, gate_weight, up_weight, down_weight)}
    return (
        dtypes in ({torch.bfloat16}, {torch.float16}) and width % 16 == hidden % 16 == 0 and 0 < hidden <= _WIDEST_FUSED
    )


@torch.library.custom_op("lt25::gated_mlp", mutates_args=())
def _fused(x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor) -> Tensor:
    return kernels("triton", "mlp").forward(x, gate_weight, up_weight, down_weight)


@_fused.register_fake
def _(x, gate_weight, up_weight, down_weight):
    return x.new_empty(x.shape)


@torch.library.custom_op("lt25::gated_mlp_backward", mutates_args=())
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
