"""Products fused with the operations before, after or between them, beside the same operations one by one.

    python benchmarks/products.py

Milliseconds of the GPU in bfloat16, forward and forward with backward, timed like benchmarks/layer.py, at the sizes of the two
networks of benchmarks/step.py: rows, hidden size, width of the MLP. "mlp" is the gated MLP, "norm" the sum with the residual, its
RMS norm and the three projections behind it; "apart" is F.linear with this package's own kernels between.
"""

from collections.abc import Callable

import device
import torch
import torch.nn.functional as F
from device import Set, both, errors, forward, microseconds
from torch import Tensor

from lt25.ops import add_norm_linear, add_rms_norm, gated_mlp, swiglu

EPS = 1e-6
SIZES = {"mnist": (100352, 64, 256), "asr": (48000, 256, 768)}


def leaf(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device="cuda") * scale).bfloat16().requires_grad_()


def mlp_inputs(rows: int, hidden: int, width: int) -> Set:
    shapes = (width, hidden), (width, hidden), (hidden, width)
    weights = (leaf(*shape, scale=shape[1] ** -0.5) for shape in shapes)
    return (leaf(rows, hidden), *weights), (leaf(rows, hidden).detach(),)


def mlp_apart(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(swiglu(F.linear(x, torch.cat((gate, up)))), down)


def mlp_torch(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def norm_inputs(rows: int, hidden: int, width: int) -> Set:
    weights = (leaf(hidden, hidden, scale=hidden**-0.5) for _ in range(3))
    norm_weight = torch.ones(hidden, device="cuda", requires_grad=True)
    grads = leaf(rows, 3 * hidden).detach(), leaf(rows, hidden).detach()
    return (leaf(rows, hidden), leaf(rows, hidden), norm_weight, *weights), grads


def norm_together(x: Tensor, residual: Tensor, norm_weight: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    return add_norm_linear(x, residual, norm_weight, EPS, weights)


def norm_apart(x: Tensor, residual: Tensor, norm_weight: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, EPS)
    return F.linear(normed, torch.cat(weights)), total


def norm_torch(x: Tensor, residual: Tensor, norm_weight: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.linear(F.rms_norm(total, norm_weight.shape, norm_weight, EPS), torch.cat(weights)), total


# What, which way, the call, the same in plain torch, and its inputs at a size.
CASES: tuple[tuple[str, str, Callable, Callable, Callable[..., Set]], ...] = (
    ("mlp", "together", gated_mlp, mlp_torch, mlp_inputs),
    ("mlp", "apart", mlp_apart, mlp_torch, mlp_inputs),
    ("norm", "together", norm_together, norm_torch, norm_inputs),
    ("norm", "apart", norm_apart, norm_torch, norm_inputs),
)


def main() -> None:
    device.need_cuda()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for network, size in SIZES.items():
        for what, way, call, reference, make in CASES:
            first = make(*size)
            needed = device.sets_needed(sum(each.nbytes for part in first for each in part))
            sets = [first, *(make(*size) for _ in range(needed - 1))]
            there, whole = (microseconds(run, call, sets)[0] / 1e3 for run in (forward, both))
            off = "results off by {:.1e}, gradients by {:.1e}".format(*errors(call, reference, first))
            print(
                f"{network} {size}: {what:4} {way:8} forward {there:.4f} ms, with backward {whole:.4f} ms, {off}",
                flush=True,
            )


if __name__ == "__main__":
    main()
