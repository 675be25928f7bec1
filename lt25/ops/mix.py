"""The token mixer of an HGRN layer as one differentiable operation: gates, scan over time, gated RMS norm and, optionally, the
output projection.

Equations 3 to 5 of "Hierarchically Gated Recurrent Neural Network for Sequence Modeling" (https://arxiv.org/abs/2311.04823),
real part, with the gated norm of flash-linear-attention. Fusing them saves memory traffic: only the pre-activations and the
states are saved for the backward pass, which recomputes everything else.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import as_multiplied, choose, count_sequences, fits_norm_linear, kernels, reference, state_dtype
from lt25.ops.context import Carry
from lt25.ops.operator import operator
from lt25.ops.scan import check_sequences, check_shared


def hgrn_mix(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None = None,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    bidirectional: bool = False,
    output_final_state: bool = False,
    out_weight: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Mixes over time, channel by channel, then across the channels of each step.

        f'_t = lower_bound + (1 - lower_bound) * sigmoid(f_t)
        h_t = f'_t * h_{t-1} + (1 - f'_t) * silu(i_t)
        y_t = h_t / sqrt(mean over channels(h_t^2) + eps) * weight * silu(g_t)

    Args:
        ifg: float [B, T, 3 D], the pre-activations i | f | g along the last axis.
        weight: float [D], the weight of the norm.
        eps: added to the mean square in the norm.
        lower_bound: float [D] in [0, 1), or None for 0.
        mask: bool [B, T], False where a step is padding. The state passes such a step unchanged: gate 1, input 0, exactly.
        initial_state: float [N, D], the state before the first step; zero if None. N = B, or the number of packed
            sequences.
        cu_seqlens: int32 or int64 [N + 1], boundaries 0 = c_0 <= ... <= c_N = T of sequences packed along time; then
            B is 1. The final state of an empty sequence is its initial state.
        bidirectional: scan the second half of the channels from each sequence's end to its start. Their initial state comes
            after the last step, and their final state is the one at the first step.
        output_final_state: also return the final state.
        out_weight: float [H, D]; if given, y @ out_weight^T is returned instead of y.
        group: processes that share the sequences, as for :func:`lt25.ops.hgrn_scan`.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64 loop, anywhere); by default chosen by the device.

    Returns:
        y [B, T, D] in ifg's dtype, or with out_weight [B, T, H] in the dtype of :func:`torch.nn.functional.linear` (autocast's
        under autocast); and the final state [N, D] (float32, or float64 if ifg is) or None. The scan computes in the state's
        dtype; the states saved for the backward pass have ifg's. Gradients flow from both results to ifg, weight, lower_bound,
        initial_state and out_weight. Results and gradients are bitwise reproducible.

    Raises:
        ValueError: shapes that do not fit together, boundaries that do not rise from 0 to T, an unknown backend.
    """
    backend = choose("hgrn_mix", ifg, backend)
    channels = weight.shape[0]
    if weight.ndim != 1 or ifg.ndim != 3 or ifg.shape[2] != 3 * channels:
        raise ValueError(
            f"hgrn_mix: ifg must be [B, T, 3 D] and weight [D], got {tuple(ifg.shape)} and {tuple(weight.shape)}"
        )
    if lower_bound is not None and lower_bound.shape != weight.shape:
        raise ValueError(f"hgrn_mix: lower_bound must be {tuple(weight.shape)}, got {tuple(lower_bound.shape)}")
    if mask is not None and (mask.shape != ifg.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"hgrn_mix: mask must be bool {tuple(ifg.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    if out_weight is not None and out_weight.shape[1:] != weight.shape:
        raise ValueError(f"hgrn_mix: out_weight must be [H, {channels}], got {tuple(out_weight.shape)}")
    if bidirectional and channels % 2:
        raise ValueError(f"hgrn_mix: bidirectional needs an even number of channels, got {channels}")
    check_sequences("hgrn_mix", ifg, channels, initial_state, cu_seqlens)
    dtype = state_dtype(ifg)
    lower_bound = None if lower_bound is None else lower_bound.to(dtype)
    initial_state = None if initial_state is None else initial_state.to(dtype)
    if group is not None:
        check_shared("hgrn_mix", backend, initial_state is not None or output_final_state)
        y = _Shared.apply(ifg, weight, lower_bound, eps, mask, cu_seqlens, bidirectional, group, backend)
        return y if out_weight is None else F.linear(y, out_weight), None
    arguments = (ifg, weight, eps, lower_bound, mask, initial_state, cu_seqlens, bidirectional)
    if backend == "reference":
        y, final_state = reference.mix(*arguments, out_weight)
        return y, final_state.to(dtype) if output_final_state else None
    fused = None
    if backend == "triton" and out_weight is not None:
        (fused,) = as_multiplied(out_weight)
        fused = fused if fits_norm_linear(ifg, [fused]) else None
    y, _, final_state = _forward(*arguments, fused, backend)
    if out_weight is not None and fused is None:
        y = F.linear(y, out_weight)
    return y, final_state if output_final_state else None


@operator("lt25::hgrn_mix")
def _forward(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    out_weight: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (ifg, weight, eps, lower_bound, mask, initial_state, cu_seqlens, bidirectional)
    return kernels(backend, "mix").forward(*arguments, *_given(out_weight))


@_forward.register_fake
def _(ifg, weight, eps, lower_bound, mask, initial_state, cu_seqlens, bidirectional, out_weight, backend):
    batch, time, _ = ifg.shape
    channels = weight.shape[0]
    return (
        ifg.new_empty(batch, time, channels if out_weight is None else out_weight.shape[0]),
        ifg.new_empty(batch, time, channels),
        ifg.new_empty(count_sequences(ifg, cu_seqlens), channels, dtype=state_dtype(ifg)),
    )


@operator("lt25::hgrn_mix_backward")
def _backward(
    grad_y: Tensor,
    grad_final: Tensor | None,
    ifg: Tensor,
    h: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    out_weight: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    arguments = (grad_y, grad_final, ifg, h, weight, eps, lower_bound, mask, initial_state, cu_seqlens, bidirectional)
    grads = kernels(backend, "mix").backward(*arguments, *_given(out_weight))
    return grads if out_weight is not None else (*grads, ifg.new_empty(0))


@_backward.register_fake
def _(
    grad_y,
    grad_final,
    ifg,
    h,
    weight,
    eps,
    lower_bound,
    mask,
    initial_state,
    cu_seqlens,
    bidirectional,
    out_weight,
    backend,
):
    dtype = state_dtype(ifg)
    return (
        ifg.new_empty(ifg.shape),
        weight.new_empty(weight.shape, dtype=dtype),
        weight.new_empty(weight.shape, dtype=dtype),
        ifg.new_empty(count_sequences(ifg, cu_seqlens), weight.shape[0], dtype=dtype),
        ifg.new_empty(0 if out_weight is None else out_weight.shape),
    )


def _given(out_weight: Tensor | None) -> tuple[Tensor, ...]:
    """The argument only if there is one: the numba kernels have no output projection and do not take it."""
    return () if out_weight is None else (out_weight,)


def _setup_context(ctx, inputs, output):
    ifg, weight, ctx.eps, lower_bound, mask, initial_state, cu_seqlens, ctx.bidirectional, out_weight, ctx.backend = (
        inputs
    )
    y, h, _ = output
    ctx.mark_non_differentiable(h)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(ifg, h, weight, lower_bound, mask, initial_state, cu_seqlens, out_weight)
    ctx.shape = y.shape


def _differentiate(ctx, grad_y, _, grad_final):
    ifg, h, weight, lower_bound, mask, initial_state, cu_seqlens, out_weight = ctx.saved_tensors
    if grad_y is None:
        grad_y = h.new_zeros(ctx.shape)
    grad_ifg, grad_weight, grad_bound, grad_state, grad_out_weight = _backward(
        grad_y,
        grad_final,
        ifg,
        h,
        weight,
        ctx.eps,
        lower_bound,
        mask,
        initial_state,
        cu_seqlens,
        ctx.bidirectional,
        out_weight,
        ctx.backend,
    )
    return (
        grad_ifg,
        grad_weight.to(weight.dtype),
        None,
        None if lower_bound is None else grad_bound,
        None,
        None if initial_state is None else grad_state,
        None,
        None,
        None if out_weight is None else grad_out_weight,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)


class _Shared(torch.autograd.Function):
    """The mixer of this process's part of sequences that a group shares, without the output projection."""

    @staticmethod
    def forward(
        ctx: Any,
        ifg: Tensor,
        weight: Tensor,
        lower_bound: Tensor | None,
        eps: float,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        bidirectional: bool,
        group: dist.ProcessGroup,
        backend: str,
    ) -> Tensor:
        carry = Carry(group, ifg, cu_seqlens, *((False, True) if bidirectional else (False,)))
        product, end = kernels(backend, "mix").summarise(ifg, lower_bound, mask, carry.inner, bidirectional)
        state = carry.enter(product, end)
        arguments = lower_bound, mask, state, carry.cu_seqlens, bidirectional, None, backend
        y, h, _ = _forward(ifg, weight, eps, *arguments)
        ctx.carry, ctx.eps, ctx.bidirectional, ctx.backend = carry, eps, bidirectional, backend
        ctx.save_for_backward(ifg, h, weight, lower_bound, mask, state, product)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ifg, h, weight, lower_bound, mask, state, product = ctx.saved_tensors
        arguments = ifg, h, weight, ctx.eps, lower_bound, mask, state, ctx.carry.cu_seqlens, ctx.bidirectional, None
        *_, grad_state, _ = _backward(grad_y, None, *arguments, ctx.backend)
        grad_final = ctx.carry.leave(product, grad_state)
        grad_ifg, grad_weight, grad_bound, _, _ = _backward(grad_y, grad_final, *arguments, ctx.backend)
        grad_bound = None if lower_bound is None else grad_bound
        return grad_ifg, grad_weight.to(weight.dtype), grad_bound, None, None, None, None, None, None
