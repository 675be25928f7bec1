"""The short depthwise convolutions over time that precede the gates of an HGRN layer, for i and f together.

They equal the convolutions of flash-linear-attention's HGRN with `use_short_conv`.
"""

import torch
from torch import Tensor

from lt25.ops.backends import choose, kernels, reference
from lt25.ops.operator import operator
from lt25.ops.scan import check_sequences


def short_conv(
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    bidirectional: bool = False,
    backend: str | None = None,
) -> Tensor:
    """y_t = sum over lags j < K of weight[:, K - 1 - j] * x_{t-j}, channel by channel, for i and f; g is copied.

    Args:
        ifg: float [B, T, 3 D], i | f | g along the last axis.
        weight: float [2 D, K], rows for i and then for f, laid out as in a depthwise nn.Conv1d.
        mask: bool [B, T], False where a step is padding, which is read as zero.
        cu_seqlens: int32 or int64 [N + 1], boundaries 0 = c_0 <= ... <= c_N = T of sequences packed along time; then B is 1.
            No step reads across a boundary.
        bidirectional: the second half of the channels of i, and of f, reads later steps, x_{t+j}.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [B, T, 3 D] in ifg's dtype. Gradients flow to ifg and weight and are bitwise reproducible.

    Raises:
        ValueError: shapes that do not fit together, boundaries that do not rise from 0 to T, an unknown backend.
    """
    backend = choose("short_conv", ifg, backend)
    if ifg.ndim != 3 or weight.ndim != 2 or 2 * ifg.shape[2] != 3 * weight.shape[0]:
        raise ValueError(
            f"short_conv: ifg must be [B, T, 3 D] and weight [2 D, K], got {tuple(ifg.shape)} and {tuple(weight.shape)}"
        )
    if mask is not None and (mask.shape != ifg.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"short_conv: mask must be bool {tuple(ifg.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    if bidirectional and weight.shape[0] % 4:
        raise ValueError(f"short_conv: bidirectional needs an even number of channels, got {weight.shape[0] // 2}")
    check_sequences("short_conv", ifg, weight.shape[0] // 2, None, cu_seqlens)
    if backend == "reference":
        return reference.short_conv(ifg, weight, mask, cu_seqlens, bidirectional)
    return _forward(ifg, weight, mask, cu_seqlens, bidirectional, backend)


@operator("lt25::short_conv")
def _forward(
    ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool, backend: str
) -> Tensor:
    return kernels(backend, "conv").forward(ifg, weight, mask, cu_seqlens, bidirectional)


@_forward.register_fake
def _(ifg, weight, mask, cu_seqlens, bidirectional, backend):
    return ifg.new_empty(ifg.shape)


@operator("lt25::short_conv_backward")
def _backward(
    grad_y: Tensor,
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return kernels(backend, "conv").backward(grad_y, ifg, weight, mask, cu_seqlens, bidirectional)


@_backward.register_fake
def _(grad_y, ifg, weight, mask, cu_seqlens, bidirectional, backend):
    return ifg.new_empty(ifg.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output):
    ifg, weight, mask, cu_seqlens, ctx.bidirectional, ctx.backend = inputs
    ctx.save_for_backward(ifg, weight, mask, cu_seqlens)


def _differentiate(ctx, grad_y):
    return *_backward(grad_y, *ctx.saved_tensors, ctx.bidirectional, ctx.backend), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
