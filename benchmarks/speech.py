"""How fast recordings become prepared data, and prepared audio becomes the frames of a batch.

    python benchmarks/speech.py [--minutes 30] [--container FLAC] [--rate 16000] [--seconds 3] [--markdown]

The corpus is spoken by espeak-ng: utterances of some 12 s, as long as LibriSpeech's, of which twenty differ. "prepare" is the
chain's own, on all cores that the process may use: seconds of audio that become prepared data in a second. The other rows are
what one process of a loader does, in one thread: an utterance of stored audio is augmented by one thing and becomes frames.
Beside each stands the same for a second of processor time of one core, which a machine that is busy with other things changes
little; of it two cores have twice as much. Target: 200 times real time on two cores.
"""

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch
from projects import project

from lt25.data import speech_recognition
from lt25.data.acquire import acquire
from lt25.data.audio import resample
from lt25.data.espeak import Espeak
from lt25.data.prepare import prepare
from lt25.data.prepared import PreparedSplit

DATASET = {
    "title": "Corpus",
    "licence": "none",
    "tasks": ["speech_recognition"],
    "origin": {"path": "recordings"},
    "columns": {"audio": "audio", "text": "text"},
    "splits": {"train": "all", "test": {"from": "train", "fraction": 0.1}},
}
WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "sailors",
    "count",
    "silver",
    "coins",
)
DIFFERENT = 20
FACTORS = [0.9, 1.1]
AUGMENTED: dict[str, Mapping[str, object]] = {
    "frames": {},
    "speed": {"speed": FACTORS},
    "tempo": {"tempo": FACTORS},
    "pitch": {"pitch": FACTORS},
    "equalise_db": {"equalise_db": 12},
    "rooms (every second)": {"rooms": "rooms"},
    "noise_db": {"noise_db": [5, 40]},
    "noise_db, noise_files": {"noise_db": [5, 40], "noise_files": "noises"},
    "gain_db": {"gain_db": [-30, 24]},
    "telephone (all)": {"telephone": 1},
    "masks": {"time_masks": 10, "time_width": 0.05, "band_masks": 2, "band_width": 27},
}
"""What is done to an utterance before, and after, it becomes frames, which takes part of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of audio in the corpus")
    parser.add_argument("--container", default="FLAC", help="of its files, as libsndfile names it")
    parser.add_argument("--rate", type=int, default=16000, help="of its files, in Hz; 16,000 are prepared")
    parser.add_argument("--seconds", type=float, default=3, help="to measure each augmentation for")
    parser.add_argument("--markdown", action="store_true", help="print a table for RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = list(measure(Path(folder), options))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.processor() or platform.machine()}, {cores} cores{load}; {options.container}, {options.rate} Hz")
    if options.markdown:
        print("| what | audio s/s | audio s a core's second |\n| --- | ---: | ---: |")
    for what, wall, processor in rows:
        line = (
            f"| {what} | {wall:,.0f} | {processor:,.0f} |"
            if options.markdown
            else f"{what:32}{wall:10,.0f}{processor:10,.0f}"
        )
        print(line)


def measure(root: Path, options: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Yield what was measured, and the seconds of audio a second of the clock and a second of a core."""
    for store in ("features", "audio"):
        experiment = project(root, store, DATASET, {"store": store})
        if store == "features":
            count = corpus(root / "recordings", options)
            acquire(experiment.dataset, experiment.raw_dir)
            print(f"{count} utterances written", flush=True)
        begun = now()
        prepare(experiment)
        wall, processor = now() - begun
        splits = [PreparedSplit(experiment.processed_dir, split) for split in ("train", "validation", "test")]
        seconds = sum(float(split.table().seconds.sum()) for split in splits)
        yield f"prepare, store: {store}", seconds / wall, seconds / processor
    torch.set_num_threads(1)
    split = splits[0]
    durations = split.table().seconds
    for what, augment in AUGMENTED.items():
        transforms = speech_recognition.transforms(split, augment, training=True)
        seconds, index, begun = 0.0, 0, now()
        while now()[0] - begun[0] < options.seconds:
            transforms.of_item(split[index % len(split)], 0, 0, index)
            seconds, index = seconds + durations[index % len(split)], index + 1
        wall, processor = now() - begun
        yield what, seconds / wall, seconds / processor


def now() -> np.ndarray:
    """Return the seconds on the clock, and those that all cores together have spent on this process."""
    return np.array((time.perf_counter(), time.process_time()))


def corpus(folder: Path, options: argparse.Namespace) -> int:
    """Write recordings with their transcripts, and noises and rooms beside them; return how many utterances there are."""
    folder.mkdir()
    voice, rng, files, seconds = Espeak(), np.random.default_rng(0), [], 0.0
    for _ in range(DIFFERENT):
        text = " ".join(rng.choice(WORDS, 32))
        samples = resample(voice.say(text, "en-us").astype(np.float32) / 32768, voice.sample_rate, options.rate)
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, options.rate, format=options.container)
        files.append((text, buffer.getvalue(), len(samples) / options.rate))
    lines = ["file_name,text"]
    while seconds < 60 * options.minutes:
        text, content, lasts = files[len(lines) % DIFFERENT]
        name, seconds = f"{len(lines):05}.{options.container.lower()}", seconds + lasts
        (folder / name).write_bytes(content)
        lines.append(f"{name},{text}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    for name, samples in {
        "noises": rng.normal(size=(60 * 16000)) * 0.1,
        "rooms": rng.normal(size=8000) * np.exp(-np.arange(8000) / 1000),
    }.items():
        (folder.parent / name).mkdir()
        soundfile.write(folder.parent / name / "one.flac", 0.1 * samples / np.abs(samples).max(), 16000)
    return len(lines) - 1


if __name__ == "__main__":
    main()
