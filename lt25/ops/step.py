"""One step of :func:`lt25.ops.hgrn_mix`, for generation and streaming."""

from torch import Tensor

from lt25.ops.backends import choose, kernels, reference, state_dtype
from lt25.ops.operator import operator


def hgrn_step(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    state: Tensor,
    lower_bound: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute one token or frame: :func:`lt25.ops.hgrn_mix` over one step, up to rounding. It has no gradient.

    Args:
        ifg: float [B, 3 D], the pre-activations i | f | g along the last axis.
        weight: float [D], the weight of the norm.
        eps: added to the mean square in the norm.
        state: [B, D], float32 (float64 if ifg is).
        lower_bound: float [D] in [0, 1), or None for 0.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        y [B, D] in ifg's dtype; the new state [B, D] in the state's dtype.

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
    if backend == "reference":
        y, state = reference.mix(ifg[:, None], weight, eps, lower_bound, None, state, None, False)
        return y[:, 0], state.to(state_dtype(ifg))
    return _step(ifg, weight, eps, state, lower_bound, backend)


@operator("lt25::hgrn_step")
def _step(
    ifg: Tensor, weight: Tensor, eps: float, state: Tensor, lower_bound: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    return kernels(backend, "step").forward(ifg, weight, eps, state, lower_bound)


@_step.register_fake
def _(ifg, weight, eps, state, lower_bound, backend):
    return ifg.new_empty(state.shape), state.new_empty(state.shape)
