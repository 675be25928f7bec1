"""The HGRN recurrence h_t = f_t * h_{t-1} + x_t as one differentiable operation.

The recurrence is equation 3 of "Hierarchically Gated Recurrent Neural Network for Sequence Modeling"
(https://arxiv.org/abs/2311.04823), with the input gate already multiplied into x. It is registered with torch.library,
so that torch.compile, activation checkpointing and sharded training treat it as any other operator.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lt25.ops.backends import choose, count_sequences, kernels, reference, state_dtype
from lt25.ops.context import Carry
from lt25.ops.operator import operator


def hgrn_scan(
    x: Tensor,
    log_f: Tensor,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
    output_final_state: bool = False,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Scans h_t = exp(log_f_t) * h_{t-1} + x_t over time, channel by channel.

    Args:
        x: float [B, T, D].
        log_f: float [B, T, D], logarithm of the forget gate, at most 0; 0 keeps the state, -inf clears it.
        initial_state: float [N, D], the state before the first step (after the last, if reverse); zero if None.
            N = B, or the number of packed sequences.
        cu_seqlens: int32 or int64 [N + 1], boundaries 0 = c_0 <= ... <= c_N = T of sequences packed along time; then
            B is 1. The final state of an empty sequence is its initial state.
        reverse: scan from each sequence's end to its start, h_t = exp(log_f_t) * h_{t+1} + x_t.
        output_final_state: also return the final state.
        group: processes that share the sequences (`lt25.ops.context`). Tensors [B, T, ...] are then this process's part of them,
            cu_seqlens counts over all parts, and states are neither taken nor returned.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64 loop, anywhere); by default chosen by the device.

    Returns:
        h [B, T, D] in x's dtype, and the final state [N, D] (float32, or float64 if x is) or None. The scan computes in
        the state's dtype. Gradients flow from both results to x, log_f and initial_state. Results and gradients are
        bitwise reproducible.

    Raises:
        ValueError: shapes that do not fit together, boundaries that do not rise from 0 to T, an unknown backend.
    """
    backend = choose("hgrn_scan", x, backend)
    if x.ndim != 3 or log_f.shape != x.shape:
        raise ValueError(
            f"hgrn_scan: x and log_f must both be [B, T, D], got {tuple(x.shape)} and {tuple(log_f.shape)}"
        )
    check_sequences("hgrn_scan", x, x.shape[2], initial_state, cu_seqlens)
    if group is not None:
        check_shared("hgrn_scan", backend, initial_state is not None or output_final_state)
        return _Shared.apply(x, log_f, cu_seqlens, reverse, group, backend), None
    if backend == "reference":
        h, final_state = reference.scan(x, log_f, initial_state, cu_seqlens, reverse)
        final_state = final_state.to(state_dtype(x))
    else:
        h, final_state = _forward(x, log_f, initial_state, cu_seqlens, reverse, backend)
    return h, final_state if output_final_state else None


def check_sequences(
    operator: str, x: Tensor, channels: int, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> None:
    """Check that the initial state and the boundaries of packed sequences fit x.

    Args:
        operator: name for the message.
        x: [B, T, ...].
        channels: channels of the state, D.
        initial_state: [N, D] or None.
        cu_seqlens: int [N + 1] or None.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if cu_seqlens is not None and (x.shape[0] != 1 or cu_seqlens.ndim != 1 or len(cu_seqlens) < 2):
        raise ValueError(
            f"{operator}: cu_seqlens [N + 1] needs a batch of 1, got {tuple(cu_seqlens.shape)} and B = {x.shape[0]}"
        )
    state = (count_sequences(x, cu_seqlens), channels)
    if initial_state is not None and tuple(initial_state.shape) != state:
        raise ValueError(f"{operator}: initial_state must be {state}, got {tuple(initial_state.shape)}")


def check_shared(operator: str, backend: str, states: bool) -> None:
    """Check that an operator can be computed by processes that share the sequences.

    Raises:
        ValueError: if it was to take or return a state, or runs on the reference backend.
    """
    if states:
        raise ValueError(f"{operator}: with a group no state is given or returned")
    if backend == "reference":
        raise ValueError(f"{operator}: the reference backend takes no group")


@operator("lt25::hgrn_scan")
def _forward(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return kernels(backend, "scan").forward(x, log_f, initial_state, cu_seqlens, reverse)


@_forward.register_fake
def _(x, log_f, initial_state, cu_seqlens, reverse, backend):
    return x.new_empty(x.shape), x.new_empty(count_sequences(x, cu_seqlens), x.shape[2], dtype=state_dtype(x))


@operator("lt25::hgrn_scan_backward")
def _backward(
    grad_h: Tensor,
    grad_final: Tensor | None,
    log_f: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return kernels(backend, "scan").backward(grad_h, grad_final, log_f, h, initial_state, cu_seqlens, reverse)


@_backward.register_fake
def _(grad_h, grad_final, log_f, h, initial_state, cu_seqlens, reverse, backend):
    return (
        h.new_empty(h.shape),
        log_f.new_empty(log_f.shape),
        h.new_empty(count_sequences(h, cu_seqlens), h.shape[2], dtype=state_dtype(h)),
    )


def _setup_context(ctx, inputs, output):
    _, log_f, initial_state, cu_seqlens, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(log_f, output[0], initial_state, cu_seqlens)
    # The gradient of an unused output is then None. Filling one with zeros would cost a pass over memory.
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_h, grad_final):
    log_f, h, initial_state, cu_seqlens = ctx.saved_tensors
    if grad_h is None:
        grad_h = torch.zeros_like(h)
    grad_x, grad_log_f, grad_state = _backward(
        grad_h, grad_final, log_f, h, initial_state, cu_seqlens, ctx.reverse, ctx.backend
    )
    grad_state = None if initial_state is None else grad_state.to(initial_state.dtype)
    return grad_x, grad_log_f, grad_state, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


class _Shared(torch.autograd.Function):
    """The scan of this process's part of sequences that a group shares."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        log_f: Tensor,
        cu_seqlens: Tensor | None,
        reverse: bool,
        group: dist.ProcessGroup,
        backend: str,
    ) -> Tensor:
        carry = Carry(group, x, cu_seqlens, reverse)
        _, final = _forward(x, log_f, None, carry.cu_seqlens, reverse, backend)
        counted = log_f.to(final.dtype)
        if carry.inner is not None:
            steps, (begin, end) = torch.arange(x.shape[1], device=x.device), carry.inner
            counted = counted.where(((steps < end) if reverse else (steps >= begin))[:, None], 0.0)
        product = counted.sum(1).exp()
        state = carry.enter(product, carry.take(final, True))
        h, _ = _forward(x, log_f, state, carry.cu_seqlens, reverse, backend)
        ctx.carry, ctx.reverse, ctx.backend = carry, reverse, backend
        ctx.save_for_backward(log_f, h, state, product)
        return h

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        log_f, h, state, product = ctx.saved_tensors
        arguments = log_f, h, state, ctx.carry.cu_seqlens, ctx.reverse, ctx.backend
        _, _, grad_state = _backward(grad_h, None, *arguments)
        grad_x, grad_log_f, _ = _backward(grad_h, ctx.carry.leave(product, grad_state), *arguments)
        return grad_x, grad_log_f, None, None, None, None
