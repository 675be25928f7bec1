"""CTC on a GPU, from logits to the gradient of the logits: this package's kernels, torch's own, and cuDNN's.

    python benchmarks/ctc.py [--json FILE]

Milliseconds, the median over runs that alternate between several inputs: forward with backward, and forward alone without
gradients. Each goes through log-softmax (cuDNN where it accepts the input: full lengths, blank 0, at most 255 labels, their
number known on the host). "graph" is the device's time alone, replayed from a CUDA graph. The error is the largest difference
of a gradient, from upstream 1, to torch's in float64. Below, the microseconds of each kernel of this package.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops import ctc_loss

# Name, B, T, V, L, and whether all utterances fill T frames and L labels; else every fourth has no labels.
SHAPES = (
    ("characters", 32, 1500, 39, 150, True),
    ("pieces", 32, 1500, 1024, 150, True),
    ("short", 16, 400, 32, 60, True),
    ("ragged", 32, 1500, 39, 150, False),
    ("large batch", 128, 800, 39, 100, True),
    ("long labels", 16, 1500, 39, 600, True),
    ("subwords", 8, 500, 32000, 60, True),
)
INPUTS = 4
RUNS = 40


def inputs(B: int, T: int, V: int, L: int, full: bool, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that know the labels about as well as half-trained ones do, lengths, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, V, (B, L), generator=generator)
    lengths = torch.full((B,), T)
    if not full:
        lengths = torch.randint(T // 2, T + 1, (B,), generator=generator)
        labels.masked_fill_(torch.arange(L) >= torch.randint(L // 3, L + 1, (B, 1), generator=generator), -100)
        labels[::4] = -100
    logits = torch.randn(B, T, V, generator=generator)
    spoken = labels.clamp_min(0).repeat_interleave(T // L + 1, 1)[:, :T, None]
    logits.scatter_add_(2, spoken, torch.full(spoken.shape, 3.0))
    return logits.to("cuda", dtype), lengths.cuda(), labels.cuda()


def native(logits: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """Torch's kernels."""
    log_probs = logits.log_softmax(-1, dtype=None if logits.dtype == torch.float64 else torch.float32).transpose(0, 1)
    counts = (labels != -100).sum(1)
    return F.ctc_loss(log_probs, labels.clamp_min(0), lengths, counts, reduction="sum", zero_infinity=True)


def cudnn(logits: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """cuDNN's; `lengths` and `labels` are int32 on the CPU, all utterances full."""
    log_probs = logits.log_softmax(-1, dtype=torch.float32).transpose(0, 1)
    counts = torch.full((labels.shape[0],), labels.shape[1], dtype=torch.int32)
    return F.ctc_loss(log_probs, labels.flatten(), lengths, counts, reduction="sum", zero_infinity=True)


def for_cudnn(logits: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return logits, lengths.int().cpu(), labels.int().cpu()


def gradient(loss: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> Tensor:
    logits = arguments[0].detach().requires_grad_()
    return torch.autograd.grad(loss(logits, *arguments[1:]), logits)[0]


def milliseconds(run: Callable[[tuple[Tensor, ...]], object], arguments: list[tuple[Tensor, ...]]) -> float:
    """The median over RUNS calls, after some to warm up."""
    times = []
    for index in range(5 + RUNS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run(arguments[index % len(arguments)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times[5:])


def graphed(loss: Callable[..., Tensor], arguments: list[tuple[Tensor, ...]]) -> float:
    """Milliseconds of forward and backward replayed from a CUDA graph."""
    gradient(loss, arguments[0])
    graphs = []
    for each in arguments:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gradient(loss, each)
        graphs.append((graph,))
    return milliseconds(lambda graph: graph[0].replay(), graphs)


def kernels(arguments: list[tuple[Tensor, ...]]) -> dict[str, float]:
    """Microseconds of each kernel in one forward and backward."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for each in arguments:
            gradient(ctc_loss, each)
        torch.cuda.synchronize()
    return {event.key: event.self_device_time_total / len(arguments) for event in profile.key_averages()}


def measure(name: str, loss: Callable[..., Tensor], arguments: list[tuple[Tensor, ...]], expected: Tensor) -> dict:
    with torch.no_grad():
        forward = milliseconds(lambda each: loss(*each), arguments)
    return {
        "kernels": name,
        "forward_backward_ms": milliseconds(lambda each: gradient(loss, each), arguments),
        "forward_ms": forward,
        "graph_ms": graphed(loss, arguments) if name == "lt25" else None,
        "error": (gradient(loss, arguments[0]).double() - expected).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    parser.add_argument("--shapes", default=",".join(shape[0] for shape in SHAPES), help="some only, by name")
    options = parser.parse_args()

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; milliseconds\n")
    titles = ("shape", "B", "T", "V", "L", "dtype", "kernels", "fwd+bwd", "graph", "fwd only", "error")
    layout = "{:<12} {:>4} {:>5} {:>6} {:>4} {:<9} {:<7} {:>8} {:>8} {:>8} {:>9}"
    print(layout.format(*titles))
    rows, parts = [], []
    for title, B, T, V, L, full in [shape for shape in SHAPES if shape[0] in options.shapes.split(",")]:
        for dtype in (torch.bfloat16, torch.float32):
            arguments = [inputs(B, T, V, L, full, dtype, seed) for seed in range(INPUTS)]
            expected = gradient(native, (arguments[0][0].double(), *arguments[0][1:]))
            contenders = [("lt25", ctc_loss, arguments), ("torch", native, arguments)]
            if full and L < 256 and V < 32000:
                contenders.append(("cuDNN", cudnn, [for_cudnn(*each) for each in arguments]))
            for name, loss, given in contenders:
                sizes = {"shape": title, "B": B, "T": T, "V": V, "L": L, "dtype": str(dtype).removeprefix("torch.")}
                try:
                    row = sizes | measure(name, loss, given, expected)
                except RuntimeError as error:
                    print(*sizes.values(), name, "failed:", str(error).splitlines()[0])
                    continue
                rows.append(row)
                graph = "" if row["graph_ms"] is None else f"{row['graph_ms']:.3f}"
                times = (f"{row['forward_backward_ms']:.3f}", graph, f"{row['forward_ms']:.3f}")
                print(layout.format(*sizes.values(), name, *times, f"{row['error']:.1e}"), flush=True)
            parts.append(sizes | {"microseconds": kernels(arguments)})
            del arguments, expected, contenders
    print()
    for part in parts:
        each = ", ".join(f"{name.strip('_')[:24]} {time:.0f}" for name, time in part["microseconds"].items())
        print(f"{part['shape']:<12} {part['dtype']:<9} {each}")
    if options.json:
        options.json.write_text(
            json.dumps({"device": torch.cuda.get_device_name(), "rows": rows, "kernels": parts}, indent=1)
        )


if __name__ == "__main__":
    main()
