"""The CPU operators beside memcpy, and training epochs of the HGRN classifier beside nn.GRU.

    python benchmarks/cpu.py [--markdown] [--seconds 600] [--only kernels] [--rates 4e-3]

"kernels": float32. GB/s counts the passes over [B, T, D] that an operator cannot do without, forward under no_grad (in
brackets what is read and written) and forward with backward, which reads and writes besides:

    hgrn_scan      3 (x, log_f; h)                  8: grad_h, log_f, h; grad_x, grad_log_f
    hgrn_mix       4 (i, f, g; y)                   13: h written forward; grad_y, i, f, g, h; grad_i, grad_f, grad_g
    swiglu         3 (gate, up; y)                  8: grad_y, gate, up; grad_gate, grad_up
    add_rms_norm   4 (x, residual; normed, sum)     8: grad_normed, grad_sum, sum; one gradient for both

The ceiling is torch's copy_ of 128 MiB, bytes read and written. All three are timed in turn; a number is the median. Results
are allocated anew in each call, as in training, those of copy_ are not.

"digits", "mnist": an epoch of the experiment's training, and the accuracy on its held-out part of the training split after as
many steps as it says, with its batches, optimizer, schedule, clipping and dropout. GRU is nn.GRU of the same width and depth,
one way; GRU both ways has half of the width each way, like the HGRN here. Input map, pooling and head are the HGRN's. At each
learning rate the networks are trained in turns of a few steps; seconds an epoch are the median of these turns times their number
in an epoch, and the accuracy is that of the learning rate at which it is highest. "pixels" is MNIST pixel by pixel, 784 steps in
time: milliseconds of a few steps, in turn as well. All read what `lt25 prepare config/experiments/NAME.yaml` has prepared.

"steps": a training step of `digits` in float32, and in bfloat16 as by `training.mixed_precision_param`, in turn: processor time
of all threads and time by the clock, median and least, so that other work on the machine does not decide.

"products": the matrix products of the layers in a training step of `digits`, forward and both products of the backward pass, in
float32 and in bfloat16: a lower bound of a step's time.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numba
import torch
from torch import Tensor, nn

from lt25.data.loader import StepBatches
from lt25.data.order import Reading, Share
from lt25.data.prepared import PreparedSplit
from lt25.experiment import Experiment, load_experiment
from lt25.models import HGRNConfig, HGRNForSequenceClassification
from lt25.ops import add_rms_norm, hgrn_mix, hgrn_scan, swiglu

EXPERIMENTS = Path(__file__).parents[1] / "config" / "experiments"
EPS = 1e-6
# B, T, D
SHAPES = ((64, 64, 64), (32, 400, 128), (8, 1500, 256), (1, 16384, 64), (128, 784, 64))
RATES = (2e-3, 4e-3)
# Steps of a turn.
TURN = 10


def scan(x: Tensor, log_f: Tensor) -> Tensor:
    return hgrn_scan(x, log_f)[0]


def mix(ifg: Tensor, weight: Tensor, bound: Tensor) -> Tensor:
    return hgrn_mix(ifg, weight, EPS, bound)[0]


def norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return add_rms_norm(x, residual, weight, EPS)


# Operator, what it takes: parts of [B, T, D] side by side in each tensor, vectors [D]; results; passes forward and in all.
OPERATORS: tuple[tuple[str, Callable, tuple[int, ...], int, int, tuple[int, int]], ...] = (
    ("hgrn_scan", scan, (1, 1), 0, 1, (3, 8)),
    ("hgrn_mix", mix, (3,), 2, 1, (4, 13)),
    ("swiglu", swiglu, (2,), 0, 1, (3, 8)),
    ("add_rms_norm", norm, (1, 1), 1, 2, (4, 8)),
)


def seconds(run: Callable[[], object]) -> float:
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def in_turn(runs: Sequence[Callable[[], object]], limit: float) -> list[float]:
    """Median seconds of each, after one run to warm up, of at least five rounds."""
    for run in runs:
        run()
    rounds, end = [], time.perf_counter() + limit
    while len(rounds) < 5 or time.perf_counter() < end:
        rounds.append([seconds(run) for run in runs])
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def kernels(limit: float) -> Iterator[dict[str, str]]:
    source = torch.randn(2**25)
    target = torch.empty_like(source)
    for (name, call, parts, vectors, results, passes), shape in itertools.product(OPERATORS, SHAPES):
        torch.manual_seed(0)
        *rows, channels = shape
        wanted = [torch.randn(*rows, part * channels) for part in parts]
        if call is scan:
            wanted[1] = torch.rand(shape).log()
        wanted = [each.requires_grad_() for each in (*wanted, *torch.rand(vectors, channels).unbind())]
        gradients = [torch.randn(shape) for _ in range(results)]

        def forward(call=call, wanted=wanted):
            with torch.no_grad():
                return call(*wanted)

        def both(call=call, wanted=wanted, gradients=gradients):
            results = call(*wanted)
            return torch.autograd.grad(results if isinstance(results, tuple) else (results,), wanted, gradients)

        copying, *times = in_turn((lambda: target.copy_(source), forward, both), limit / len(OPERATORS) / len(SHAPES))
        ceiling = 2 * source.nbytes / copying
        row = {"operator": name, "B, T, D": ", ".join(map(str, shape)), "memcpy GB/s": f"{ceiling / 1e9:.1f}"}
        for title, spent, count in zip(("fwd", "fwd+bwd"), times, passes, strict=True):
            rate = count * gradients[0].nbytes / spent
            row |= {
                f"{title} ms": f"{spent * 1e3:.3f}",
                f"{title} GB/s": f"{rate / 1e9:.1f}",
                f"{title} % of memcpy": f"{100 * rate / ceiling:.0f}",
            }
        yield row


class GRUClassifier(nn.Module):
    """The classifier with nn.GRU for its layers: [B, T, C] to logits [B, classes]."""

    def __init__(self, config: HGRNConfig, both_ways: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.proj = nn.Linear(config.input_size, width)
        self.gru = nn.GRU(
            width,
            width // (1 + both_ways),
            config.num_hidden_layers,
            batch_first=True,
            dropout=config.dropout,
            bidirectional=both_ways,
        )
        self.classifier = nn.Linear(width, config.num_labels)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.gru(self.proj(features))[0].mean(1))


class HGRNClassifier(nn.Module):
    """The package's model: [B, T, C] to logits [B, classes]."""

    def __init__(self, config: HGRNConfig) -> None:
        super().__init__()
        self.hf = HGRNForSequenceClassification(config)

    def forward(self, features: Tensor) -> Tensor:
        return self.hf(features).logits


NETWORKS: dict[str, Callable[[HGRNConfig], nn.Module]] = {
    "HGRN": HGRNClassifier,
    "GRU": lambda config: GRUClassifier(config, False),
    "GRU both ways": lambda config: GRUClassifier(config, True),
}


class Training:
    """A network in training as the experiment says, at a learning rate of its own."""

    def __init__(self, experiment: Experiment, network: str, rate: float) -> None:
        job = experiment.job
        torch.manual_seed(0)
        self.model = NETWORKS[network](configuration(experiment))
        self.split = PreparedSplit(experiment.processed_dir, "train")
        self.batches = iter(batches(experiment, self.split))
        options = {"lr": rate, "betas": (0.9, 0.95), "weight_decay": job["optimizer"]["weight_decay"], "fused": True}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **options)
        warmup, steps = job["lr_scheduler"]["warmup_steps"], job["training"]["steps"]
        rise = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1 / warmup, 1.0, warmup)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps - warmup)
        self.schedule = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [rise, fall], [warmup])

    def steps(self, count: int, pixels: bool = False) -> None:
        """Train; with `pixels` pixel by pixel, for which the network must have been built."""
        self.model.train()
        for inputs, labels in itertools.islice(self.batches, count):
            features = inputs["input"].reshape(len(labels), -1, 1) if pixels else inputs["input"]
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(features), labels).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()

    @torch.no_grad()
    def accuracy(self, experiment: Experiment) -> float:
        """On the part of the training data that is held out."""
        self.model.eval()
        held_out = PreparedSplit(experiment.processed_dir, "validation").shards
        labels = held_out["labels"].long()
        inputs = held_out["inputs"].float().view(len(labels), -1, held_out["inputs"].shape[-1])
        found = torch.cat([self.model(part).argmax(-1) for part in inputs.split(512)])
        return (found == labels).float().mean().item()


def configuration(experiment: Experiment, **changed: Any) -> HGRNConfig:
    base = {key: value for key, value in experiment.model.items() if key not in ("model_type", "architectures")}
    decided = json.loads((experiment.processed_dir / "stats.json").read_text())["model"]
    return HGRNConfig(**{**base, **decided, **changed})


def batches(experiment: Experiment, split: PreparedSplit) -> StepBatches:
    size = experiment.job["training"]["local_batch_size"]
    return StepBatches(split, "classification", Reading(Share(size), seed=0))


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def epochs(experiment: Experiment, rates: Sequence[float]) -> Iterator[dict[str, str]]:
    steps = experiment.job["training"]["steps"]
    times: dict[str, list[float]] = {name: [] for name in NETWORKS}
    accuracies: dict[str, dict[float, float]] = {name: {} for name in NETWORKS}
    for rate in rates:
        trainings = {name: Training(experiment, name, rate) for name in NETWORKS}
        for _ in range(0, steps, TURN):
            for name, training in trainings.items():
                times[name].append(seconds(lambda training=training: training.steps(TURN)))
        for name, training in trainings.items():
            accuracies[name][rate] = training.accuracy(experiment)
    in_epoch = len(training.split) // experiment.job["training"]["local_batch_size"]
    length = training.split.lengths[0]
    base = statistics.median(times["HGRN"])
    for name, training in trainings.items():
        turn = statistics.median(times[name])
        best = max(rates, key=accuracies[name].__getitem__)
        yield {
            "experiment": f"{experiment.name}, {length} steps in time",
            "network": name,
            "parameters": f"{parameters(training.model):,}",
            "ms/step": f"{turn / TURN * 1e3:.1f}",
            "s/epoch": f"{turn / TURN * in_epoch:.2f}",
            "x HGRN": f"{turn / base:.2f}",
            "accuracy %": f"{100 * accuracies[name][best]:.1f}",
            "at lr": f"{best:g}",
            "all lr": ", ".join(f"{rate:g}: {100 * found:.1f}" for rate, found in accuracies[name].items()),
        }


def steps(experiment: Experiment, rate: float, limit: float) -> Iterator[dict[str, str]]:
    trainings = {dtype: Training(experiment, "HGRN", rate) for dtype in (torch.float32, torch.bfloat16)}
    times: dict[torch.dtype, list[tuple[float, float]]] = {dtype: [] for dtype in trainings}
    end = None
    while end is None or time.perf_counter() < end:
        for dtype, training in trainings.items():
            wall, processor = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                training.steps(1)
            times[dtype].append((time.process_time() - processor, time.perf_counter() - wall))
        # The first compiles kernels.
        end = end or time.perf_counter() + limit
    for dtype, measured in times.items():
        row = {
            "experiment": experiment.name,
            "dtype": str(dtype).removeprefix("torch."),
            "steps": str(len(measured) - 1),
        }
        for title, spent in zip(("processor", "clock"), zip(*measured[1:], strict=True), strict=True):
            row |= {f"{title} ms": f"{statistics.median(spent) * 1e3:.1f}", f"{title} least": f"{min(spent) * 1e3:.1f}"}
        yield row


def pixels(experiment: Experiment, limit: float) -> Iterator[dict[str, str]]:
    """Steps on one batch, each image of it as a sequence of its pixels."""
    split = PreparedSplit(experiment.processed_dir, "train")
    inputs, labels = next(iter(batches(experiment, split)))
    features = inputs["input"].reshape(len(labels), -1, 1)
    torch.manual_seed(0)
    models = {name: build(configuration(experiment, input_size=1)) for name, build in NETWORKS.items()}

    def step(model: nn.Module) -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(features), labels).backward()

    times = in_turn([lambda model=model: step(model) for model in models.values()], limit)
    in_epoch = len(split) // len(labels)
    for (name, model), spent in zip(models.items(), times, strict=True):
        yield {
            "experiment": f"{experiment.name}, {features.shape[1]} steps in time, without optimizer",
            "network": name,
            "parameters": f"{parameters(model):,}",
            "ms/step": f"{spent * 1e3:.1f}",
            "s/epoch": f"{spent * in_epoch:.0f} extrapolated",
            "x HGRN": f"{spent / times[0]:.2f}",
        }


def products(experiment: Experiment, limit: float) -> Iterator[dict[str, str]]:
    config = configuration(experiment)
    length = int(PreparedSplit(experiment.processed_dir, "train").lengths[0])
    rows = experiment.job["training"]["local_batch_size"] * length
    hidden, channels, width = config.hidden_size, config.channels, config.mlp_size
    names = {
        "i, f, g": (hidden, 3 * channels),
        "o": (channels, hidden),
        "gate, up": (hidden, 2 * width),
        "down": (width, hidden),
    }
    totals = [0.0, 0.0]
    for name, (width_in, width_out) in names.items():
        times = []
        for dtype in (torch.float32, torch.bfloat16):
            x, weight, grad = (
                torch.randn(size).to(dtype) for size in ((rows, width_in), (width_out, width_in), (rows, width_out))
            )
            runs = [partial(torch.mm, *pair) for pair in ((x, weight.T), (grad, weight), (grad.T, x))]
            times.append(sum(in_turn(runs, limit / 2 / len(names))))
        totals = [total + config.num_hidden_layers * spent for total, spent in zip(totals, times, strict=True)]
        yield _product_row(name, 6 * rows * width_in * width_out, times)
    work = 6 * rows * config.num_hidden_layers * sum(a * b for a, b in names.values())
    yield _product_row(f"all, {config.num_hidden_layers} layers", work, totals)


def _product_row(name: str, operations: int, times: Sequence[float]) -> dict[str, str]:
    row = {"product": name, "GFLOP": f"{operations / 1e9:.3f}"}
    for dtype, spent in zip(("float32", "bfloat16"), times, strict=True):
        row |= {f"{dtype} ms": f"{spent * 1e3:.2f}", f"{dtype} GFLOP/s": f"{operations / spent / 1e9:.0f}"}
    return row


def show(rows: Iterator[dict[str, str]], markdown: bool) -> None:
    """Rows as they come, under the titles of the first."""
    titles: list[str] = []
    for row in rows:
        if not titles:
            titles = list(row)
            rule = "|" + "|".join(" --- " if n < 2 else " ---: " for n in range(len(titles))) + "|"
            print("| " + " | ".join(titles) + " |\n" + rule if markdown else "  ".join(titles))
        cells = [row.get(title, "") for title in titles]
        line = (cell.rjust(len(title)) for title, cell in zip(titles, cells, strict=True))
        print("| " + " | ".join(cells) + " |" if markdown else "  ".join(line), flush=True)
    print()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print tables for RESULTS.md")
    parser.add_argument("--seconds", type=float, default=60, help="for the kernels; training takes what it takes")
    parser.add_argument("--only", choices=("kernels", "digits", "mnist", "steps", "pixels", "products"))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates of the epochs")
    options = parser.parse_args()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    versions = f"torch {torch.__version__}, numba {numba.__version__}"
    print(f"{processor()}, {threads}, {date.today().isoformat()}, {versions}\n", flush=True)
    if options.only in (None, "kernels"):
        show(kernels(options.seconds), options.markdown)
    for name in ("digits", "mnist"):
        if options.only in (None, name):
            experiment = load_experiment(EXPERIMENTS / f"{'row-' if name == 'mnist' else ''}{name}.yaml")
            show(epochs(experiment, options.rates), options.markdown)
    if options.only in (None, "steps"):
        experiment = load_experiment(EXPERIMENTS / "digits.yaml")
        show(steps(experiment, options.rates[-1], options.seconds), options.markdown)
    if options.only in (None, "pixels"):
        show(pixels(load_experiment(EXPERIMENTS / "row-mnist.yaml"), options.seconds), options.markdown)
    if options.only in (None, "products"):
        show(products(load_experiment(EXPERIMENTS / "digits.yaml"), options.seconds), options.markdown)


if __name__ == "__main__":
    main()
