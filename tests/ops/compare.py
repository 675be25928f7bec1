"""Comparison of a backend with the float64 reference: one description of the cases for all backends and devices.

A case is drawn by a function `draw(low, high)` that gives an integer in that range: Hypothesis' own on the CPU, that of a
seeded random generator on a GPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lt25.ops import (
    add_norm_linear,
    add_rms_norm,
    causal_conv,
    gated_mlp,
    hgrn_mix,
    hgrn_scan,
    hgrn_step,
    mixer_step,
    mlp_step,
    selective_scan,
    short_conv,
    ssd_scan,
    swiglu,
    swiglu_linear,
)

Draw = Callable[[int, int], int]

# Relative to the largest element of a result, with room for the rounding of tensors saved for the backward pass.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
# A GPU computes exponentials and reciprocals to 2**-22. The backward pass through a norm of two or three channels, a small
# difference of large numbers, turns that into up to 1e-4.
ON_CUDA = {**TOLERANCE, torch.float32: 2e-4}


class Sizes(NamedTuple):
    """The largest case."""

    batch: int
    time: int
    channels: int


class Case(NamedTuple):
    """A call of an operator: its tensors in float64, which of them need gradients, and its other arguments."""

    operator: Callable
    tensors: dict[str, Tensor]
    options: dict[str, Any]


def scan_case(draw: Draw, sizes: Sizes) -> Case:
    """Packed or not, with and without a state, in both directions; some gates keep or clear the state exactly."""
    random = _generator(draw)
    shape, sequences, options = _sequences(draw, sizes)
    shape = (*shape, draw(1, sizes.channels))
    log_f = torch.rand(shape, generator=random, dtype=torch.float64).log() * (0.01 if draw(0, 1) else 1.0)
    if draw(0, 1):
        dice = torch.rand(shape, generator=random)
        log_f = log_f.masked_fill(dice < 0.1, 0.0).masked_fill(dice > 0.9, -1e4)
    tensors = {"x": _normal(random, *shape), "log_f": log_f}
    if draw(0, 1):
        tensors["initial_state"] = _normal(random, sequences, shape[-1])
    return Case(hgrn_scan, tensors, {**options, "reverse": bool(draw(0, 1)), "output_final_state": True})


def mix_case(draw: Draw, sizes: Sizes) -> Case:
    """As `scan_case`, with and without a mask and lower bounds, one way or both, with a product after it or none."""
    random = _generator(draw)
    shape, sequences, options = _sequences(draw, sizes)
    options["bidirectional"] = bool(draw(0, 1))
    channels = draw(1, sizes.channels // 2) * 2 if options["bidirectional"] else draw(1, sizes.channels)
    product = draw(0, 2)
    if product == 1:
        # Of a size that fused kernels take.
        channels = 16 << draw(0, 2)
    tensors = {
        "ifg": _normal(random, *shape, 3 * channels) * (1, 3, 30)[draw(0, 2)],
        "weight": _normal(random, channels),
    }
    if draw(0, 1):
        tensors["lower_bound"] = torch.rand(channels, generator=random, dtype=torch.float64)
    if draw(0, 1):
        tensors["initial_state"] = _normal(random, sequences, channels)
    if product:
        tensors["out_weight"] = _normal(random, *_outs(draw, product == 1), channels) / channels**0.5
    options["mask"] = _mask(draw, random, shape)
    return Case(hgrn_mix, tensors, {**options, "eps": 1e-5, "output_final_state": True})


def conv_case(draw: Draw, sizes: Sizes) -> Case:
    """Packed or not, with and without a mask, one way or both, over one step to six."""
    random = _generator(draw)
    shape, _, options = _sequences(draw, sizes)
    options["bidirectional"] = bool(draw(0, 1))
    channels = draw(1, sizes.channels // 2) * 2 if options["bidirectional"] else draw(1, sizes.channels)
    tensors = {"ifg": _normal(random, *shape, 3 * channels), "weight": _normal(random, 2 * channels, draw(1, 6))}
    options["mask"] = _mask(draw, random, shape)
    return Case(short_conv, tensors, options)


def causal_case(draw: Draw, sizes: Sizes) -> Case:
    """Of some columns of a wider matrix, packed or not, with and without a bias and SiLU, over one step to six."""
    random = _generator(draw)
    shape, _, options = _sequences(draw, sizes)
    channels, before, after = draw(1, sizes.channels), draw(0, 1) * draw(0, 16), draw(0, 9)
    tensors = {
        "x": _normal(random, *shape, before + channels + after),
        "weight": _normal(random, channels, draw(1, 6)),
    }
    if draw(0, 1):
        tensors["bias"] = _normal(random, channels)
    return Case(_causal_conv, tensors, {**options, "before": before, "silu": bool(draw(0, 3))})


def _causal_conv(x: Tensor, weight: Tensor, before: int, **others) -> Tensor:
    """Of the columns that begin there."""
    return causal_conv(x[..., before : before + len(weight)], weight, **others)


def selective_case(draw: Draw, sizes: Sizes) -> Case:
    """Packed or not, with and without a gate, with one state of each channel or several."""
    random = _generator(draw)
    shape, _, options = _sequences(draw, sizes)
    channels, states = draw(1, sizes.channels), (1, 3, 16)[draw(0, 2)]
    tensors = {
        "x": _normal(random, *shape, channels),
        "dt": _normal(random, *shape, channels) * 2,
        "A": -torch.rand(channels, states, generator=random, dtype=torch.float64) * (1, 16)[draw(0, 1)],
        "B": _normal(random, *shape, states),
        "C": _normal(random, *shape, states),
        "D": _normal(random, channels),
        "dt_bias": _normal(random, channels) - draw(0, 5),
    }
    if draw(0, 1):
        tensors["z"] = _normal(random, *shape, channels)
    return Case(selective_scan, tensors, options)


def ssd_case(draw: Draw, sizes: Sizes) -> Case:
    """Several chunks, heads that share B and C or do not, and widths that products have no tiles of."""
    random = _generator(draw)
    shape = draw(1, sizes.batch), draw(1, 6 * sizes.time)
    groups, shared = draw(1, 2), draw(1, 3)
    # As models have them, or anything.
    size, states = (64, 128) if draw(0, 2) == 0 else (draw(1, 20), draw(1, min(sizes.channels, 128)))
    heads = groups * shared
    tensors = {
        "xBC": _normal(random, *shape, heads * size + 2 * groups * states),
        "dt": torch.rand(*shape, heads, generator=random, dtype=torch.float64),
        "log_decay": -torch.rand(*shape, heads, generator=random, dtype=torch.float64) * (0.1, 10)[draw(0, 1)],
        "D": _normal(random, heads, size),
    }
    return Case(ssd_scan, tensors, {"groups": groups})


def swiglu_case(draw: Draw, sizes: Sizes) -> Case:
    """One to three axes."""
    random = _generator(draw)
    shape = _rows(draw, sizes)
    return Case(swiglu, {"gate_up": _normal(random, *shape, 2 * draw(1, sizes.channels)) * (1, 30)[draw(0, 1)]}, {})


def gated_mlp_case(draw: Draw, sizes: Sizes) -> Case:
    """Half of them of sizes that fused kernels take: some in several chunks of the width, the last of them not full."""
    random = _generator(draw)
    unit, most = (16, 8) if draw(0, 1) else (1, sizes.channels)
    hidden, width = unit * draw(1, min(most, sizes.channels)), unit * draw(1, 2 * min(most, sizes.channels))
    tensors = {
        "x": _normal(random, *_rows(draw, sizes), hidden) * (1, 10)[draw(0, 1)],
        "gate_weight": _normal(random, width, hidden) / hidden**0.5,
        "up_weight": _normal(random, width, hidden) / hidden**0.5,
        "down_weight": _normal(random, hidden, width) / width**0.5,
    }
    return Case(gated_mlp, tensors, {})


def add_rms_norm_case(draw: Draw, sizes: Sizes) -> Case:
    """With and without a residual."""
    random = _generator(draw)
    shape = (*_rows(draw, sizes), draw(1, sizes.channels))
    tensors = {"x": _normal(random, *shape), "weight": _normal(random, shape[-1])}
    residual = {"residual": _normal(random, *shape)} if draw(0, 1) else {}
    return Case(add_rms_norm, {**tensors, **residual}, {"eps": 1e-5, **({} if residual else {"residual": None})})


def add_norm_linear_case(draw: Draw, sizes: Sizes) -> Case:
    """As `add_rms_norm_case`; half of them of sizes that fused kernels take."""
    random = _generator(draw)
    fused = bool(draw(0, 1))
    channels = 16 << draw(0, 2) if fused else draw(1, sizes.channels)
    outs = _outs(draw, fused)
    shape = (*_rows(draw, sizes), channels)
    tensors = {"x": _normal(random, *shape), "norm_weight": _normal(random, channels)}
    residual = {"residual": _normal(random, *shape)} if draw(0, 1) else {}
    weights = {f"weights {n}": _normal(random, *outs, channels) / channels**0.5 for n in range(draw(1, 3))}
    return Case(
        _add_norm_linear, {**tensors, **residual, **weights}, {"eps": 1e-5, **({} if residual else {"residual": None})}
    )


def _add_norm_linear(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, backend: str | None = None, **weights: Tensor
) -> tuple[Tensor, Tensor]:
    """With each of the weights an argument of its own."""
    return add_norm_linear(x, residual, norm_weight, eps, list(weights.values()), backend=backend)


def _outs(draw: Draw, fused: bool) -> tuple[int]:
    """Rows of a weight."""
    return (16 * draw(1, 4) if fused else draw(1, 40),)


def swiglu_linear_case(draw: Draw, sizes: Sizes) -> Case:
    """One to three axes."""
    random = _generator(draw)
    width = draw(1, 2 * sizes.channels)
    tensors = {
        "gate_up": _normal(random, *_rows(draw, sizes), 2 * width),
        "down_weight": _normal(random, draw(1, sizes.channels), width) / width**0.5,
    }
    return Case(_swiglu_linear, tensors, {})


def _swiglu_linear(gate_up: Tensor, down_weight: Tensor, backend: str | None = None) -> Tensor:
    return swiglu_linear(gate_up, down_weight, backend)


def mlp_step_case(draw: Draw, sizes: Sizes) -> Case:
    """A single row, all of one precision, or several."""
    random = _generator(draw)
    hidden, width = draw(1, sizes.channels), draw(1, 2 * sizes.channels)
    shape = (*((), (1,), (1, 1), (2, 3))[draw(0, 3)], hidden)
    tensors = {
        "x": _normal(random, *shape),
        "norm_weight": _normal(random, hidden),
        "gate_weight": _normal(random, width, hidden) / hidden**0.5,
        "up_weight": _normal(random, width, hidden) / hidden**0.5,
        "down_weight": _normal(random, hidden, width) / width**0.5,
    }
    return Case(mlp_step, tensors, {"eps": 1e-5})


def mixer_step_case(draw: Draw, sizes: Sizes) -> Case:
    """Of one or several sequences, with and without lower bounds."""
    random = _generator(draw)
    batch, hidden, channels = draw(1, 2), draw(1, sizes.channels), draw(1, sizes.channels)
    tensors = {
        "x": _normal(random, batch, hidden) * (1, 30)[draw(0, 1)],
        "norm_weight": _normal(random, hidden),
        **{f"{name}_weight": _normal(random, channels, hidden) / hidden**0.5 for name in "ifg"},
        "gate_weight": _normal(random, channels),
        "state": _normal(random, batch, channels),
        "out_weight": _normal(random, hidden, channels) / channels**0.5,
    }
    if draw(0, 1):
        tensors["lower_bound"] = torch.rand(channels, generator=random, dtype=torch.float64)
    return Case(_mixer_step, tensors, {"eps": 1e-5, "gate_eps": 1e-4})


def _mixer_step(
    i_weight: Tensor,
    f_weight: Tensor,
    g_weight: Tensor,
    lower_bound: Tensor | None = None,
    **others,
) -> tuple[Tensor, Tensor]:
    """With each of the weights an argument of its own."""
    return mixer_step(weights=[i_weight, f_weight, g_weight], lower_bound=lower_bound, **others)


def step_case(draw: Draw, sizes: Sizes) -> Case:
    """With and without lower bounds."""
    random = _generator(draw)
    batch, channels = draw(1, sizes.batch), draw(1, sizes.channels)
    tensors = {
        "ifg": _normal(random, batch, 3 * channels) * (1, 30)[draw(0, 1)],
        "weight": _normal(random, channels),
        "state": _normal(random, batch, channels),
    }
    if draw(0, 1):
        tensors["lower_bound"] = torch.rand(channels, generator=random, dtype=torch.float64)
    return Case(hgrn_step, tensors, {"eps": 1e-5})


CASES = {
    "hgrn_scan": scan_case,
    "hgrn_mix": mix_case,
    "short_conv": conv_case,
    "swiglu": swiglu_case,
    "gated_mlp": gated_mlp_case,
    "add_rms_norm": add_rms_norm_case,
    "add_norm_linear": add_norm_linear_case,
    "swiglu_linear": swiglu_linear_case,
    "hgrn_step": step_case,
    "mixer_step": mixer_step_case,
}
COMPOSED = {
    **CASES,
    "mlp_step": mlp_step_case,
    "causal_conv": causal_case,
    "selective_scan": selective_case,
    "ssd_scan": ssd_case,
}
"""Those of the operators, and of some that have no kernel of their own for a CPU."""
_WITHOUT_GRADIENTS = (hgrn_step, _mixer_step, mlp_step)
# What keeps its precision beside inputs of half precision.
_KEPT_WIDE = {"A", "D", "dt_bias", "initial_state", "state", "lower_bound", "weight", "norm_weight", "residual"}


def check(case: Case, backend: str, dtype: torch.dtype, device: str = "cpu") -> None:
    """A backend's results and gradients are the reference's, in its dtypes, and the same bits in a second run.

    Memory that is handed out uninitialised holds NaN, so that what a kernel fails to write does not go unseen; arguments
    may not change.
    """
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {name: each.to(wide if name in _KEPT_WIDE else dtype) for name, each in case.tensors.items()}
    expected = _outcome(case, tensors, "reference", "cpu")
    first, second = (_outcome(case, tensors, backend, device) for _ in range(2))
    for name, reference in expected.items():
        found = first[name]
        assert found.dtype == reference.dtype and found.shape == reference.shape, (
            f"{name}: {found.dtype}, {found.shape}"
        )
        assert torch.equal(found, second[name]), f"{name}: other bits in the second run"
        if reference.numel():
            # 1, because the backward pass through a norm of few channels is a small difference of numbers of that size.
            scale = 1 + reference.double().abs().max()
            error = ((found.double() - reference.double()).abs().max() / scale).item()
            assert error <= (ON_CUDA if device == "cuda" else TOLERANCE)[dtype], (
                f"{name}: off by {error:.1e} of the largest element"
            )


def poison(device: str) -> None:
    """Fill freed memory with NaN; the caching allocator gives it to the next allocations."""
    if device == "cpu":
        return
    # Below 1 MiB and above it memory comes from different pools, and is cut from segments of 2 MiB and of 20 MiB or more.
    # Small ones first: they fill the remainders of segments in use, which others would not fit into. Of each size there are so
    # many that they fill new segments to the end.
    sizes = [2**7] * 8192 + [2**17] * 64 + [2**20] * 20 + [2**26]
    freed = [torch.full((size,), torch.nan, device=device) for size in sizes]
    del freed


def _outcome(case: Case, tensors: dict[str, Tensor], backend: str, device: str) -> dict[str, Tensor]:
    """All results, and the gradients of all tensors, on the CPU."""
    differentiable = case.operator not in _WITHOUT_GRADIENTS
    placed = {name: each.to(device, copy=True).requires_grad_(differentiable) for name, each in tensors.items()}
    options = {k: v.to(device, copy=True) if isinstance(v, Tensor) else v for k, v in case.options.items()}
    poison(device)
    results = case.operator(**placed, **options, backend=backend)
    results = (results,) if isinstance(results, Tensor) else results
    outcome = {f"result {n}": each for n, each in enumerate(results)}
    if differentiable:
        random = torch.Generator().manual_seed(len(results))
        upstream = [_normal(random, *each.shape).to(device, each.dtype) for each in results]
        # Without a single step the reference has nothing that a result depends on.
        used = [n for n, each in enumerate(results) if each.requires_grad]
        poison(device)
        gradients = torch.autograd.grad(
            [results[n] for n in used], list(placed.values()), [upstream[n] for n in used], materialize_grads=True
        )
        outcome |= {f"gradient of {name}": each for name, each in zip(placed, gradients, strict=True)}
    assert all(torch.equal(placed[name].cpu(), each) for name, each in tensors.items()), "an argument was written on"
    return {name: each.detach().cpu() for name, each in outcome.items()}


def _generator(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw(0, 2**31 - 1))


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


def _sequences(draw: Draw, sizes: Sizes) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """[B, T], the number of sequences, and cu_seqlens if they are packed; some of these are empty."""
    if draw(0, 1):
        return (batch := draw(1, sizes.batch), draw(1, sizes.time)), batch, {}
    count = draw(1, 2 * sizes.batch)
    lengths = [draw(0, 2 * sizes.time // count) * draw(0, 3) // 3 for _ in range(count)]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0, dtype=(torch.int32, torch.int64)[draw(0, 1)])
    return (1, sum(lengths)), count, {"cu_seqlens": cu_seqlens}


def _rows(draw: Draw, sizes: Sizes) -> tuple[int, ...]:
    return ((draw(1, 2 * sizes.time),), (draw(1, sizes.batch), draw(1, sizes.time)), ())[draw(0, 2)]


def _mask(draw: Draw, random: torch.Generator, shape: tuple[int, int]) -> Tensor | None:
    """None, holes anywhere, or padding on the right or the left, of whole rows even."""
    kind = draw(0, 3)
    if kind == 0:
        return None
    if kind == 1:
        return torch.rand(shape, generator=random) < 0.7
    lengths = torch.randint(0, shape[1] + 1, (shape[0], 1), generator=random)
    mask = torch.arange(shape[1]) < lengths
    return mask if kind == 2 else mask.flip(1)
