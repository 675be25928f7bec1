"""The halves of an HGRN layer over one step, for generation: from the residual stream before a norm to that before the next."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import are_constant, as_multiplied, check_shapes, choose, fits_row, kernels, state_dtype
from lt25.ops.linear import add_norm_linear
from lt25.ops.mlp import swiglu_linear
from lt25.ops.operator import operator
from lt25.ops.step import hgrn_step


def mixer_step(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    gate_weight: Tensor,
    gate_eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    out_weight: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Norm, products, :func:`lt25.ops.hgrn_step` and a product, whose result joins the residual stream. It has no gradient.

    Args:
        x: float [B, H], the residual stream.
        norm_weight: float [H], the weight of the norm before the products.
        eps: added to its mean square.
        weights: float [D, H] each, that i, f and g are products with.
        gate_weight: float [D], the weight of the norm after the step.
        gate_eps: added to its mean square.
        state: [B, D], float32 (float64 if x is).
        lower_bound: float [D] in [0, 1), or None for 0.
        out_weight: float [H, D].
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        The residual stream after it, [B, H] in x's dtype; the new state [B, D] in the state's dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit together, an unknown backend.
    """
    backend = choose("mixer_step", x, backend)
    if len(weights) != 3:
        raise ValueError(f"mixer_step: weights must be three, got {len(weights)}")
    batch, hidden, channels = len(x), norm_weight.shape[-1], gate_weight.shape[-1]
    sizes = {
        "x": (x, (batch, hidden)),
        "norm_weight": (norm_weight, (hidden,)),
        "gate_weight": (gate_weight, (channels,)),
    }
    sizes |= {f"weights[{n}]": (weight, (channels, hidden)) for n, weight in enumerate(weights)}
    sizes |= {"state": (state, (batch, channels)), "out_weight": (out_weight, (hidden, channels))}
    check_shapes("mixer_step", sizes if lower_bound is None else {**sizes, "lower_bound": (lower_bound, (channels,))})
    if state.dtype != state_dtype(x):
        raise ValueError(f"mixer_step: state must be {state_dtype(x)}, got {state.dtype}")
    if backend == "triton":
        i, f, g, out = as_multiplied(*weights, out_weight)
        if fits_row(x, i, f, g, out):
            early = are_constant(norm_weight, gate_weight, i, f, g, out)
            norms = gate_weight, gate_eps, state, lower_bound
            return _mixer_row(x, norm_weight, eps, [i, f, g], *norms, out, early)
    ifg, _ = add_norm_linear(x, None, norm_weight, eps, weights, backend)
    y, state = hgrn_step(ifg, gate_weight, gate_eps, state, lower_bound, backend)
    return x + F.linear(y, out_weight), state


@operator("lt25::mixer_step_row")
def _mixer_row(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    gate_weight: Tensor,
    gate_eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    out_weight: Tensor,
    early: bool,
) -> tuple[Tensor, Tensor]:
    return kernels("triton", "row").mixer_step(
        x, norm_weight, eps, weights, gate_weight, gate_eps, state, lower_bound, out_weight, early
    )


@_mixer_row.register_fake
def _(x, norm_weight, eps, weights, gate_weight, gate_eps, state, lower_bound, out_weight, early):
    return torch.empty_like(x), torch.empty_like(state)


def mlp_step(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    backend: str | None = None,
) -> Tensor:
    """Norm and :func:`lt25.ops.gated_mlp`, whose result joins the residual stream.

    Args:
        x: float [..., H], the residual stream.
        norm_weight: float [H].
        eps: added to the mean square.
        gate_weight: float [I, H].
        up_weight: float [I, H].
        down_weight: float [H, I].
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        The residual stream after it, [..., H] in x's dtype.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("mlp_step", x, backend)
    weights = gate_weight, up_weight, down_weight
    hidden, inner = x.shape[-1], len(gate_weight)
    sizes = {"norm_weight": (norm_weight, (hidden,)), "gate_weight": (gate_weight, (inner, hidden))}
    sizes |= {"up_weight": (up_weight, (inner, hidden)), "down_weight": (down_weight, (hidden, inner))}
    check_shapes("mlp_step", sizes)
    if backend == "triton":
        multiplied = as_multiplied(*weights)
        if fits_row(x, *multiplied):
            return _mlp_row(x, norm_weight, eps, *multiplied, are_constant(norm_weight, *multiplied))
    gate_up, _ = add_norm_linear(x, None, norm_weight, eps, (gate_weight, up_weight), backend)
    return x + swiglu_linear(gate_up, down_weight, backend)


@operator("lt25::mlp_step_row")
def _mlp_row(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    early: bool,
) -> Tensor:
    return kernels("triton", "row").mlp_step(x, norm_weight, eps, gate_weight, up_weight, down_weight, early)


@_mlp_row.register_fake
def _(x, norm_weight, eps, gate_weight, up_weight, down_weight, early):
    return torch.empty_like(x)
