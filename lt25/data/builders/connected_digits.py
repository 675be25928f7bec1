"""Connected digits: recordings of one speaker of Free Spoken Digit Dataset, strung into utterances of one to seven digits.

The dataset comes from a mirror or the Hub. One speaker, ``left_out``, is heard in the test split only. Of the others, the takes
that the authors propose for testing make the validation split, and all others the training split. Digits follow each other after
20 to 300 ms, which are filled with noise as loud as the quietest tenth of the recording before. Where asked, the training split
also has utterances by the voices of espeak-ng that train `spoken-digits`, of 16 kHz: they begin after the others.

Writes ``<split>/<number>.flac`` (mono, 8 kHz, 16 bits) and ``<split>/metadata.csv`` with the columns ``file_name``, ``text`` and
``speaker``.
"""

import csv
import io
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from lt25.data.builders import espeak

SOURCE = {
    "hub": "free-spoken-digit-dataset",
    "files": {"train": "data/train-*.parquet", "test": "data/test-*.parquet"},
}
SPEAKERS = ("george", "jackson", "lucas", "nicolas")
UTTERANCES = {"train": 3000, "validation": 300, "test": 400}
SAMPLE_RATE = 8000
PAUSE = (0.02, 0.3)

Recording = tuple[np.ndarray, str]
"""Samples float32 [n] and the word that is said."""


def build(folder: Path, options: dict[str, Any]) -> str:
    """Write the dataset into ``folder``. Returns the revision of its source.

    Args:
        folder: an empty one.
        options: may set ``left_out``, a speaker, otherwise the first; ``utterances``: {split: count}; and ``synthetic``: how
            many utterances of espeak-ng there are.

    Raises:
        UserError: if neither a mirror nor the Hub has the source.
    """
    from lt25.data import hub
    from lt25.experiment import hub_mirror

    left_out = options.get("left_out", SPEAKERS[0])
    with tempfile.TemporaryDirectory(dir=folder) as source:
        revision = hub.fetch("connected digits", SOURCE, Path(source), hub_mirror(), None)
        recordings = _recordings(Path(source), left_out)
    for split, count in {**UTTERANCES, **options.get("utterances", {})}.items():
        _write(
            folder / split, recordings[split], count, seed=[25, SPEAKERS.index(left_out), list(UTTERANCES).index(split)]
        )
    if count := options.get("synthetic"):
        _synthesize(folder / "train", count, {**UTTERANCES, **options.get("utterances", {})}["train"])
    return revision


def _recordings(source: Path, left_out: str) -> dict[str, dict[str, list[Recording]]]:
    """Return split -> speaker -> recordings."""
    import pyarrow.parquet as pq
    import soundfile

    recordings: dict[str, dict[str, list[Recording]]] = {split: defaultdict(list) for split in UTTERANCES}
    for path in sorted(source.glob("data/*.parquet")):
        proposed = "validation" if path.name.startswith("test") else "train"
        for row in pq.read_table(path, columns=["audio", "text", "speaker"]).to_pylist():
            samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            assert rate == SAMPLE_RATE, f"{path}: {rate} Hz"
            split = "test" if row["speaker"] == left_out else proposed
            recordings[split][row["speaker"]].append((samples, row["text"]))
    return recordings


def _write(folder: Path, recordings: dict[str, list[Recording]], count: int, seed: list[int]) -> None:
    """Write one split: lengths and speakers come equally often, and so does each recording of a speaker."""
    import soundfile

    folder.mkdir()
    random, speakers = np.random.default_rng(seed), sorted(recordings)
    waiting: dict[str, list[int]] = {speaker: [] for speaker in speakers}
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text", "speaker"])
        for number in range(count):
            speaker = speakers[number // 7 % len(speakers)]
            spoken = []
            for _ in range(1 + number % 7):
                waiting[speaker] = waiting[speaker] or random.permutation(len(recordings[speaker])).tolist()
                spoken.append(recordings[speaker][waiting[speaker].pop()])
            name = f"{number:05d}.flac"
            soundfile.write(folder / name, _strung(spoken, random), SAMPLE_RATE, subtype="PCM_16")
            table.writerow([name, " ".join(word for _, word in spoken), speaker])


def _synthesize(folder: Path, count: int, first: int) -> None:
    """Add utterances of espeak-ng to a split, whose numbers begin at ``first``."""
    said = [{**line, "file_name": f"{first + at:05d}.flac"} for at, line in enumerate(espeak.script("train", count))]
    espeak.speak([(folder, line) for line in said])
    with (folder / "metadata.csv").open("a", newline="") as file:
        csv.writer(file).writerows((line["file_name"], line["text"], f"espeak {line['speaker']}") for line in said)


def _strung(spoken: list[Recording], random: np.random.Generator) -> np.ndarray:
    """Join recordings, float32 [n], with pauses between them."""
    parts: list[np.ndarray] = []
    for samples, _ in spoken:
        if parts:
            quiet = float(np.quantile(np.abs(parts[-1]), 0.1))
            parts.append(quiet * random.standard_normal(round(SAMPLE_RATE * random.uniform(*PAUSE))).astype(np.float32))
        parts.append(samples)
    return np.concatenate(parts)
