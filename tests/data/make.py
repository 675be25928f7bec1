"""Tiny datasets in a temporary directory, and experiments on them."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from lt25.config.key import resolve
from lt25.config.sections import dataset_keys
from lt25.data.acquire import acquire
from lt25.data.prepare import prepare
from lt25.experiment import Dataset, Experiment
from lt25.tasks import TASKS

ROLES = {
    "classification": {"input": "image", "label": "label"},
    "speech_recognition": {"audio": "audio", "text": "text"},
    "language_modeling": {"text": "text"},
    "recall": {"text": "text", "asked": "asked", "difficulty": "difficulty"},
}
HELD_OUT = {
    "train": "all",
    "validation": {"from": "train", "fraction": 0.25},
    "test": {"from": "train", "fraction": 0.25},
}


def dataset(task, origin, columns=None, splits=None, **options) -> Dataset:
    splits = splits or HELD_OUT
    columns, splits = columns or ROLES[task], resolve(splits, dataset_keys(splits)["splits"].keys)
    return Dataset(
        "tiny",
        "Tiny",
        "none",
        "",
        origin,
        columns,
        splits,
        {"tasks": [task], "labels": None, "encoding": "utf-8", "missing": "refuse", **options},
    )


def experiment(root: Path, task: str, data: Dataset, model: dict | None = None, **options) -> Experiment:
    prepare, path = resolve(options, TASKS[task].prepare), Path("config/experiments/tiny.yaml")
    return Experiment("tiny", path, root, task, data, prepare, model or {}, None, {}, {})


def prepared(
    root: Path, task: str, data: Dataset, mirror: Path | None = None, model: dict | None = None, **options
) -> Path:
    """Acquire and prepare a dataset; return the prepared folder."""
    tiny = experiment(root, task, data, model, **options)
    acquire(data, tiny.raw_dir, mirror)
    prepare(tiny)
    return tiny.processed_dir


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def random_png(rng: np.random.Generator, shape=(4, 5)) -> bytes:
    return png(rng.integers(0, 256, shape, dtype=np.uint8))


def audio(rng: np.random.Generator, seconds: float = 0.3, rate: int = 16000, container: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * rng.standard_normal(round(seconds * rate)), rate, format=container)
    return buffer.getvalue()


def wav(samples: np.ndarray, rate: int = 16000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV")
    return buffer.getvalue()


def patched(data: bytes, place: int, value: int) -> bytes:
    """Return a file with another number of 32 bits at a place: of a WAV file its size is at 4, its sample rate at 24."""
    return data[:place] + value.to_bytes(4, "little") + data[place + 4 :]


def empty_wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    return buffer.getvalue()


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def image_folder(folder: Path, count: int = 12, shape=(4, 5)) -> Path:
    """``count`` images of each of the classes "cat" and "dog", in folders of that name."""
    rng = np.random.default_rng(1)
    for label in ("cat", "dog"):
        for number in range(count):
            write(folder / label / f"{number}.png", random_png(rng, shape))
    return folder


def audio_folder(folder: Path, texts: list[str], header: str = "file_name,text") -> Path:
    """Write noise with texts that it is long enough for, without subsampling."""
    rng = np.random.default_rng(2)
    for number in range(len(texts)):
        write(folder / f"{number}.wav", audio(rng, 0.2 + 0.05 * (number % 3), container="WAV"))
    write(folder / "metadata.csv", "\n".join([header, *(f"{n}.wav,{text}" for n, text in enumerate(texts))]) + "\n")
    return folder
