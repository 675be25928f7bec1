"""The halves of an HGRN layer over one step, for generation: each is all that stands between two norms of the residual stream."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import are_constant, as_multiplied, choose, fits_row, kernels, sum_dtype
from lt25.ops.linear import add_norm_linear
from lt25.ops.mlp import swiglu_linear
from lt25.ops.operator import operator
from lt25.ops.step import hgrn_step


def mixer_step(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    gate_weight: Tensor,
    gate_eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    out_weight: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`lt25.ops.add_norm_linear`, :func:`lt25.ops.hgrn_step` and a product. It has no gradient.

    Args:
        x: float [B, H], the branch before.
        residual: float [B, H], or None for 0.
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
        What is mixed, [B, H] in the dtype of :func:`torch.nn.functional.linear` (autocast's under autocast); x + residual [B, H]
        in the wider of both dtypes; the new state [B, D] in the state's dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit together, an unknown backend.
    """
    backend = choose("mixer_step", x, backend)
    if backend == "triton":
        i, f, g, out = as_multiplied(*weights, out_weight)
        if fits_row(x, residual, i, f, g, out):
            early = are_constant(norm_weight, gate_weight, *weights, out_weight)
            given = x, residual, norm_weight, eps, [i, f, g], gate_weight, gate_eps, state, lower_bound, out, early
            return _mixer_row(*given)
    ifg, total = add_norm_linear(x, residual, norm_weight, eps, weights, backend)
    y, state = hgrn_step(ifg, gate_weight, gate_eps, state, lower_bound, backend)
    return F.linear(y, out_weight), total, state


@operator("lt25::mixer_step_row")
def _mixer_row(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    gate_weight: Tensor,
    gate_eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    out_weight: Tensor,
    early: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return kernels("triton", "row").mixer_step(
        x, residual, norm_weight, eps, weights, gate_weight, gate_eps, state, lower_bound, out_weight, early
    )


@_mixer_row.register_fake
def _(x, residual, norm_weight, eps, weights, gate_weight, gate_eps, state, lower_bound, out_weight, early):
    y = x.new_empty(*x.shape[:-1], len(out_weight))
    return y, x.new_empty(x.shape, dtype=sum_dtype(x, residual)), torch.empty_like(state)


def mlp_step(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`lt25.ops.add_rms_norm` and :func:`lt25.ops.gated_mlp`.

    Args:
        x: float [..., H], the branch before.
        residual: float [..., H], or None for 0.
        norm_weight: float [H].
        eps: added to the mean square.
        gate_weight: float [I, H].
        up_weight: float [I, H].
        down_weight: float [H, I].
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        The MLP's result [..., H], in the dtype of :func:`torch.nn.functional.linear` (autocast's under autocast); x + residual
        [..., H] in the wider of both dtypes.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend.
    """
    backend = choose("mlp_step", x, backend)
    weights = gate_weight, up_weight, down_weight
    if backend == "triton":
        multiplied = as_multiplied(*weights)
        if fits_row(x, residual, *multiplied):
            return _mlp_row(x, residual, norm_weight, eps, *multiplied, are_constant(norm_weight, *weights))
    gate_up, total = add_norm_linear(x, residual, norm_weight, eps, (gate_weight, up_weight), backend)
    return swiglu_linear(gate_up, down_weight, backend), total


@operator("lt25::mlp_step_row")
def _mlp_row(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    early: bool,
) -> tuple[Tensor, Tensor]:
    return kernels("triton", "row").mlp_step(x, residual, norm_weight, eps, gate_weight, up_weight, down_weight, early)


@_mlp_row.register_fake
def _(x, residual, norm_weight, eps, gate_weight, up_weight, down_weight, early):
    return x.new_empty(*x.shape[:-1], len(down_weight)), x.new_empty(x.shape, dtype=sum_dtype(x, residual))
