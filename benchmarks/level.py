"""How features should follow the level of a recording: error rates of a recogniser of digits, played at four levels.

    LT25_HUB_MIRROR=/data/hub python benchmarks/level.py [--steps 300] [--seeds 2] [--jobs 6] [--only "recorded;peak, running"]

Free Spoken Digit Dataset has four speakers, recorded at different levels. For each choice of features, and with two of the
speakers at a time, a model as in ``config/experiments/fsdd.yaml`` is trained on nine tenths of what these two say in the training
split. It then hears the other tenth ("known voices") and what the other two say ("strangers"), as recorded and played louder
and softer, with samples of 16 bits that are cut off where they do not suffice. Nothing is read of the test split. A table gives
word error rates in %, over both pairs of speakers and all seeds.

The choices: ``recorded`` takes the logarithm of the power in each mel band as it is; ``bands`` subtracts each band's mean (and
divides by its deviation) over the utterance or over its frames so far; ``peak`` and ``mean`` divide the power by the greatest or
mean power of a frame, over the utterance or over its frames so far; ``gain`` plays training utterances at random levels.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parents[1]
LEVELS = (12, 0, -12, -24)
PAIRS = (("george", "jackson"), ("lucas", "nicolas"))
GAIN = (-30.0, 18.0)
RATE, BANDS, BATCH = 16000, 40, 32
FLOOR, RELATIVE_FLOOR, SILENCE = 1e-6, 1e-4, 1e-5

Frames = np.ndarray
"""The power of each band, or its logarithm, float64 [T, n_mels]."""


def recorded(power: Frames) -> Frames:
    return np.log(power + FLOOR)


def bands(power: Frames, running: bool, scaled: bool) -> Frames:
    frames = np.log(power + FLOOR)
    if running:
        count = np.arange(1, len(frames) + 1)[:, None]
        mean = frames.cumsum(0) / count
        deviation = np.sqrt(np.maximum((frames**2).cumsum(0) / count - mean**2, 0) + 0.25)
    else:
        mean, deviation = frames.mean(0), frames.std(0) + 0.1
    return (frames - mean) / (deviation if scaled else 1)


def peak(power: Frames, running: bool, floor: float = RELATIVE_FLOOR, fall: float = 0.0) -> Frames:
    """``fall``: decibels a second by which the greatest power is forgotten."""
    loudness = np.log(np.maximum(power.mean(1), SILENCE))
    fallen = fall / 100 * np.log(10) / 10 * np.arange(len(power))
    level = np.maximum.accumulate(loudness + fallen) - fallen if running else loudness.max()
    return np.log(power / np.exp(np.reshape(level, (-1, 1))) + floor)


def mean(power: Frames, running: bool, floor: float = RELATIVE_FLOOR) -> Frames:
    loudness = power.mean(1)
    level = loudness.cumsum() / np.arange(1, len(power) + 1) if running else loudness.mean()
    return np.log(power / np.reshape(np.maximum(level, SILENCE), (-1, 1)) + floor)


CHOICES: dict[str, tuple[Callable[[Frames], Frames], bool]] = {
    "recorded": (recorded, False),
    "recorded, gain": (recorded, True),
    "bands, utterance": (partial(bands, running=False, scaled=True), False),
    "bands less mean, utterance": (partial(bands, running=False, scaled=False), False),
    "bands, running": (partial(bands, running=True, scaled=True), False),
    "bands less mean, running": (partial(bands, running=True, scaled=False), False),
    "mean, utterance": (partial(mean, running=False), False),
    "mean, running": (partial(mean, running=True), False),
    "peak, utterance": (partial(peak, running=False), False),
    "peak, running": (partial(peak, running=True), False),
    "peak, running, floor 1e-5": (partial(peak, running=True, floor=1e-5), False),
    "peak, running, floor 1e-3": (partial(peak, running=True, floor=1e-3), False),
    "peak, running, falls 3 dB/s": (partial(peak, running=True, fall=3.0), False),
    "peak, running, falls 12 dB/s": (partial(peak, running=True, fall=12.0), False),
    "peak, running, gain": (partial(peak, running=True), True),
}


@cache
def read(mirror: Path) -> list[tuple[np.ndarray, str, str]]:
    """Return the training split: float32 samples [n] at 16 kHz, text and speaker of each utterance."""
    import pyarrow.parquet as pq

    from lt25.data.audio import decode_audio

    (path,) = (mirror / "free-spoken-digit-dataset" / "data").glob("train-*.parquet")
    rows = pq.read_table(path, columns=["audio", "text", "speaker"]).to_pylist()
    return [(decode_audio(row["audio"]["bytes"], RATE), row["text"], row["speaker"]) for row in rows]


def play(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Return samples at another level, as a file of 16 bits holds them."""
    from lt25.data.audio import to_int16

    return to_int16(samples * 10 ** (decibels / 20)).astype(np.float32) / 32768


def power_of(samples: np.ndarray) -> Frames:
    import torch

    from lt25.data.audio import _mel_spectrogram, frame_count

    transform = _mel_spectrogram(RATE, BANDS)
    frames = frame_count(len(samples), RATE)
    padded = np.pad(samples, (0, (frames - 1) * 160 + transform.n_fft - len(samples)))
    return transform(torch.from_numpy(padded)).T.double().numpy()


@cache
def powers(mirror: Path, level: int) -> list[Frames]:
    """Return the frames of all utterances, played at a level."""
    return [power_of(play(samples, level)) for samples, _, _ in read(mirror)]


def measure(mirror: Path, choice: str, pair: int, seed: int, steps: int) -> dict[str, list[int]]:
    """Train a model with one choice and let it hear: voices and level -> [wrong, all] utterances, of one word each."""
    import torch
    from torch import nn

    from lt25.data.speech_recognition import collate
    from lt25.models import HGRNConfig, HGRNForCTC
    from lt25.ops import ctc_loss, greedy_ids

    torch.set_num_threads(2)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features, gain = CHOICES[choice]
    vocabulary = {letter: number for number, letter in enumerate(" abcdefghijklmnopqrstuvwxyz", start=1)}
    utterances = read(mirror)
    labels = [torch.tensor([vocabulary[letter] for letter in text]) for _, text, _ in utterances]
    parts: dict[str, list[int]] = {"train": [], "known voices": [], "strangers": []}
    for number, (samples, _, speaker) in enumerate(utterances):
        held_out = hashlib.sha256(samples.tobytes()).digest()[0] < 26
        parts["strangers" if speaker not in PAIRS[pair] else "known voices" if held_out else "train"].append(number)

    plain = {number: features(powers(mirror, 0)[number]) for number in parts["train"]}
    whole = np.concatenate(list(plain.values()))
    centre, deviation = whole.mean(0), whole.std(0)

    def batch(frames: list[Frames], numbers: list[int]) -> dict:
        items = [
            {"input": torch.from_numpy((one - centre) / deviation).float(), "label": labels[number]}
            for one, number in zip(frames, numbers, strict=True)
        ]
        return {name: tensor.to(device) for name, tensor in collate(items).items()}

    fields = json.loads((REPOSITORY / "config" / "models" / "hgrn_ctc_tiny.json").read_text())
    fields = {key: value for key, value in fields.items() if key not in ("model_type", "architectures")}
    config = HGRNConfig(**fields, input_size=BANDS, vocab_size=len(vocabulary) + 1, pad_token_id=0)
    model = HGRNForCTC(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 30, 0.5 + 0.5 * np.cos(np.pi * max(step - 30, 0) / (steps - 30)))
    )
    random, order = np.random.default_rng(seed), []
    for _ in range(steps):
        if len(order) < BATCH:
            order = random.permutation(parts["train"]).tolist()
        chosen = [order.pop() for _ in range(BATCH)]
        frames = [plain[number] for number in chosen]
        if gain:
            frames = [features(power_of(play(utterances[n][0], random.uniform(*GAIN)))) for n in chosen]
        inputs = batch(frames, chosen)
        targets = inputs.pop("labels")
        output = model(**inputs)
        loss = ctc_loss(output.logits, output.logit_lengths, targets) / (targets >= 0).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()

    model.eval()
    found = {}
    for name in ("known voices", "strangers"):
        for level in LEVELS:
            errors = 0
            for at in range(0, len(parts[name]), 100):
                some = parts[name][at : at + 100]
                inputs = batch([features(powers(mirror, level)[number]) for number in some], some)
                inputs.pop("labels")
                with torch.inference_mode():
                    output = model(**inputs)
                heard = greedy_ids(output.logits, output.logit_lengths)
                errors += sum(ids != labels[number].tolist() for ids, number in zip(heard, some, strict=True))
            found[f"{name} {level}"] = [errors, len(parts[name])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, default=os.environ.get("LT25_HUB_MIRROR"), help="with the dataset")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=6, help="trainings at a time")
    parser.add_argument("--only", help="some of the choices, separated by semicolons")
    options = parser.parse_args()
    if options.mirror is None:
        sys.exit("benchmarks/level.py: name a mirror that has the dataset: --mirror, or LT25_HUB_MIRROR")
    names = options.only.split(";") if options.only else list(CHOICES)
    work = [(name, pair, seed) for seed in range(options.seeds) for name in names for pair in range(len(PAIRS))]
    sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    started = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        results = pool.map(measure, *zip(*((options.mirror, *one, options.steps) for one in work), strict=True))
        for number, ((name, _, _), found) in enumerate(zip(work, results, strict=True), start=1):
            for key, counts in found.items():
                sums[name][key] = sums[name].get(key, 0) + np.array(counts)
            print(f"{number}/{len(work)} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    keys = [f"{voices} {level}" for voices in ("known voices", "strangers") for level in LEVELS]
    print("| features |", " | ".join(f"{key} dB" for key in keys), "|")
    print("| --- |", " | ".join("---:" for _ in keys), "|")
    for name in names:
        rates = (100 * sums[name][key][0] / sums[name][key][1] for key in keys)
        print(f"| {name} |", " | ".join(f"{rate:.1f}" for rate in rates), "|")


if __name__ == "__main__":
    main()
