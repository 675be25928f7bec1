"""One step of :func:`lt25.ops.hgrn_mix`, for generation and streaming."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import are_constant, as_multiplied, choose, fits_row, kernels, reference, state_dtype
from lt25.ops.operator import operator


def hgrn_step(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    state: Tensor,
    lower_bound: Tensor | None = None,
    out_weight: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute one token or frame: :func:`lt25.ops.hgrn_mix` over one step, up to rounding. It has no gradient.

    Args:
        ifg: float [B, 3 D], the pre-activations i | f | g along the last axis.
        weight: float [D], the weight of the norm.
        eps: added to the mean square in the norm.
        state: [B, D], float32 (float64 if ifg is).
        lower_bound: float [D] in [0, 1), or None for 0.
        out_weight: float [H, D], or None: what y is multiplied with.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        y [B, D] in ifg's dtype, or y @ out_weight^T [B, H] in that of :func:`torch.nn.functional.linear`; and the new state
        [B, D] in the state's dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit together, an unknown backend.
    """
    backend = choose("hgrn_step", ifg, backend)
    if ifg.ndim != 2 or weight.shape != (ifg.shape[1] // 3,) or state.shape != (ifg.shape[0], ifg.shape[1] // 3):
        raise ValueError(
            f"hgrn_step: ifg must be [B, 3 D], weight [D] and state [B, D], got {tuple(ifg.shape)}, "
            f"{tuple(weight.shape)} and {tuple(state.shape)}"
        )
    if state.dtype != state_dtype(ifg):
        raise ValueError(f"hgrn_step: state must be {state_dtype(ifg)}, got {state.dtype}")
    if lower_bound is not None and lower_bound.shape != weight.shape:
        raise ValueError(f"hgrn_step: lower_bound must be {tuple(weight.shape)}, got {tuple(lower_bound.shape)}")
    if out_weight is not None and out_weight.shape[1:] != weight.shape:
        raise ValueError(f"hgrn_step: out_weight must be [H, {len(weight)}], got {tuple(out_weight.shape)}")
    if backend == "reference":
        y, state = reference.mix(ifg[:, None], weight, eps, lower_bound, None, state, None, False, out_weight)
        return y[:, 0], state.to(state_dtype(ifg))
    if out_weight is not None and backend == "triton":
        values, multiplied = as_multiplied(ifg, out_weight)
        if fits_row(values, multiplied):
            return _row(values, weight, eps, state, lower_bound, multiplied, are_constant(weight, out_weight))
    y, state = _step(ifg, weight, eps, state, lower_bound, backend)
    return y if out_weight is None else F.linear(y, out_weight), state


@operator("lt25::hgrn_step_row")
def _row(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    out_weight: Tensor,
    early: bool,
) -> tuple[Tensor, Tensor]:
    return kernels("triton", "row").step_product(ifg, weight, eps, state, lower_bound, out_weight, early)


@_row.register_fake
def _(ifg, weight, eps, state, lower_bound, out_weight, early):
    return ifg.new_empty(1, out_weight.shape[0]), torch.empty_like(state)


@operator("lt25::hgrn_step")
def _step(
    ifg: Tensor, weight: Tensor, eps: float, state: Tensor, lower_bound: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    return kernels(backend, "step").forward(ifg, weight, eps, state, lower_bound)


@_step.register_fake
def _(ifg, weight, eps, state, lower_bound, backend):
    return ifg.new_empty(state.shape), state.new_empty(state.shape)
