"""Preparing transcribed speech: normalised log-mel frames and transcripts as characters."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.audio import decode_audio, log_mel
from lt25.data.examples import Example, Examples
from lt25.data.shards import SplitWriter
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import write_json
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
        facts = {split: {"frames": 0, "seconds": 0.0, "characters": 0, "excluded": Counter()} for split in writers}
        speakers = {split: Counter() for split in writers}
        work = _parallel(lambda example: (example, _utterance(example, options, vocabulary)), examples.of(*writers))
        for example, utterance in track(work, f"{dataset.name}: utterances prepared"):
            fact = facts[example.split]
            if isinstance(utterance, Faulty):
                fact["excluded"][utterance] += 1
                continue
            frames, labels, text = utterance
            seconds = round(len(frames) * 0.01, 2)
            row = {"id": example.id, "text": text, "seconds": seconds, "path": example.where}
            if "group" in example.roles:
                row["speaker"] = str(example.roles["group"])
                speakers[example.split][row["speaker"]] += 1
            if example.split == "test":
                row["audio"] = example.roles["audio"]["bytes"]
            writers[example.split].add(row, ((frames - mean) / std).astype(np.float16), labels)
            fact["frames"] += len(frames)
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


def _survey(dataset: Dataset, examples: Examples, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each band, float32 [n_mels]."""
    count, total, squares = 0, 0.0, 0.0
    utterances = _parallel(lambda example: _frames(example, options), islice(examples.of("train"), MEASURED))
    for frames in track(utterances, f"{dataset.name}: utterances measured"):
        if not isinstance(frames, Faulty):
            count, total = count + len(frames), total + frames.sum(0, dtype=np.float64)
            squares = squares + np.square(frames, dtype=np.float64).sum(0)
    if not count:
        raise UserError(
            f"config/datasets/{dataset.name}.yaml: splits.train: the training split has no usable utterance"
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return mean.astype(np.float32), std.astype(np.float32)


def _utterance(
    example: Example, options: dict[str, Any], vocabulary: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, str] | Faulty:
    """Return frames float32 [T, n_mels], labels int32 [L] and the transcript as it is learnt."""
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
    frames = _frames(example, options)
    if isinstance(frames, Faulty):
        return frames
    return (
        frames,
        np.array([vocabulary[SPACE if character == " " else character] for character in text], np.int32),
        text,
    )


def _frames(example: Example, options: dict[str, Any]) -> np.ndarray | Faulty:
    audio = example.roles["audio"]
    if not isinstance(audio, dict) or not isinstance(audio.get("bytes"), bytes):
        raise UserError(f"{example.where}: column audio holds no bytes of an audio file: mend columns.audio")
    try:
        samples = decode_audio(audio["bytes"], options["sample_rate"])
    except ValueError as error:
        return _fault(example, options, str(error), "audio that cannot be read")
    return log_mel(torch.from_numpy(samples), options["sample_rate"], options["n_mels"]).numpy()


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
