"""An HGRN layer without its matrix products, beside the same assembled from flash-linear-attention's modules.

    python benchmarks/layer.py [--json FILE] [--markdown] [--seconds 240] [--shapes 0,4]

"mix" is what lies between the projections: gates with a learnable lower bound, scan, gated RMS norm, from bfloat16
pre-activations; FLA's as in fla.layers.hgrn.HGRNAttention (logsigmoid and logaddexp with the bound, swiglu, chunk_hgrn,
FusedRMSNormGated). "swiglu" is the activation of the MLP at width D, "norm" the sum with the residual and its RMS norm.

Milliseconds of the GPU, forward and forward with backward: the median of replays of a CUDA graph of many calls, in turn over
inputs that together exceed the L2 cache four times; "calls" marks what could not be captured and was timed back to back.
Percent of copy bandwidth counts, for everyone, the bytes that ours must move for an element: mix 12 forward and 34 in all,
swiglu 6 and 16, norm 8 and 16. "times faster" is FLA's time over the row's. The errors are relative, in the 2-norm, of the
results and of the gradients (the largest), to the same in float64 from the same inputs.
"""

from collections.abc import Callable
from typing import Any

import device
import torch
import torch.nn.functional as F
from device import Report, Set, both, errors, forward, microseconds, scan64
from torch import Tensor

from lt25.compiling import time_briefly
from lt25.ops import add_rms_norm, hgrn_mix, swiglu

EPS = 1e-6
COLUMNS = {
    "what": "",
    "B, T, D": "",
    "fwd ms": ".4f",
    "fwd % of copy": ".1f",
    "fwd times faster": ".2f",
    "fwd+bwd ms": ".4f",
    "fwd+bwd % of copy": ".1f",
    "fwd+bwd times faster": ".2f",
    "error": ".1e",
    "error grads": ".1e",
    "timed": "",
}
# Bytes an element, forward and in all, that ours must move.
BYTES = {"mix": (12, 34), "swiglu": (6, 16), "norm": (8, 16)}


def leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()


def grad(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def mix_inputs(shape: tuple[int, int, int], joint: bool) -> Set:
    """i, f and g [B, T, D] (one tensor if joint), the weight of the norm and the lower bound, float32 [D]."""
    batch, time, channels = shape
    ifg = torch.randn(batch, time, 3 * channels, device="cuda").to(torch.bfloat16)
    weight = (1 + 0.1 * torch.randn(channels, device="cuda")).requires_grad_()
    bound = (0.1 + 0.8 * torch.rand(channels, device="cuda")).requires_grad_()
    parts = (ifg,) if joint else ifg.chunk(3, -1)
    parts = tuple(part.clone(memory_format=torch.contiguous_format).requires_grad_() for part in parts)
    return (*parts, weight, bound), (grad(*shape),)


def mix_ours(ifg: Tensor, weight: Tensor, bound: Tensor) -> Tensor:
    return hgrn_mix(ifg, weight, EPS, bound)[0]


def mix_fla(i: Tensor, f: Tensor, g: Tensor, weight: Tensor, bound: Tensor) -> Tensor:
    from fla.modules.activations import swiglu as fla_swiglu
    from fla.modules.norm.fused_norm_gate import rms_norm_gated
    from fla.ops.hgrn import chunk_hgrn

    f = F.logsigmoid(f)
    f = torch.logaddexp(bound.log(), torch.log1p(-bound) + f).to(f)
    h, _ = chunk_hgrn(fla_swiglu(i, 1 - f.exp()), f)
    return rms_norm_gated(x=h, g=g, weight=weight, bias=None, activation="swish", eps=EPS)


def mix64(*arguments: Tensor) -> Tensor:
    """In float64, of either's arguments."""
    *parts, weight, bound = arguments
    i, f, g = parts if len(parts) == 3 else parts[0].chunk(3, -1)
    take = (1 - bound) * torch.sigmoid(-f)
    h = scan64(F.silu(i) * take, torch.log1p(-take))
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + EPS) * weight * F.silu(g)


def swiglu_fla(gate: Tensor, up: Tensor) -> Tensor:
    from fla.modules.activations import swiglu as fla_swiglu

    return fla_swiglu(gate, up)


def swiglu_torch(*arguments: Tensor) -> Tensor:
    gate, up = arguments if len(arguments) == 2 else arguments[0].chunk(2, -1)
    return F.silu(gate) * up


def norm_ours(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return add_rms_norm(x, residual, weight, EPS)


def norm_fla(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    from fla.modules.norm.layernorm import rms_norm

    return rms_norm(x, weight, None, residual=residual, eps=EPS, prenorm=True)


def norm_torch(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.rms_norm(total, weight.shape, weight.to(x.dtype), EPS), total


def norm_inputs(shape: tuple[int, int, int]) -> Set:
    return (leaf(*shape), leaf(*shape), leaf(shape[-1], dtype=torch.float32)), (grad(*shape), grad(*shape))


def swiglu_inputs(shape: tuple[int, int, int], joint: bool) -> Set:
    batch, time, channels = shape
    parts = (leaf(batch, time, 2 * channels),) if joint else (leaf(*shape), leaf(*shape))
    return parts, (grad(*shape),)


# Which operation, whose, how it is called, what it is compared with, and its inputs at a shape.
Case = tuple[str, str, Callable, Callable, Callable[[tuple[int, int, int]], Set]]
CASES: tuple[Case, ...] = (
    ("mix", "lt25", mix_ours, mix64, lambda shape: mix_inputs(shape, True)),
    ("swiglu", "lt25", swiglu, swiglu_torch, lambda shape: swiglu_inputs(shape, True)),
    ("norm", "lt25", norm_ours, norm_torch, norm_inputs),
    ("swiglu", "torch", swiglu_torch, swiglu_torch, lambda shape: swiglu_inputs(shape, False)),
    ("norm", "torch", norm_torch, norm_torch, norm_inputs),
    ("mix", "FLA", mix_fla, mix64, lambda shape: mix_inputs(shape, False)),
    ("swiglu", "FLA", swiglu_fla, swiglu_torch, lambda shape: swiglu_inputs(shape, False)),
    ("norm", "FLA", norm_fla, norm_torch, norm_inputs),
)


def measure(report: Report, ceiling: float, shape: tuple[int, int, int], case: Case) -> None:
    """Add a row, or say why there is none."""
    operation, whose, call, reference, make = case
    what = f"{operation}, {whose}"
    if report.left() < 8:
        report.note(f"left out for want of time: {what} at {shape}")
        return
    try:
        torch.manual_seed(0)
        first = make(shape)
        size = sum(each.nbytes for part in first for each in part)
        sets = [first, *(make(shape) for _ in range(device.sets_needed(size) - 1))]
        entry: dict[str, Any] = {"what": what, "B, T, D": ", ".join(map(str, shape))}
        timed = []
        for name, run, each in zip(("fwd", "fwd+bwd"), (forward, both), BYTES[operation], strict=True):
            spent, how = microseconds(run, call, sets)
            entry[f"{name} ms"] = spent / 1e3
            entry[f"{name} % of copy"] = 100 * each * first[1][0].numel() / (spent * 1e-6) / ceiling
            timed.append(how)
        entry["timed"] = ", ".join(dict.fromkeys(timed))
        del sets
        entry["error"], entry["error grads"] = errors(call, reference, first)
        report.add(**entry)
    except Exception as error:
        report.note(f"failed: {what} at {shape}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
    torch.cuda.empty_cache()


def ratios(report: Report) -> None:
    """Fill in how many times faster than FLA each row is, and print ours."""
    base = {(row["what"].split(",")[0], row["B, T, D"]): row for row in report.rows if row["what"].endswith("FLA")}
    for row in report.rows:
        operation, whose = row["what"].split(", ")
        fla = base.get((operation, row["B, T, D"]))
        if fla is None:
            continue
        for part in ("fwd", "fwd+bwd"):
            row[f"{part} times faster"] = fla[f"{part} ms"] / row[f"{part} ms"]
        if whose == "lt25":
            fwd, whole = row["fwd times faster"], row["fwd+bwd times faster"]
            report.note(f"{operation} at {row['B, T, D']}: {fwd:.2f} times as fast as FLA forward, {whole:.2f} in all")


def compile_one(whose: str, n: int) -> None:
    """Compile the kernels that are timed later; of FLA's kernels all configurations, at a smaller shape where only D matters."""
    device.tune_quickly()
    shape = device.SHAPES[n]
    for _, owner, call, _, make in CASES:
        if owner == whose:
            both(call, *make(shape))
    torch.cuda.synchronize()


def main() -> None:
    options = device.parser(__doc__, 240).parse_args()
    device.need_cuda()
    if options.compile:
        compile_one(options.compile[0], int(options.compile[1]))
        return

    report = Report(options, COLUMNS)
    numbers = device.numbers(options)
    whose = [(name, n) for name in ("lt25", "FLA") for n in numbers]
    if not options.compiled:
        device.compile_beforehand(whose, min(90, options.seconds / 3), report)
    time_briefly()
    ceiling, way = device.copy_ceiling()
    report.note(f"copy ceiling {ceiling / 1e12:.3f} TB/s read and written, 1 GiB by {way}")
    for mine in (True, False):
        for n in numbers:
            for case in CASES:
                if (case[1] != "FLA") == mine:
                    measure(report, ceiling, device.SHAPES[n], case)
    ratios(report)
    report.finish()


if __name__ == "__main__":
    main()
