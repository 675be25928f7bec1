"""Sequence classifiers side by side, with equal parameters and one recipe; and on small series what needs no gradients.

    python benchmarks/sequence.py [--only hgrn,lru] [--seconds 100 | --steps 2500] [--seed 0] [--json FILE]
    python benchmarks/sequence.py --small [--only hgrn,lru] [--steps 400]
    python benchmarks/sequence.py --device cpu --images 2000 --batch 50 --seconds 60 --only hgrn,gru

MNIST is read pixel by pixel, 784 steps. HGRN, nn.LSTM, nn.GRU, a Transformer encoder and a linear recurrent unit (LRU, as
"Resurrecting Recurrent Neural Networks for Long Sequences", https://arxiv.org/abs/2303.06349, describes it) all read in both
directions, have 4 layers and the width that brings their parameters closest to HGRN's. Each is trained for so many seconds or
steps with AdamW, a warm-up and a cosine, and images that are moved, turned and scaled at random. On a GPU a step is recorded as a
CUDA graph, but for those of nn.LSTM and nn.GRU, which do not wait for the host. Printed are parameters, steps, images a second,
the most memory (of a GPU), the accuracy on images held out from training, and the seconds until that has first been 98 %. The
data is what `lt25 prepare smnist` wrote.

``--small`` takes scikit-learn's digits, 64 steps, and holds a fifth out: networks with as many parameters as an HGRN of width 64,
trained for so many steps of 64, beside a random forest and the nearest neighbour by dynamic time warping. All learn once from
100 images, and once from all that are left. Printed are accuracy and seconds.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange
from torch import Tensor, nn

from lt25.cuda_graphs import CUDAGraphWrapper
from lt25.data.image_augmentation import image_transform
from lt25.data.prepared import PreparedSplit
from lt25.experiment import load_experiment
from lt25.models import HGRNConfig, HGRNForSequenceClassification

LAYERS, WIDTH, CLASSES, WANTED = 4, 128, 10, 0.98
# Steps before the clock starts, and from one look at it to the next.
WARM = 10
# Of the small comparison: the width of HGRN, how many images few are, and how far dynamic time warping may shift a step.
SMALL_WIDTH, FEW, BAND = 64, 100, 4
AUGMENT = {"shift": 2, "crop": 0, "rotate": 10, "scale": 0.1, "flip": False, "noise": 0, "mixup": 0}


class Hgrn(nn.Module):
    """The package's classifier, without convolutions and position embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": LAYERS, "input_size": 1}
        config = HGRNConfig(**sizes, num_labels=CLASSES, bidirectional=True, initializer_range=0.1)
        self.hf = HGRNForSequenceClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 1] to logits [B, classes]."""
        return self.hf(x).logits


class Recurrent(nn.Module):
    """nn.LSTM or nn.GRU, both ways."""

    def __init__(self, kind: Any, width: int) -> None:
        super().__init__()
        self.cells = kind(1, width, LAYERS, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 1] to logits [B, classes]."""
        return self.head(self.cells(x)[0].mean(1))


class Transformer(nn.Module):
    """torch's encoder with the norm first, and learned positions."""

    def __init__(self, width: int, steps: int = 784) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(1, width), nn.Linear(width, CLASSES)
        self.places = nn.Parameter(0.02 * torch.randn(steps, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 1] to logits [B, classes]."""
        return self.head(self.layers(self.enter(x) + self.places[: x.shape[1]]).mean(1))


class LruLayer(nn.Module):
    """h_t = lambda * h_{t-1} + gamma * B x_t with complex lambda, as a convolution by FFT; half of the states read backwards."""

    def __init__(self, width: int, least: float = 0.9, most: float = 0.999) -> None:
        super().__init__()
        u, angle = torch.rand(width), torch.rand(width) * math.pi / 5
        self.nu = nn.Parameter((-0.5 * (u * (most**2 - least**2) + least**2).log()).log())
        self.theta = nn.Parameter(angle.log())
        self.gamma = nn.Parameter((1 - (-2 * self.nu.detach().exp()).exp()).sqrt().log())
        self.enter, self.leave = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.norm, self.skip = nn.LayerNorm(width), nn.Parameter(torch.ones(width))
        self.gate = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        normed, steps = self.norm(x), x.shape[1]
        real, imaginary = (self.enter(normed).float() * self.gamma.exp().repeat(2)).chunk(2, -1)
        inputs = torch.complex(real, imaginary)
        half = inputs.shape[2] // 2
        inputs = torch.cat((inputs[..., :half], inputs[..., half:].flip(1)), -1)
        powers = torch.arange(steps, device=x.device)[:, None] * torch.complex(-self.nu.exp(), self.theta.exp())
        states = torch.fft.ifft(torch.fft.fft(inputs, 2 * steps, 1) * torch.fft.fft(powers.exp(), 2 * steps, 0), dim=1)
        states = states[:, :steps]
        states = torch.cat((states[..., :half], states[..., half:].flip(1)), -1)
        mixed = self.leave(torch.cat((states.real, states.imag), -1)) + self.skip * normed
        return x + F.glu(self.gate(F.gelu(mixed)), -1)


class Lru(nn.Module):
    """Layers of linear recurrent units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(1, width), nn.Linear(width, CLASSES)
        self.layers = nn.Sequential(*(LruLayer(width) for _ in range(LAYERS)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 1] to logits [B, classes]."""
        return self.head(self.layers(self.enter(x)).mean(1))


NETWORKS: dict[str, Any] = {
    "hgrn": Hgrn,
    "lstm": lambda width: Recurrent(nn.LSTM, width),
    "gru": lambda width: Recurrent(nn.GRU, width),
    "transformer": Transformer,
    "lru": Lru,
}


def parameters(network: nn.Module) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def build(name: str, of: int = WIDTH, steps: int = 784) -> nn.Module:
    """Return a network whose width, a multiple of 4, brings its parameters closest to those of an HGRN of a width."""
    kind = partial(Transformer, steps=steps) if name == "transformer" else NETWORKS[name]
    with torch.device("meta"):
        wanted = parameters(Hgrn(of))
        width = min(range(16, 400, 4), key=lambda width: abs(parameters(kind(width)) - wanted))
    return kind(width)


def race(name: str, options: argparse.Namespace, data: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Train one network for `options.steps`, or else for `options.seconds`, and say how it went."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    network, rate = build(name).to(device), torch.zeros((), device=device)
    adam = {"betas": (0.9, 0.95), "weight_decay": 0.05, "fused": on_gpu, "capturable": on_gpu}
    optimizer = torch.optim.AdamW(network.parameters(), rate, **adam)
    augment, generator = image_transform(AUGMENT, (28, 28), 1), torch.Generator(device).manual_seed(options.seed)
    images, labels = data["train"]
    assert augment is not None

    def update(batches: list[dict[str, Tensor]]) -> tuple[Tensor]:
        (batch,) = batches
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, on_gpu):
            logits = network(batch["input_features"])
        loss = F.cross_entropy(logits.float(), batch["labels"], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return (loss.detach(),)

    # A step of the others waits for the host, not so of cuDNN's networks, whose steps in time follow one another on the GPU.
    recorded = on_gpu and not isinstance(network, Recurrent)
    step = CUDAGraphWrapper(update) if recorded else update
    curve, steps, trained, reached = [], 0, 0.0, None
    done = measured = 0.0
    while done < 1.0:
        if steps == WARM:
            # Kernels are compiled by now, and the step is recorded; at a rate of 0 nothing was learned.
            trained = 0.0
        rate.fill_(options.lr * min(1.0, 20 * done) * 0.5 * (1 + math.cos(math.pi * done)))
        started = time.perf_counter()
        for _ in range(WARM):
            chosen = torch.randint(len(images), (options.batch,), device=device, generator=generator)
            (loss,) = step([augment({"input_features": images[chosen].float(), "labels": labels[chosen]}, generator)])
        loss.item()
        trained, steps = trained + time.perf_counter() - started, steps + WARM
        if steps > WARM:
            done = (steps - WARM) / options.steps if options.steps else trained / options.seconds
        if done - measured > 1 / 40 or done >= 1.0:
            measured, accuracy = done, measure(network, *data["validation"], device)
            curve.append((round(trained, 1), steps - WARM, accuracy))
            reached = trained if reached is None and accuracy >= WANTED else reached
    if isinstance(step, CUDAGraphWrapper):
        step.close()
    memory, steps = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None, steps - WARM
    found = {"parameters": parameters(network), "steps": steps, "images_a_second": steps * options.batch / trained}
    return {"network": name, **found, "gib": memory, "accuracy": curve[-1][2], "seconds_to_98": reached, "curve": curve}


@torch.no_grad()
def measure(network: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> float:
    """Return the share of images that are classified right."""
    network.eval()
    right = 0
    for some, of in zip(images.split(250), labels.split(250), strict=True):
        with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            right += int((network(some.float()).argmax(-1) == of).sum())
    network.train()
    return right / len(labels)


def load(device: str, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the prepared images float16 [n, 784, 1] and labels [n] of training and validation, on the device."""
    folder, data = load_experiment("smnist").processed_dir, {}
    for name in ("train", "validation"):
        split = PreparedSplit(folder, name)
        images = split.shards["inputs"].view(len(split), -1, 1)
        data[name] = (images[:count].to(device), split.shards["labels"][:count].long().to(device))
    return data


@njit(parallel=True)
def warped_distances(series: np.ndarray, others: np.ndarray, band: int) -> np.ndarray:
    """Dynamic time warping with absolute differences in a Sakoe-Chiba band: float64 [n, m] of float64 [n, T] and [m, T]."""
    found = np.empty((len(series), len(others)))
    steps = series.shape[1]
    for i in prange(len(series)):
        row, last = np.empty(steps + 1), np.empty(steps + 1)
        for j in range(len(others)):
            last[:] = np.inf
            last[0] = 0.0
            for s in range(steps):
                row[:] = np.inf
                for t in range(max(0, s - band), min(steps, s + band + 1)):
                    step = min(last[t], last[t + 1], row[t])
                    row[t + 1] = abs(series[i, s] - others[j, t]) + step
                last[:] = row
            found[i, j] = last[steps]
    return found


def small(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare networks with what needs no gradients on few and on more of scikit-learn's digits: a row each."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    values, labels = load_digits(return_X_y=True)
    split: Any = partial(train_test_split, random_state=options.seed)
    every, test, labels, wanted = split(values / 16, labels, test_size=0.2, stratify=labels)
    warped_distances(test[:2], test[:2], BAND)
    few, _, few_labels, _ = split(every, labels, train_size=FEW, stratify=labels)

    def learned(name: str, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if name == "random forest":
            return RandomForestClassifier(500, random_state=options.seed, n_jobs=-1).fit(train, labels).predict(test)
        if name == "nearest neighbour, warped":
            return labels[warped_distances(test, train, BAND).argmin(1)]
        return small_network(name, train, labels, test, options)

    for train, of in ((few, few_labels), (every, labels)):
        for name in ("random forest", "nearest neighbour, warped", *options.only.split(",")):
            started = time.perf_counter()
            accuracy = float((learned(name, train, of) == wanted).mean())
            seconds = time.perf_counter() - started
            yield {"network": name, "images": len(train), "accuracy": accuracy, "seconds": seconds}


def small_network(
    name: str, train: np.ndarray, labels: np.ndarray, test: np.ndarray, options: argparse.Namespace
) -> np.ndarray:
    """Train a network for so many steps on series float64 [n, T] in 0..1 with labels int64 [n]; say what others are."""
    torch.manual_seed(options.seed)
    network = build(name, SMALL_WIDTH, train.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.05)
    inputs, others = ((torch.from_numpy(values).float()[..., None] - 0.3) * 2.7 for values in (train, test))
    targets, steps = torch.from_numpy(labels), options.steps or 400
    for step in range(steps):
        chosen = torch.randint(len(inputs), (64,))
        rate = 4e-3 * min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(network(inputs[chosen]), targets[chosen], label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return network.eval()(others).argmax(-1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS), help="some of the networks; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=100, help="of training each; default: %(default)s")
    parser.add_argument("--steps", type=int, help="of training each, in place of seconds; default with --small: 400")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--images", type=int, default=60_000, help="at most so many of a split")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small series, on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.small:
        for row in small(options):
            rows.append(row)
            print(
                f"{row['images']:5,} images  {row['network']:26} {row['accuracy']:7.2%}  {row['seconds']:6.1f} s",
                flush=True,
            )
    else:
        data = load(options.device, options.images)
        for name in options.only.split(","):
            row = race(name, options, data)
            rows.append(row)
            memory = "" if row["gib"] is None else f"  {row['gib']:.2f} GiB"
            reached = "never 98 %" if row["seconds_to_98"] is None else f"98 % after {row['seconds_to_98']:.0f} s"
            print(
                f"{name:12} {row['parameters']:9,} parameters  {row['steps']:6,} steps  {row['images_a_second']:8,.0f} images/s"
                f"{memory}  accuracy {row['accuracy']:.2%}  {reached}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
