"""The short causal depthwise convolution of the Mambas and of flash-linear-attention's layers, with bias and SiLU.

It is one differentiable operation, which reads columns of a wider matrix where they lie, and computes what went into SiLU again
in the backward pass. `lt25.ops.short_conv` is another, for the layers of lt25's own HGRN: it has no bias and no SiLU, convolves i
and f and hands on g beside them, knows padding, and can read later steps.
"""

from torch import Tensor

from lt25.ops.backends import check_shapes, choose, kernels, reference
from lt25.ops.operator import operator
from lt25.ops.scan import check_sequences


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    silu: bool = True,
    backend: str | None = None,
) -> Tensor:
    """y_t = silu(bias + sum over lags j < K of weight[:, K - 1 - j] * x_{t-j}), channel by channel.

    Args:
        x: float [B, T, C]. If channels lie side by side it is read where it is, however far apart steps and sequences are.
        weight: float [C, K], laid out as in a depthwise nn.Conv1d.
        bias: float [C]; or None for none.
        cu_seqlens: int32 or int64 [N + 1], boundaries 0 = c_0 <= ... <= c_N = T of sequences packed along time; then B is 1.
            No step reads across a boundary.
        silu: False for the sum alone.
        backend: "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [B, T, C] in x's dtype, contiguous; sums are float32. Gradients flow to x, weight and bias and are bitwise reproducible.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    if x.ndim != 3 or weight.ndim != 2 or x.shape[2] != weight.shape[0] or not weight.shape[1]:
        raise ValueError(
            f"causal_conv: x must be [B, T, C] and weight [C, K], got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None:
        check_shapes("causal_conv", {"bias": (bias, weight.shape[:1])})
    check_sequences("causal_conv", x, x.shape[2], None, cu_seqlens)
    if choose("causal_conv", x, backend, ("triton", "reference")) == "reference":
        return reference.causal_conv(x, weight, bias, cu_seqlens, silu)
    return _forward(x, weight, bias, cu_seqlens, silu)


@operator("lt25::causal_conv")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool) -> Tensor:
    return kernels("triton", "causal").forward(x, weight, bias, cu_seqlens, silu)


@_forward.register_fake
def _(x, weight, bias, cu_seqlens, silu):
    return x.new_empty(x.shape)


@operator("lt25::causal_conv_backward")
def _backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return kernels("triton", "causal").backward(grad_y, x, weight, bias, cu_seqlens, silu)


@_backward.register_fake
def _(grad_y, x, weight, bias, cu_seqlens, silu):
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


def _setup_context(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_y):
    x, weight, bias, cu_seqlens = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = _backward(grad_y, x, weight, bias, cu_seqlens, ctx.silu)
    return grad_x, grad_weight, None if bias is None else grad_bias, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
