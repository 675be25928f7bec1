"""Speech recognisers side by side, with equal parameters and one CTC recipe, on connected digits.

    python benchmarks/asr.py [--only hgrn,conformer] [--seconds 20] [--seed 0] [--json FILE] [--table benchmarks/RESULTS.md]
    python benchmarks/asr.py --only hgrn --dropout 0.1 0.3 --hgrn '{"tied_dropout": true}' --choose-only
    python benchmarks/asr.py --device cpu --width 32 --batch 8 --takes 1 --utterances 200 --seconds 20
    python benchmarks/asr.py --shown FILE --table benchmarks/RESULTS.md

HGRN in both directions and causal, nn.LSTM in both directions, torchaudio's Conformer and torch's Transformer encoder have 6
layers and the width that brings their parameters closest to HGRN's; all halve the rate of frames by one convolution. The data and
its augmentation are those of ``config/experiments/connected-digits.yaml``: what ``lt25 prepare connected-digits`` wrote, each
utterance of train in so many random forms ("takes"), computed before any clock starts, under masks that are drawn anew on the
device whenever a batch is read. Batches are of utterances of like length. Each network is trained from scratch with AdamW, a
warm-up and a cosine, for so many seconds, or with ``--steps`` for so many batches, which are as many passes for each network.

Learning rates, probabilities of dropout, numbers of masks and durations may be several. Every combination is tried on train
without one of its voices at a time, ``--left-out``, whose utterances, as recorded, then decide by the mean of their word error
rates. With the best combination a network is trained anew on all of train, and hears the test split once: a speaker whom training
never heard, and by whom nothing was chosen. To try something new, as keys of ``--hgrn``, is for ``--choose-only``, which does not
hear the test split.

On a GPU computation is in bfloat16, and a step is recorded as a CUDA graph, but for that of nn.LSTM, which does not wait for the
host. Printed are parameters, steps, seconds of audio trained a second (padding is not counted), memory of a GPU beside the
data, word error rates in %, and seconds of computing for a second of audio: of the test split in batches on the device, and of
single utterances on one thread of the CPU. A row is written to ``--json`` as soon as its network is done, in place of an older
one of this network; the other rows of that file stay, so that a call for each network makes the same table as one for all.
"""

import argparse
import gc
import json
import math
import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
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

LAYERS, SUBSAMPLING = 6, 2
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

    def __init__(self, width: int, bands: int, symbols: int, dropout: float, **keys: Any) -> None:
        super().__init__()
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": LAYERS}
        data = {"input_size": bands, "vocab_size": symbols, "pad_token_id": 0, "subsampling": SUBSAMPLING}
        more = {"use_short_conv": True, "dropout": dropout, "initializer_range": 0.06}
        self.hf = HGRNForCTC(HGRNConfig(**{**sizes, **data, **more, **keys}))

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

    def __init__(self, width: int, bands: int, symbols: int, dropout: float) -> None:
        super().__init__(width, bands, symbols, 2 * width)
        self.cells = nn.LSTM(width, width, LAYERS, batch_first=True, bidirectional=True, dropout=dropout)

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(hidden, torch.tensor(lengths), True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.cells(packed)[0], True, total_length=hidden.shape[1])[0]


class Conformer(Other):
    """torchaudio's layers; its own class would wait for the device to count frames, and could not be recorded."""

    def __init__(self, width: int, bands: int, symbols: int, dropout: float) -> None:
        from torchaudio.models.conformer import ConformerLayer

        super().__init__(width, bands, symbols, width)
        self.layers = nn.ModuleList(ConformerLayer(width, 4 * width, width // HEAD, 31, dropout) for _ in range(LAYERS))

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        hidden = hidden.transpose(0, 1)
        for layer in self.layers:
            hidden = layer(hidden, padding)
        return hidden.transpose(0, 1)


class Transformer(Other):
    """torch's encoder with the norm first, and learned positions."""

    def __init__(self, width: int, bands: int, symbols: int, dropout: float, places: int = 2048) -> None:
        super().__init__(width, bands, symbols, width)
        self.places = nn.Parameter(0.02 * torch.randn(places, width))
        layer = nn.TransformerEncoderLayer(
            width, width // HEAD, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)

    def encode(self, hidden: Tensor, padding: Tensor, lengths: list[int]) -> Tensor:
        return self.layers(hidden + self.places[: hidden.shape[1]], src_key_padding_mask=padding)


NETWORKS: dict[str, Any] = {
    "hgrn": partial(Hgrn, bidirectional=True),
    "conformer": Conformer,
    "hgrn-causal": partial(Hgrn, bidirectional=False),
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


class Setting(NamedTuple):
    """What is chosen for each network by a voice that training did not hear.

    Attributes:
        lr: the highest learning rate.
        dropout: its probability, wherever a network has it.
        masks: times so many as in the experiment.
        duration: of training, in seconds or in steps.
        keys: more keys of HGRN's config.
    """

    lr: float
    dropout: float
    masks: int
    duration: float
    keys: dict[str, Any]


class Data(NamedTuple):
    """A split in memory: one tensor after another.

    Attributes:
        frames: float16 [frames, bands], on the device.
        starts, lengths: int64 [n] of each utterance's frames.
        labels: int64 [n, L], padded with -100, on the device.
        texts, speakers: str [n], the transcripts and whose voices these are.
    """

    frames: Tensor
    starts: np.ndarray
    lengths: np.ndarray
    labels: Tensor
    texts: np.ndarray
    speakers: np.ndarray

    def part(self, rows: np.ndarray) -> "Data":
        """Return some utterances, of the same frames."""
        labels = self.labels[torch.from_numpy(rows).to(self.labels.device)]
        return Data(self.frames, self.starts[rows], self.lengths[rows], labels, self.texts[rows], self.speakers[rows])


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


def load(name: str, options: argparse.Namespace, takes: int = 0) -> Data:
    """Return a split of connected-digits as recorded, or in so many random forms, without masks."""
    experiment = load_experiment("connected-digits")
    split = PreparedSplit(experiment.processed_dir, name)
    count = min(options.utterances, len(split))
    changes = transforms(split, {**experiment.augment, **dict.fromkeys(("time_masks", "band_masks"), 0)}, takes > 0)
    forms = Takes(split, count, max(takes, 1), changes, options.seed)
    workers = len(os.sched_getaffinity(0)) if len(forms) > 1000 else 0
    # As arrays: tensors would come by shared memory, with a file for each.
    loaded = DataLoader(forms, batch_size=64, num_workers=workers, collate_fn=list)
    frames, labels = zip(*((torch.from_numpy(one) for one in item) for items in loaded for item in items), strict=True)
    lengths = np.array([len(one) for one in frames])
    padded = nn.utils.rnn.pad_sequence([one.long() for one in labels], True, IGNORE)
    starts = np.concatenate(([0], lengths.cumsum()[:-1]))
    table = split.table()
    texts, speakers = (np.tile(np.array(table[key][:count].astype(str)), max(takes, 1)) for key in ("text", "speaker"))
    return Data(torch.cat(frames).to(options.device), starts, lengths, padded.to(options.device), texts, speakers)


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


def masked(frames: Tensor, lengths: Tensor, masks: dict[str, Any]) -> Tensor:
    """Return frames [B, T, bands] with 0, the mean, in place of some stretches of time and groups of bands of each utterance.

    As `lt25.data.speech_recognition` does one by one (SpecAugment, https://doi.org/10.21437/Interspeech.2019-2680).

    Args:
        frames: of a batch.
        lengths: int64 [B] of its utterances.
        masks: the keys of an experiment's ``augment`` section.
    """
    bands = torch.full_like(lengths, frames.shape[2])
    widest = (masks["time_width"] * lengths).long(), bands.clamp_max(masks["band_width"])
    for dim, (size, most, count) in enumerate(
        zip((lengths, bands), widest, (masks["time_masks"], masks["band_masks"]), strict=True), start=1
    ):
        width, start = torch.rand(2, len(lengths), count, device=frames.device)
        width = (width * (most[:, None] + 1)).long()
        start = (start * (size[:, None] - width + 1)).long()
        places = torch.arange(frames.shape[dim], device=frames.device)[:, None]
        hidden = ((places >= start[:, None]) & (places < (start + width)[:, None])).any(2)
        frames = frames.masked_fill(hidden.unsqueeze(3 - dim), 0)
    return frames


def parameters(network: nn.Module) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def build(name: str, width: int, bands: int, symbols: int, setting: Setting) -> nn.Module:
    """Return a network whose width, a multiple of `HEAD` but for HGRN's, brings its parameters closest to HGRN's of a width."""
    make = partial(NETWORKS[name], bands=bands, symbols=symbols, dropout=setting.dropout, **setting.keys)
    with torch.device("meta"):
        wanted = parameters(NETWORKS["hgrn"](width, bands, symbols, setting.dropout))
        widths = [width] if name.startswith("hgrn") else range(HEAD, 2 * width, HEAD)
        near = min(widths, key=lambda width: abs(parameters(make(width)) - wanted))
    return make(near)


def race(
    name: str, setting: Setting, options: argparse.Namespace, train: Data, heard: Data, symbols: list[str]
) -> tuple[dict[str, Any], nn.Module]:
    """Train a network; return the row of what it took and of how it hears others than test, and the network."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    gc.collect()  # of the network before, for the measure of memory
    masks = load_experiment("connected-digits").augment
    masks = {**masks, **{key: setting.masks * masks[key] for key in ("time_masks", "band_masks")}}
    on_gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    network = build(name, options.width, train.frames.shape[1], len(symbols), setting).to(device)
    rate = torch.zeros((), device=device)
    adam = {"betas": (0.9, 0.98), "weight_decay": 0.05, "fused": on_gpu, "capturable": on_gpu}
    optimizer = torch.optim.AdamW(network.parameters(), rate, **adam)
    lengths: list[int] = []

    def update(parts: list[dict[str, Tensor]]) -> tuple[Tensor]:
        (batch,) = parts
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, on_gpu):
            logits = network(masked(batch["frames"], batch["lengths"], masks), batch["mask"], lengths)
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
    curve, steps, trained, measured, frames, done = [], 0, 0.0, 0.0, 0, 0.0
    while done < 1:
        rate.fill_(setting.lr * min(1.0, 20 * done) * 0.5 * (1 + math.cos(math.pi * done)))
        started = time.perf_counter()
        for _ in range(WARM):
            batch, lengths = next(coming)
            (loss,) = step([batch])
            frames += sum(lengths)
        last = loss.item()
        trained, steps = trained + time.perf_counter() - started, steps + WARM
        done = (steps if options.steps else trained) / setting.duration
        if done - measured > 0.25 or done >= 1:
            measured = done
            curve.append((round(trained, 1), steps, round(last, 4), hear(network, heard, options, symbols)["wer"]))
    if isinstance(step, CUDAGraphWrapper):
        step.close()
    row = {
        "name": name,
        **setting._asdict(),
        "parameters": parameters(network),
        "steps": steps,
        "seconds": trained,
        "passes": steps * options.batch * options.takes / len(train.lengths),
        "recorded": step is not update,
        "ready_after_seconds": ready_after,
        "audio_seconds_a_second": frames / 100 / trained,
        "gib": (torch.cuda.max_memory_allocated() - held) / 2**30 if on_gpu else None,
        "wer": curve[-1][-1],
        "curve": curve,
    }
    return row, network


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
    metrics, _ = score(data.texts.tolist(), said)
    return {**metrics, "real_time_factor": computing / (data.lengths.sum() / 100)}


def alone(network: nn.Module, data: Data, options: argparse.Namespace, symbols: list[str]) -> float:
    """Return the seconds of computing for a second of audio, of single utterances, on one thread of the CPU."""
    some = data.part(np.arange(min(ALONE, len(data.texts))))
    some = some._replace(frames=some.frames.cpu(), labels=some.labels.cpu())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = argparse.Namespace(**{**vars(options), "batch": 1})
        hear(network, some, one, symbols)  # the kernels are compiled by now
        return hear(network, some, one, symbols)["real_time_factor"]
    finally:
        torch.set_num_threads(threads)


def chosen(
    name: str, options: argparse.Namespace, data: dict[str, Data], symbols: list[str]
) -> tuple[Setting, float, list[dict[str, Any]]]:
    """Return the setting that hears voices best which it was not trained on, its error rate, and what each arrived at."""
    keys = options.hgrn if name.startswith("hgrn") else [{}]
    durations = options.steps or options.seconds
    tried = []
    for setting in map(Setting._make, product(options.lr, options.dropout, options.masks, durations, keys)):
        rows = []
        for voice in options.left_out:
            others = data["train"].part(np.flatnonzero(data["train"].speakers != voice))
            heard = data["recorded"].part(np.flatnonzero(data["recorded"].speakers == voice))
            row, _ = race(name, setting, options, others, heard, symbols)
            rows.append({**row, "left_out": voice})
            curve = ", ".join(f"{100 * wer:.1f}" for *_, wer in row["curve"])
            print(f"{name}, {setting}: WER % of {voice}, left out: {curve}", flush=True)
        tried.append((float(np.mean([row["wer"] for row in rows])), setting, rows))
    least, best, _ = min(tried, key=lambda one: one[0])
    return best, least, [row for *_, rows in tried for row in rows]


def measure(
    name: str, options: argparse.Namespace, data: dict[str, Data], symbols: list[str]
) -> tuple[dict[str, Any], nn.Module]:
    """Return a network's row and the network: tested with the setting that suits the voice left out."""
    setting, least, tried = chosen(name, options, data, symbols)
    row, network = race(name, setting, options, data["train"], data["validation"], symbols)
    hear(network, data["test"], options, symbols)  # kernels are compiled by now
    heard = hear(network, data["test"], options, symbols)
    kept = ("wer", "cer", "interval_95", "substitutions", "deletions", "insertions", "reference_words")
    test = {key: heard[key] for key in kept}
    row |= {"test": test, "real_time_factor": heard["real_time_factor"], "left_out_wer": least, "tried": tried}
    return row, network


def table(rows: list[dict[str, Any]]) -> str:
    """Return the section of RESULTS.md."""
    rows = sorted(rows, key=lambda row: list(NETWORKS).index(row["name"]))
    heads = dict.fromkeys(row["head"] for row in rows)
    of = {head: ", ".join(TITLES[row["name"]] for row in rows if row["head"] == head) for head in heads}
    lines = [
        *(heads if len(heads) == 1 else (f"{names}: {head}" for head, names in of.items())),
        "",
        "| network | parameters | rate, dropout, masks | seconds | steps | passes | audio s/s | GiB | WER % voices "
        "left out | WER % validation | WER % test (95 %) | RTF, batches | RTF, one CPU thread | streams |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        low, high = row["test"]["interval_95"] or (math.nan, math.nan)
        lines.append(
            f"| {TITLES[row['name']]} | {row['parameters']:,} | {row['lr']:g}, {row['dropout']:g}, {row['masks']} | "
            f"{row['seconds']:.1f} | {row['steps']:,} | {row['passes']:.1f} | {row['audio_seconds_a_second']:,.0f} | "
            f"{'' if row['gib'] is None else format(row['gib'], '.2f')} | {100 * row['left_out_wer']:.2f} | "
            f"{100 * row['wer']:.2f} | {100 * row['test']['wer']:.2f} ({100 * low:.1f} to {100 * high:.1f}) | "
            f"{row['real_time_factor']:.6f} | {row['cpu']:.4f} | {'yes' if row['name'] in STREAMS else 'no'} |"
        )
    pace = {row["name"]: row["audio_seconds_a_second"] for row in rows}
    if "hgrn" in pace and "conformer" in pace:
        lines += [
            "",
            f"HGRN trains {pace['hgrn'] / pace['conformer']:.2f} times as many audio-seconds a second as the Conformer.",
        ]
    return "\n".join(lines) + "\n"


def read(file: Path | None) -> list[dict[str, Any]]:
    """Return the rows of a file that was written before, but those that say less than a table shows; none if there is none."""
    rows = json.loads(file.read_text())["rows"] if file and file.exists() else []
    return [row for row in rows if {"left_out_wer", "masks"} <= row.keys()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS), help="some of the networks; default: %(default)s")
    lists: list[tuple[str, Any, Any, str]] = [
        ("--seconds", float, [20], "of each training"),
        ("--steps", int, None, "of each training, in place of seconds"),
        ("--lr", float, [1e-3, 3e-3], "learning rates"),
        ("--dropout", float, [0.2], "probabilities"),
        ("--masks", int, [1], "times so many masks as in the experiment"),
    ]
    for option, kind, default, help in lists:
        parser.add_argument(option, type=kind, nargs="+", default=default, help=f"{help}; default: %(default)s")
    voices = ["jackson", "lucas", "nicolas"]
    parser.add_argument("--left-out", nargs="+", default=voices, help="of train, one at a time; default: %(default)s")
    parser.add_argument("--choose-only", action="store_true", help="hear the voice left out, and not the test split")
    parser.add_argument(
        "--hgrn", type=json.loads, nargs="+", default=[{}], metavar="JSON", help="more keys of HGRN's config"
    )
    parser.add_argument("--width", type=int, default=256, help="HGRN's; default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="utterances; default: %(default)s")
    parser.add_argument(
        "--takes", type=int, default=32, help="random forms of train's utterances; default: %(default)s"
    )
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
        data = {"train": load("train", options, options.takes)}
        data |= {name: load(name, options) for name in ("validation", "test")}
        data["recorded"] = load("train", options)
        if unknown := set(options.left_out) - set(data["recorded"].speakers):
            parser.error(f"--left-out: no voice of training is {', '.join(sorted(unknown))}")
        hours = data["train"].lengths.sum() / 360_000
        tried = {
            "rates": options.lr,
            "dropouts": options.dropout,
            "masks times": options.masks,
            ("steps" if options.steps else "seconds"): options.steps or options.seconds,
        }
        head = (
            f"{device}, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}. Tried for "
            f"{', '.join(options.left_out)}, left out: "
            f"{'; '.join(f'{name} ' + ' and '.join(f'{one:g}' for one in values) for name, values in tried.items())}. "
            f"Batches of {options.batch}, {len(data['train'].lengths):,} utterances of {hours:.1f} h, {options.takes} random "
            f"forms of each, written in {load_experiment('connected-digits').prepare['units']}."
        )
        if any(options.hgrn):
            head += f" HGRN with {' or '.join(map(json.dumps, options.hgrn))}."
        print(head, f"Read in {time.perf_counter() - started:.0f} s.", flush=True)
        vocabulary = json.loads((load_experiment("connected-digits").processed_dir / "vocab.json").read_text())
        symbols = sorted(vocabulary, key=vocabulary.get)
        rows = {row["name"]: row for row in read(options.json)}
        for name in options.only.split(","):
            if options.choose_only:
                chosen(name, options, data, symbols)
                continue
            row, network = measure(name, options, data, symbols)
            rows[name] = {**row, "head": head, "cpu": alone(network.cpu(), data["test"], options, symbols)}
            print(table([rows[name]]).splitlines()[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
            if options.json:
                write_json(options.json, {"rows": list(rows.values())})
        shown = list(rows.values())
    if not shown:
        return
    print(told := table(shown))
    if options.table:
        replace(options.table, MARK, told)


if __name__ == "__main__":
    main()
