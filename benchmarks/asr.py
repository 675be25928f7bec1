"""Speech recognisers side by side, with equal parameters and one CTC recipe, on connected digits.

    python benchmarks/asr.py [--only hgrn,conformer] [--seconds 20] [--seed 0] [--json FILE] [--table benchmarks/RESULTS.md]
    python benchmarks/asr.py --device cpu --width 32 --batch 8 --takes 1 --utterances 200 --seconds 20
    python benchmarks/asr.py --shown FILE --table benchmarks/RESULTS.md

HGRN in both directions and causal, nn.LSTM in both directions, torchaudio's Conformer and torch's Transformer encoder have 6
layers and the width that brings their parameters closest to HGRN's; all halve the rate of frames by one convolution. The data and
its augmentation are those of ``config/experiments/connected-digits.yaml``: what ``lt25 prepare connected-digits`` wrote, each
utterance of train in so many random forms ("takes"), computed before any clock starts. Batches are of utterances of like length.
Each network is trained from scratch with AdamW, for so many seconds at each learning rate, with a warm-up and a cosine in time.
The rate counts whose model hears validation best, and that model alone hears the test split, a speaker whom training never
heard. On a GPU computation is in bfloat16, and a step is recorded as a CUDA graph, but for that of nn.LSTM, which does not wait
for the host.

Printed are parameters, steps, seconds of audio trained a second (padding is not counted), memory of a GPU beside the data, word
error rates in %, and seconds of computing for a second of audio: of the test split in batches on the device, and of single
utterances on one thread of the CPU. A row is written to ``--json`` as soon as its network is done, in place of an older one of
this network; the other rows of that file stay, so that a call for each network makes the same table as one for all.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lt25.cuda_graphs import CUDAGraphWrapper
from lt25.data.batches import IGNORE, Transforms
from lt25.data.order import epoch_order
from lt25.data.prepared import PreparedSplit
from lt25.data.speech_recognition import transforms
from lt25.errors import UserError
from lt25.evaluation.speech_recognition import score
from lt25.experiment import load_experiment
from lt25.files import write_json
from lt25.models import HGRNConfig, HGRNForCTC
from lt25.ops import ctc_loss, greedy_ids
from lt25.report.markdown import replace

LAYERS, DROPOUT, SUBSAMPLING = 6, 0.2, 2
# A width of so many numbers is a head of attention; kernels want a multiple of 8.
HEAD = 24
MARK = "<!-- asr -->"
# Steps before the clock starts, and from one look at it to the next.
WARM = 10
# Batches come in so many lengths, because each is recorded.
LENGTHS = 12
ALONE = 20
"""Utterances that are heard one at a time."""


class Hgrn(nn.Module):
    """The package's recogniser, with short convolutions as `hgrn_ctc_tiny` has them."""

    def __init__(self, width: int, bands: int, symbols: int, bidirectional: bool) -> None:
        super().__init__()
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": LAYERS}
        data = {"input_size": bands, "vocab_size": symbols, "pad_token_id": 0, "subsampling": SUBSAMPLING}
        more = {"use_short_conv": True, "dropout": DROPOUT, "initializer_range": 0.06}
        self.hf = HGRNForCTC(HGRNConfig(**sizes, **data, **more, bidirectional=bidirectional))

    def forward(self, frames: Tensor, mask: Tensor, lengths: list[int]) -> Tensor:
        """Frames [B, T, bands] and their mask [B, T] to logits [B, T / 2, symbols]; the host knows the lengths too."""
        return self.hf(frames, mask).logits


class Other(nn.Module):
    """What the other networks have in common: the way in, to half the rate, and the way out."""

    def __init__(self, width: int, bands: int, symbols: int, out: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv1d(bands, width, 3, SUBSAMPLING, 1), nn.Linear(out, symbols)

    def forward(self, frames: Tensor, mask: Tensor, lengths: list[int]) -> Tensor:
        hidden = F.silu(self.enter(frames.transpose(1, 2))).transpose(1, 2)
        halved = mask[:, ::SUBSAMPLING]
        hidden = hidden * halved[..., None]
        return self.head(self.encode(hidden, halved == 0, [-(-length // SUBSAMPLING) for length in lengths]))

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        """Hidden states [B, T, width], where they are padding, and the lengths, to [B, T, out]."""
        raise NotImplementedError


class Lstm(Other):
    """nn.LSTM, both ways; each utterance is packed, so that the way back begins at its end."""

    def __init__(self, width: int, bands: int, symbols: int) -> None:
        super().__init__(width, bands, symbols, 2 * width)
        self.cells = nn.LSTM(width, width, LAYERS, batch_first=True, bidirectional=True, dropout=DROPOUT)

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(hidden, torch.tensor(lengths), True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.cells(packed)[0], True, total_length=hidden.shape[1])[0]


class Conformer(Other):
    """torchaudio's layers; its own class would wait for the device to count frames, and could not be recorded."""

    def __init__(self, width: int, bands: int, symbols: int) -> None:
        from torchaudio.models.conformer import ConformerLayer

        super().__init__(width, bands, symbols, width)
        self.layers = nn.ModuleList(ConformerLayer(width, 4 * width, width // HEAD, 31, DROPOUT) for _ in range(LAYERS))

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        hidden = hidden.transpose(0, 1)
        for layer in self.layers:
            hidden = layer(hidden, padding)
        return hidden.transpose(0, 1)


class Transformer(Other):
    """torch's encoder with the norm first, and learned positions."""

    def __init__(self, width: int, bands: int, symbols: int, places: int = 2048) -> None:
        super().__init__(width, bands, symbols, width)
        self.places = nn.Parameter(0.02 * torch.randn(places, width))
        layer = nn.TransformerEncoderLayer(
            width, width // HEAD, 4 * width, DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        return self.layers(hidden + self.places[: hidden.shape[1]], src_key_padding_mask=padding)


NETWORKS: dict[str, Any] = {
    "hgrn": lambda *sizes: Hgrn(*sizes, bidirectional=True),
    "conformer": Conformer,
    "hgrn-causal": lambda *sizes: Hgrn(*sizes, bidirectional=False),
    "transformer": Transformer,
    "lstm": Lstm,
}
TITLES = {
    "hgrn": "HGRN, both ways",
    "hgrn-causal": "HGRN, causal",
    "lstm": "LSTM, both ways",
    "conformer": "Conformer",
    "transformer": "Transformer",
}
STREAMS = ("hgrn-causal",)


class Data(NamedTuple):
    """A split in memory: one tensor after another.

    Attributes:
        frames: float16 [sum of lengths, bands], on the device.
        starts, lengths: int64 [n] of each utterance's frames.
        labels: int64 [n, L], padded with -100, on the device.
        texts: the transcripts.
    """

    frames: Tensor
    starts: np.ndarray
    lengths: np.ndarray
    labels: Tensor
    texts: list[str]


class Takes(Dataset):
    """Utterances in several random forms: number n is utterance n % count in its form n // count."""

    def __init__(self, split: PreparedSplit, count: int, takes: int, changes: Transforms, seed: int) -> None:
        self.split, self.count, self.takes, self.changes, self.seed = split, count, takes, changes, seed

    def __len__(self) -> int:
        return self.count * self.takes

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        take, index = divmod(number, self.count)
        item = self.changes.of_item(self.split[index], self.seed, take, index)
        return item["input"].half().numpy(), item["label"].numpy().copy()


def load(name: str, options: argparse.Namespace) -> Data:
    """Return a split of connected-digits, in one form, or, of train, in ``options.takes`` random ones."""
    experiment = load_experiment("connected-digits")
    split, training = PreparedSplit(experiment.processed_dir, name), name == "train"
    # The espeak voices of train come last: of a part of them, some of each.
    count = min(options.utterances, len(split))
    changes = transforms(split, experiment.augment, training)
    takes = Takes(split, count, options.takes if training else 1, changes, options.seed)
    workers = (os.cpu_count() or 1) if len(takes) > 1000 else 0
    # As arrays: tensors would come by shared memory, with a file for each.
    loaded = DataLoader(takes, batch_size=64, num_workers=workers, collate_fn=list)
    frames, labels = zip(*((torch.from_numpy(one) for one in item) for items in loaded for item in items), strict=True)
    lengths = np.array([len(one) for one in frames])
    padded = nn.utils.rnn.pad_sequence([one.long() for one in labels], True, IGNORE)
    texts = [str(text) for text in split.table()["text"][:count]]
    starts = np.concatenate(([0], lengths.cumsum()[:-1]))
    return Data(torch.cat(frames).to(options.device), starts, lengths, padded.to(options.device), texts)


def batch_of(data: Data, rows: np.ndarray, grid: int) -> tuple[dict[str, Tensor], list[int]]:
    """Return the utterances of some rows as a batch, padded to a multiple of ``grid`` frames, and their lengths."""
    lengths, device = data.lengths[rows], data.frames.device
    steps = -(-int(lengths.max()) // grid) * grid
    index = torch.from_numpy(np.stack((data.starts[rows], lengths, rows))).to(device, non_blocking=True)
    places = torch.arange(steps, device=device)
    mask = places < index[1, :, None]
    frames = data.frames[(index[0, :, None] + places).clamp_max(len(data.frames) - 1)] * mask[..., None]
    batch = {"frames": frames.float(), "mask": mask.long(), "lengths": index[1], "labels": data.labels[index[2]]}
    return batch, lengths.tolist()


def batches(data: Data, options: argparse.Namespace, grid: int) -> Iterator[tuple[dict[str, Tensor], list[int]]]:
    """Yield batches of utterances of like length, for ever, in another order each epoch."""
    source = cast(Any, SimpleNamespace(count=len(data.lengths), lengths=data.lengths, stride=1))
    epoch = 0
    while True:
        for rows in epoch_order(source, options.batch, options.seed, epoch):
            yield batch_of(data, rows, grid)
        epoch += 1


def parameters(network: nn.Module) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def build(name: str, width: int, bands: int, symbols: int) -> nn.Module:
    """Return a network whose width, a multiple of `HEAD` but for HGRN's, brings its parameters closest to HGRN's of a width."""
    with torch.device("meta"):
        wanted = parameters(NETWORKS["hgrn"](width, bands, symbols))
        widths = [width] if name.startswith("hgrn") else range(HEAD, 2 * width, HEAD)
        near = min(widths, key=lambda width: abs(parameters(NETWORKS[name](width, bands, symbols)) - wanted))
    return NETWORKS[name](near, bands, symbols)


def race(
    name: str, lr: float, options: argparse.Namespace, data: dict[str, Data], symbols: list[str]
) -> dict[str, Any]:
    """Train one network for `options.seconds` at one learning rate; the row holds it under "network"."""
    torch.manual_seed(options.seed)
    device, train = torch.device(options.device), data["train"]
    on_gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    network = build(name, options.width, train.frames.shape[1], len(symbols)).to(device)
    rate = torch.zeros((), device=device)
    adam = {"betas": (0.9, 0.98), "weight_decay": 0.05, "fused": on_gpu, "capturable": on_gpu}
    optimizer = torch.optim.AdamW(network.parameters(), rate, **adam)
    lengths: list[int] = []

    def update(parts: list[dict[str, Tensor]]) -> tuple[Tensor]:
        (batch,) = parts
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, on_gpu):
            logits = network(batch["frames"], batch["mask"], lengths)
        frames = (batch["lengths"] + SUBSAMPLING - 1) // SUBSAMPLING
        loss = ctc_loss(logits.float(), frames, batch["labels"]) / (batch["labels"] != IGNORE).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return (loss.detach(),)

    # cuDNN's network packs its utterances by lengths that the host knows.
    step = CUDAGraphWrapper(update) if on_gpu and name != "lstm" else update
    grid = 8 * -(-int(train.lengths.max()) // (8 * LENGTHS))
    coming, started = batches(train, options, grid), time.perf_counter()
    # Kernels are compiled and all lengths recorded before the clock starts; at a rate of 0 nothing is learned.
    for frames_of in range(grid, grid * (LENGTHS + 1), grid) if on_gpu else (grid,):
        rows = np.argsort(np.abs(train.lengths - frames_of + grid // 2), kind="stable")[: options.batch]
        for _ in range(3):
            batch, lengths = batch_of(train, rows, grid)
            try:
                step([batch])
            except UserError as error:
                print(f"{name}: {error}", flush=True)
                step = update
    ready_after = time.perf_counter() - started
    curve, steps, trained, measured, frames = [], 0, 0.0, 0.0, 0
    while trained < options.seconds:
        done = trained / options.seconds
        rate.fill_(lr * min(1.0, 20 * done) * 0.5 * (1 + math.cos(math.pi * done)))
        started = time.perf_counter()
        for _ in range(WARM):
            batch, lengths = next(coming)
            (loss,) = step([batch])
            frames += sum(lengths)
        last = loss.item()
        trained, steps = trained + time.perf_counter() - started, steps + WARM
        if trained - measured > options.seconds / 4 or trained >= options.seconds:
            measured = trained
            heard = hear(network, data["validation"], options, symbols)
            curve.append((round(trained, 1), steps, round(last, 4), heard["wer"]))
    if isinstance(step, CUDAGraphWrapper):
        step.close()
    return {
        "name": name,
        "lr": lr,
        "parameters": parameters(network),
        "steps": steps,
        "recorded": step is not update,
        "ready_after_seconds": ready_after,
        "audio_seconds_a_second": frames / 100 / trained,
        "gib": (torch.cuda.max_memory_allocated() - held) / 2**30 if on_gpu else None,
        "validation_wer": curve[-1][-1],
        "curve": curve,
        "network": network,
    }


@torch.no_grad()
def hear(network: nn.Module, data: Data, options: argparse.Namespace, symbols: list[str]) -> dict[str, Any]:
    """Return the error rates of greedy decoding, and the seconds of computing for a second of audio."""
    network.eval()
    device, computing, said = data.frames.device, 0.0, [""] * len(data.texts)
    order = np.argsort(-data.lengths, kind="stable")
    for at in range(0, len(order), options.batch):
        rows = order[at : at + options.batch]
        batch, lengths = batch_of(data, rows, 64)
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            logits = network(batch["frames"], batch["mask"], lengths)
        found = greedy_ids(logits, (batch["lengths"] + SUBSAMPLING - 1) // SUBSAMPLING)
        computing += time.perf_counter() - started
        for row, ids in zip(rows, found, strict=True):
            said[row] = " ".join("".join(symbols[one] for one in ids).replace("|", " ").split())
    network.train()
    metrics, _ = score(data.texts, said)
    return {**metrics, "real_time_factor": computing / (data.lengths.sum() / 100)}


def alone(network: nn.Module, data: Data, options: argparse.Namespace, symbols: list[str]) -> float:
    """Return the seconds of computing for a second of audio, of single utterances, on one thread of the CPU."""
    count = min(ALONE, len(data.texts))
    some = Data(data.frames.cpu(), data.starts[:count], data.lengths[:count], data.labels.cpu(), data.texts[:count])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = argparse.Namespace(**{**vars(options), "batch": 1})
        hear(network, some, one, symbols)  # the kernels are compiled by now
        return hear(network, some, one, symbols)["real_time_factor"]
    finally:
        torch.set_num_threads(threads)


def measure(
    name: str, options: argparse.Namespace, data: dict[str, Data], symbols: list[str]
) -> tuple[dict[str, Any], nn.Module]:
    """Return a network's row and the network: trained at each learning rate, tested at the one that validation likes best."""
    tried = [race(name, lr, options, data, symbols) for lr in options.lr]
    best = min(tried, key=lambda row: row["validation_wer"])
    network = best.pop("network")
    for row in tried:
        row.pop("network", None)
    hear(network, data["test"], options, symbols)  # kernels are compiled by now
    heard = hear(network, data["test"], options, symbols)
    kept = ("wer", "cer", "interval_95", "substitutions", "deletions", "insertions", "reference_words")
    test = {key: heard[key] for key in kept}
    row = {**best, "test": test, "real_time_factor": heard["real_time_factor"]}
    return {**row, "tried": [one for one in tried if one is not best]}, network


def table(rows: list[dict[str, Any]]) -> str:
    """Return the section of RESULTS.md."""
    rows = sorted(rows, key=lambda row: list(NETWORKS).index(row["name"]))
    heads = dict.fromkeys(row["head"] for row in rows)
    of = {head: ", ".join(TITLES[row["name"]] for row in rows if row["head"] == head) for head in heads}
    lines = [
        *(heads if len(heads) == 1 else (f"{names}: {head}" for head, names in of.items())),
        "",
        "| network | parameters | steps | audio s/s | GiB | WER % validation | WER % test (95 %) | RTF, batches | RTF, one CPU "
        "thread | streams |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        low, high = row["test"]["interval_95"] or (math.nan, math.nan)
        lines.append(
            f"| {TITLES[row['name']]} | {row['parameters']:,} | {row['steps']:,} | {row['audio_seconds_a_second']:,.0f} | "
            f"{'' if row['gib'] is None else format(row['gib'], '.2f')} | {100 * row['validation_wer']:.2f} | "
            f"{100 * row['test']['wer']:.2f} ({100 * low:.1f} to {100 * high:.1f}) | {row['real_time_factor']:.6f} | "
            f"{row['cpu']:.4f} | {'yes' if row['name'] in STREAMS else 'no'} |"
        )
    pace = {row["name"]: row["audio_seconds_a_second"] for row in rows}
    if "hgrn" in pace and "conformer" in pace:
        lines += [
            "",
            f"HGRN trains {pace['hgrn'] / pace['conformer']:.2f} times as many audio-seconds a second as the Conformer.",
        ]
    return "\n".join(lines) + "\n"


def read(file: Path | None) -> list[dict[str, Any]]:
    """Return the rows of a file that was written before; none if there is none."""
    return json.loads(file.read_text())["rows"] if file and file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS), help="some of the networks; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=20, help="of each training; default: %(default)s")
    parser.add_argument(
        "--lr", type=float, nargs="+", default=[1e-3, 3e-3], help="learning rates; default: %(default)s"
    )
    parser.add_argument("--width", type=int, default=256, help="HGRN's; default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="utterances; default: %(default)s")
    parser.add_argument("--takes", type=int, default=8, help="random forms of train's utterances; default: %(default)s")
    parser.add_argument("--utterances", type=int, default=100_000, help="at most so many of a split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too, as they come")
    parser.add_argument("--shown", type=Path, metavar="FILE", help="measure nothing: show what such a file holds")
    parser.add_argument("--table", type=Path, metavar="FILE", help=f"renew the table between two lines {MARK} there")
    options = parser.parse_args()
    if options.shown:
        shown = read(options.shown)
    else:
        on_gpu = options.device == "cuda"
        device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
        started = time.perf_counter()
        data = {name: load(name, options) for name in ("train", "validation", "test")}
        hours = data["train"].lengths.sum() / 360_000
        head = (
            f"{device}, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}. {options.seconds:g} s of training at each of "
            f"{' and '.join(f'{lr:g}' for lr in options.lr)}, batches of {options.batch}, {len(data['train'].lengths):,} "
            f"utterances of {hours:.1f} h, written in {load_experiment('connected-digits').prepare['units']}."
        )
        print(head, f"Read in {time.perf_counter() - started:.0f} s.", flush=True)
        vocabulary = json.loads((load_experiment("connected-digits").processed_dir / "vocab.json").read_text())
        symbols = sorted(vocabulary, key=vocabulary.get)
        rows = {row["name"]: row for row in read(options.json)}
        for name in options.only.split(","):
            row, network = measure(name, options, data, symbols)
            rows[name] = {**row, "head": head, "cpu": alone(network.cpu(), data["test"], options, symbols)}
            print(table([rows[name]]).splitlines()[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
            if options.json:
                write_json(options.json, {"rows": list(rows.values())})
        shown = list(rows.values())
    print(told := table(shown))
    if options.table:
        replace(options.table, MARK, told)


if __name__ == "__main__":
    main()
