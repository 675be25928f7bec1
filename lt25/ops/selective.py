"""The selective scan of Mamba, h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t + D x_t, as one differentiable operation.

Section 3.3.2 of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (https://arxiv.org/abs/2312.00752).
"""

import torch
from torch import Tensor

from lt25.ops.backends import check_shapes, choose, count_sequences, kernels, reference, state_dtype
from lt25.ops.operator import operator
from lt25.ops.scan import check_sequences


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    z: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan N states of each channel over time, from zero, and read them: (C_t h_t + D x_t) silu(z_t).

    Args:
        x: float [B, T, D].
        dt: length of each step before ``dt_bias`` is added and softplus taken, [B, T, D].
        A: rates at which states decay, below 0, [D, N].
        B: what each step writes, [B, T, N].
        C: what each step reads, [B, T, N].
        D: what goes past the states, [D].
        dt_bias: [D].
        z: gate, [B, T, D]; or None for none.
        cu_seqlens: int32 or int64 [S + 1], boundaries 0 = c_0 <= ... <= c_S = T of sequences packed along time, each of which
            begins from zero; then B is 1.
        backend: "triton" (CUDA) or "reference" (float64 loop, anywhere); by default chosen by the device.

    Returns:
        y [B, T, D] in x's dtype, and the state after the last step of each sequence, [B, D, N] or [S, D, N] (float32, or float64
        if x is), 0 of an empty one. The scan computes in the state's dtype. Gradients flow from both results and are bitwise
        reproducible.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    of_states, of_channels = (*x.shape[:2], A.shape[-1]), x.shape[-1:]
    sizes = {"dt": (dt, x.shape), "A": (A, (x.shape[-1], A.shape[-1])), "B": (B, of_states), "C": (C, of_states)}
    sizes |= {"D": (D, of_channels), "dt_bias": (dt_bias, of_channels), "z": (x if z is None else z, x.shape)}
    check_shapes("selective_scan", sizes)
    check_sequences("selective_scan", x, x.shape[2], None, cu_seqlens)
    if choose("selective_scan", x, backend, ("triton", "reference")) == "reference":
        y, state = reference.selective_scan(x, dt, A, B, C, D, dt_bias, z, cu_seqlens)
        return y, state.to(state_dtype(x))
    y, states = _forward(x, dt, A, B, C, D, dt_bias, z, cu_seqlens)
    return y, states[: count_sequences(x, cu_seqlens)].transpose(1, 2)


@operator("lt25::selective_scan")
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    z: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return kernels("triton", "selective").forward(x, dt, A, B, C, D, dt_bias, z, cu_seqlens)


@_forward.register_fake
def _(x, dt, A, B, C, D, dt_bias, z, cu_seqlens):
    places = kernels("triton", "selective").kept(count_sequences(x, cu_seqlens), x.shape[0] * x.shape[1])
    return x.new_empty(x.shape), x.new_empty(places, A.shape[1], x.shape[2], dtype=torch.float32)


@operator("lt25::selective_scan_backward")
def _backward(
    grad_y: Tensor,
    grad_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    z: Tensor | None,
    cu_seqlens: Tensor | None,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return kernels("triton", "selective").backward(
        grad_y, grad_final, x, dt, A, B, C, D, dt_bias, z, cu_seqlens, states
    )


@_backward.register_fake
def _(grad_y, grad_final, x, dt, A, B, C, D, dt_bias, z, cu_seqlens, states):
    gate = x.new_empty(0) if z is None else z
    return tuple(each.new_empty(each.shape) for each in (x, dt, A, B, C, D, dt_bias, gate))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    # The gradient of the states is then None where nothing reads the last.
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_states):
    x, *others, z, cu_seqlens, states = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(x)
    final = None if grad_states is None else grad_states[: count_sequences(x, cu_seqlens)]
    *grads, grad_z = _backward(grad_y, final, x, *others, z, cu_seqlens, states)
    return *grads, None if z is None else grad_z, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
