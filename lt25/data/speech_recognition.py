"""Transcribed speech: normalised log-mel frames, or the audio that they are made of, and transcripts as characters."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.audio import decode_audio, frame_count, from_int16, log_mel, normalised_log_mel, to_int16
from lt25.data.collation import IGNORE, NO_GRID, Batch, Grid, Item, pad
from lt25.data.examples import Example, Examples
from lt25.data.prepared import PreparedSplit
from lt25.data.shards import SplitWriter
from lt25.data.sources import PreparedExamples
from lt25.data.transforms import Transforms
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import read_json, write_json
from lt25.progress import say, track

BLANK, SPACE, UNKNOWN = "<pad>", "|", "<unk>"
"""The first tokens of the vocabulary: CTC's blank, which is also the padding, the space between words, and what
Wav2Vec2CTCTokenizer asks for and no transcript contains."""

MEASURED = 500
"""Means and deviations of the bands are those of so many utterances of train, its first."""


class Faulty(str):
    """Why an utterance cannot be used, in its place."""


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict:
    """Write the splits, the tokenizer and ``preprocessor_config.json``; return what `stats.json` says of splits and model.

    Raises:
        UserError: for audio that cannot be read and a transcript outside the alphabet, unless the options exclude them.
    """
    vocabulary = {token: number for number, token in enumerate([BLANK, SPACE, UNKNOWN, *options["alphabet"]])}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the utterances are the parallel work
    try:
        mean, std = _survey(dataset, examples, options)
        to_stored = _to_stored(options, mean, std)
        facts = {split: {"frames": 0, "seconds": 0.0, "characters": 0, "excluded": Counter()} for split in writers}
        speakers = {split: Counter() for split in writers}
        work = _parallel(
            lambda example: (example, _utterance(example, options, vocabulary, to_stored)), examples.of(*writers)
        )
        for example, utterance in track(work, f"{dataset.name}: utterances prepared"):
            fact = facts[example.split]
            if isinstance(utterance, Faulty):
                fact["excluded"][utterance] += 1
                continue
            stored, frames, labels, text = utterance
            seconds = round(frames * 0.01, 2)
            row = {"id": example.id, "text": text, "seconds": seconds, "path": example.where}
            if "group" in example.roles:
                row["speaker"] = str(example.roles["group"])
                speakers[example.split][row["speaker"]] += 1
            if example.split == "test":
                row["audio"] = example.roles["audio"]["bytes"]
            writers[example.split].add(row, stored, labels, frames)
            fact["frames"] += frames
            fact["seconds"] = round(fact["seconds"] + seconds, 2)
            fact["characters"] += len(text)
    finally:
        torch.set_num_threads(threads)

    for split, fact in facts.items():
        if fact["excluded"]:
            reasons = ", ".join(f"{count} times {reason}" for reason, count in fact["excluded"].most_common(3))
            say(f"{dataset.name}: {fact['excluded'].total()} utterances of {split} left out: {reasons}")
        fact["excluded"] = dict(fact["excluded"])
        if speakers[split]:
            fact["speakers"] = dict(sorted(speakers[split].items()))
    _write_extractor(folder, options, mean, std)
    _write_tokenizer(folder, vocabulary)
    return {
        "splits": facts,
        "model": {
            "vocab_size": len(vocabulary),
            "pad_token_id": vocabulary[BLANK],
            "input_size": options["n_mels"],
        },
    }


def source(split: PreparedSplit, seq_len: int) -> PreparedExamples:
    """Return where a training run's examples come from, with their lengths in frames; ``seq_len`` is of no account."""
    if not holds_audio(split):
        return PreparedExamples(split)
    return PreparedExamples(split, frame_count(split.lengths, _extractor(split)["sampling_rate"]))


def holds_audio(split: PreparedSplit) -> bool:
    """Whether a split holds samples [n], and not frames [T, n_mels]."""
    return split[0]["input"].ndim == 1


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: of audio, a random gain if the experiment wants one, and log-mel frames.

    Args:
        split: what is read; where it holds frames, nothing is done to them.
        augment: the experiment's section; ``gain_db`` is ``[low, high]`` or nothing.
        training: whether it is for training; otherwise nothing is random.

    Raises:
        UserError: if an augmentation of audio is wanted of frames.
    """
    gain_db = augment.get("gain_db") if training else None
    if not holds_audio(split):
        if gain_db is not None:
            raise UserError(
                f"augment.gain_db: needs audio, but {split.path} holds features: set prepare.store to audio, "
                f"or remove the key"
            )
        return Transforms()
    facts = _extractor(split)
    frames = partial(
        _frames,
        sample_rate=facts["sampling_rate"],
        mean=torch.tensor(facts["mean"]),
        std=torch.tensor(facts["std"]),
    )
    return Transforms((_waveform, *([partial(_gain, decibels=gain_db)] if gain_db is not None else []), frames))


def _extractor(split: PreparedSplit) -> dict[str, Any]:
    return read_json(split.path / "preprocessor_config.json", "run `lt25 prepare` on the experiment again")


def _waveform(item: Item, generator: torch.Generator) -> Item:
    return {**item, "input": from_int16(item["input"])}


def _gain(item: Item, generator: torch.Generator, decibels: tuple[float, float]) -> Item:
    """Make audio louder or softer by a gain drawn evenly from ``decibels``, lowest and highest."""
    low, high = decibels
    drawn = low + (high - low) * torch.rand((), generator=generator)
    return {**item, "input": item["input"] * 10 ** (drawn / 20)}


def _frames(item: Item, generator: torch.Generator, sample_rate: int, mean: torch.Tensor, std: torch.Tensor) -> Item:
    return {**item, "input": normalised_log_mel(item["input"], sample_rate, mean, std)}


def collate(items: list[Item], grid: Grid = NO_GRID) -> Batch:
    """Join examples into a batch.

    Args:
        items: ``{"input": [T, F], "label": int32 [L]}`` each.
        grid: further padding.

    Returns:
        ``input_features`` float32 [B, T, F], ``attention_mask`` int64 [B, T], ``labels`` int64 [B, L] padded with `IGNORE`.
    """
    features, mask = pad([item["input"] for item in items], grid)
    most = max(grid.labels, *(len(item["label"]) for item in items))
    labels = torch.full((len(items), most), IGNORE)
    for row, item in zip(labels, items, strict=True):
        row[: len(item["label"])] = item["label"]
    return {"input_features": features, "attention_mask": mask, "labels": labels}


def _survey(dataset: Dataset, examples: Examples, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each band, float32 [n_mels]."""
    count, total, squares = 0, 0.0, 0.0

    def frames_of(example: Example) -> np.ndarray | Faulty:
        samples = _samples(example, options)
        if isinstance(samples, Faulty):
            return samples
        return log_mel(torch.from_numpy(samples), options["sample_rate"], options["n_mels"]).numpy()

    utterances = _parallel(frames_of, islice(examples.of("train"), MEASURED))
    for frames in track(utterances, f"{dataset.name}: utterances measured"):
        if not isinstance(frames, Faulty):
            count, total = count + len(frames), total + frames.sum(0, dtype=np.float64)
            squares = squares + np.square(frames, dtype=np.float64).sum(0)
    if not count:
        raise UserError(
            f"config/datasets/{dataset.name}.yaml: splits.train: the training split has no usable utterance"
        )
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return mean.astype(np.float32), std.astype(np.float32)


def _to_stored(options: dict[str, Any], mean: np.ndarray, std: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes of samples float32 [n] what is stored: int16 [n], or frames float16 [T, n_mels]."""
    if options["store"] == "audio":
        # What most files hold, in half the bytes of float32.
        return to_int16
    bands = torch.from_numpy(mean), torch.from_numpy(std)
    return lambda samples: (
        normalised_log_mel(torch.from_numpy(samples), options["sample_rate"], *bands).numpy().astype(np.float16)
    )


def _utterance(
    example: Example,
    options: dict[str, Any],
    vocabulary: dict[str, int],
    to_stored: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, int, np.ndarray, str] | Faulty:
    """Return what is stored of the audio, its number of frames, labels int32 [L] and the transcript as it is learnt."""
    text = example.roles["text"]
    if not isinstance(text, str):
        raise UserError(f"{example.where}: the transcript is {type(text).__name__}, no text: mend columns.text")
    text = " ".join(text.lower().split())
    outside = sorted(set(text) - set(options["alphabet"]) - {" "})
    if outside or not text:
        fault = f"characters outside the alphabet: {' '.join(outside)}" if outside else "an empty transcript"
        return _fault(
            example, options, f"column text: {fault}", "a transcript outside the alphabet" if outside else fault
        )
    samples = _samples(example, options)
    if isinstance(samples, Faulty):
        return samples
    return (
        to_stored(samples),
        frame_count(len(samples), options["sample_rate"]),
        np.array([vocabulary[SPACE if character == " " else character] for character in text], np.int32),
        text,
    )


def _samples(example: Example, options: dict[str, Any]) -> np.ndarray | Faulty:
    """Return float32 [n] in -1..1."""
    audio = example.roles["audio"]
    if not isinstance(audio, dict) or not isinstance(audio.get("bytes"), bytes):
        raise UserError(f"{example.where}: column audio holds no bytes of an audio file: mend columns.audio")
    try:
        return decode_audio(audio["bytes"], options["sample_rate"])
    except ValueError as error:
        return _fault(example, options, str(error), "audio that cannot be read")


def _fault(example: Example, options: dict[str, Any], message: str, kind: str) -> Faulty:
    if options["faulty"] == "stop":
        raise UserError(f"{example.where}: {message}: mend it, or set prepare.faulty to exclude")
    return Faulty(kind)


def _parallel(function: Callable, items: Iterator) -> Iterator:
    """Yield ``function`` of each item, in order, computed by as many threads as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 8 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_extractor(folder: Path, options: dict[str, Any], mean: np.ndarray, std: np.ndarray) -> None:
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "LogMelFeatureExtractor",
            "feature_size": options["n_mels"],
            "sampling_rate": options["sample_rate"],
            "padding_value": 0.0,
            "mean": mean.tolist(),
            "std": std.tolist(),
        },
    )


def _write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    write_json(folder / "vocab.json", vocabulary)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": BLANK,
            "unk_token": UNKNOWN,
            "word_delimiter_token": SPACE,
            "bos_token": None,
            "eos_token": None,
            "do_lower_case": False,
        },
    )
