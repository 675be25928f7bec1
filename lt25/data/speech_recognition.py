"""Transcribed speech: normalised log-mel frames, or audio, and transcripts as characters, pieces or words."""

import io
import math
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lt25.data.audio import (
    NoSegment,
    TooLong,
    decode_audio,
    frame_count,
    from_int16,
    is_silent,
    log_mel,
    normalised_log_mel,
    to_int16,
)
from lt25.data.audio_augmentation import played_length, waveform_transforms
from lt25.data.batches import IGNORE, NO_GRID, Batch, Grid, Item, ItemTransform, Transforms, pad
from lt25.data.examples import Example, Examples
from lt25.data.faults import Fault
from lt25.data.kept import Parts, Utterance
from lt25.data.order import Reading
from lt25.data.prepared import PreparedExamples, PreparedSplit
from lt25.data.shards import SplitWriter, in_order
from lt25.data.transcripts import normalise
from lt25.data.units import written
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import read_json, write_json
from lt25.ops import frames_needed
from lt25.progress import say, track
from lt25.tasks import OF_AUDIO

SPECIAL = BLANK, SPACE, UNKNOWN = "<pad>", "|", "<unk>"
"""The first tokens of the vocabulary: CTC's blank, which is also the padding, the space between words, and what
Wav2Vec2CTCTokenizer asks for and no transcript contains."""

MASKS = ("time_masks", "time_width", "band_masks", "band_width")

OUTSIDE = "a transcript outside the alphabet"
"""The fault whose characters are counted."""

MEASURED = 500
"""Means and deviations of the bands are those of so many utterances of train, its first."""


class Units(NamedTuple):
    """What a model writes besides blank and space.

    Attributes:
        known: all of them, in the order of their numbers.
        of_word: what a word is written in.
    """

    known: list[str]
    of_word: Callable[[str], list[str]]


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict:
    """Write the splits, the tokenizer and ``preprocessor_config.json``; return what `stats.json` says of splits and model.

    Raises:
        UserError: for audio or a transcript that cannot be used, if faults are to stop.
    """
    units = _units(examples, dataset.columns, options)
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *units.known])}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the utterances are the parallel work
    try:
        assert examples.parts is not None
        parts = Parts(examples.parts)
        mean, std = _survey(dataset, examples, options, parts)
        to_stored = _to_stored(options, mean, std)
        facts = {split: {"frames": 0, "seconds": 0.0, "characters": 0} for split in writers}
        speakers = {split: Counter() for split in writers}
        outside: Counter[str] = Counter()
        columns, began, before = dataset.columns, time.monotonic(), 0.0
        work = _parallel(
            lambda example: _utterance(example, columns, options, units, vocabulary, to_stored),
            examples.of(*writers),
            _told(parts, dataset.name),
        )
        done = parts.keep(track(work, f"{dataset.name}: utterances prepared"))
        for number, (example, utterance) in enumerate(done):
            if isinstance(utterance, Fault):
                examples.faults.add(example.split, utterance)
                if utterance.reason == OUTSIDE:
                    outside.update(_outside(_normalised(example.roles["text"], options), options))
                continue
            stored, frames, labels, text, recording = utterance
            fact = facts[example.split]
            seconds = round(frames * 0.01, 2)
            row = {"id": _id(example), "text": text, "seconds": seconds, "path": example.path}
            if "group" in example.roles:
                row["speaker"] = str(example.roles["group"])
                speakers[example.split][row["speaker"]] += 1
            if example.split == "test":
                row["audio"] = recording
            writers[example.split].add(row, stored, labels, frames)
            fact["frames"] += frames
            fact["seconds"] = round(fact["seconds"] + seconds, 2)
            before += seconds if number < parts.taken else 0
            fact["characters"] += len(text)
        taken, seconds = time.monotonic() - began, sum(fact["seconds"] for fact in facts.values())
        say(f"{dataset.name}: {seconds / 3600:.2f} hours of audio, {(seconds - before) / taken:.0f} hours an hour")
    finally:
        torch.set_num_threads(threads)

    for split, fact in facts.items():
        if speakers[split]:
            fact["speakers"] = dict(sorted(speakers[split].items()))
    if outside:
        say(f"{dataset.name}: characters that prepare.alphabet lacks: {_named(outside, options)}")
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


def source(split: PreparedSplit, reading: Reading) -> PreparedExamples:
    """Return where a training run's examples come from, with their lengths in frames; ``reading`` is of no account."""
    lengths = split.lengths
    return PreparedExamples(
        split, frame_count(lengths, _extractor(split)["sampling_rate"]) if holds_audio(split) else lengths
    )


def holds_audio(split: PreparedSplit) -> bool:
    """Whether a split holds samples [n], and not frames [T, n_mels]."""
    return split[0]["input"].ndim == 1


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: audio is augmented and becomes log-mel frames, of which parts are masked.

    Args:
        split: what is read.
        augment: the experiment's section, or a part of it.
        training: whether it is for training; otherwise nothing is random.

    Raises:
        UserError: if an augmentation of audio is wanted of frames, or a folder of sounds cannot be used.
    """
    augment = augment if training else {}
    masks: tuple[ItemTransform, ...] = ()
    if augment.get("time_masks") or augment.get("band_masks"):
        masks = (partial(_mask, **{name: augment[name] for name in MASKS}),)
        if augment.get("consistency"):
            masks = (partial(_second_view, mask=masks[0]), *masks)
    if not holds_audio(split):
        for name in OF_AUDIO:
            if augment.get(name) is not None:
                raise UserError(
                    f"augment.{name}: needs audio, but {split.path} holds features: set prepare.store to audio, "
                    f"or remove the key"
                )
        return Transforms(masks)
    facts = _extractor(split)
    frames = partial(
        _frames,
        sample_rate=facts["sampling_rate"],
        mean=torch.tensor(facts["mean"]),
        std=torch.tensor(facts["std"]),
        level=facts["level"],
    )
    length = None
    if augment.get("speed") is not None or augment.get("tempo") is not None:
        length = partial(_frames_played, split=split, augment=augment, sample_rate=facts["sampling_rate"])
    items = (_waveform, *waveform_transforms(augment, facts["sampling_rate"]), frames, *masks)
    return Transforms(items, length=length)


def _extractor(split: PreparedSplit) -> dict[str, Any]:
    return read_json(split.path / "preprocessor_config.json", "run `lt25 prepare` on the experiment again")


def _frames_played(
    index: int, generator: torch.Generator, split: PreparedSplit, augment: Mapping[str, Any], sample_rate: int
) -> int:
    return frame_count(played_length(int(split.lengths[index]), generator, augment, sample_rate), sample_rate)


def _waveform(item: Item, generator: torch.Generator) -> Item:
    return {**item, "input": from_int16(item["input"])}


def _mask(
    item: Item, generator: torch.Generator, time_masks: int, time_width: float, band_masks: int, band_width: int
) -> Item:
    """Put the mean, which is zero, in place of some frames and some bands; see `lt25.tasks` for the arguments.

    SpecAugment without its warping of time (Park et al., Interspeech 2019, https://doi.org/10.21437/Interspeech.2019-2680).
    """
    frames = item["input"].clone()
    steps, bands = frames.shape
    for _ in range(time_masks):
        frames[_span(steps, int(time_width * steps), generator)] = 0
    for _ in range(band_masks):
        frames[:, _span(bands, min(band_width, bands), generator)] = 0
    return {**item, "input": frames}


def _second_view(item: Item, generator: torch.Generator, mask: ItemTransform) -> Item:
    """Add a view of the frames under masks of its own, ``second``; all that was done before is common to both views."""
    return {**item, "second": mask(item, generator)["input"]}


def _span(length: int, widest: int, generator: torch.Generator) -> slice:
    """Draw a part of a dimension, at most ``widest`` long."""
    width = int(torch.randint(widest + 1, (), generator=generator))
    start = int(torch.randint(length - width + 1, (), generator=generator))
    return slice(start, start + width)


def _frames(
    item: Item, generator: torch.Generator, sample_rate: int, mean: torch.Tensor, std: torch.Tensor, level: str
) -> Item:
    return {**item, "input": normalised_log_mel(item["input"], sample_rate, mean, std, level)}


def collate(items: list[Item], grid: Grid = NO_GRID) -> Batch:
    """Join examples into a batch.

    Args:
        items: ``{"input": [T, F], "label": int32 [L]}`` each, and ``second`` [T, F] where utterances have two views: the second
            ones are then further utterances of the batch, after the first ones of all.
        grid: further padding.

    Returns:
        ``input_features`` float32 [B, T, F], ``attention_mask`` int64 [B, T], ``labels`` int64 [B, L] padded with `IGNORE`.
    """
    items = [*items, *({**item, "input": item["second"]} for item in items if "second" in item)]
    features, mask = pad([item["input"] for item in items], grid)
    most = max(grid.labels, *(len(item["label"]) for item in items))
    labels = torch.full((len(items), most), IGNORE)
    for row, item in zip(labels, items, strict=True):
        row[: len(item["label"])] = item["label"]
    return {"input_features": features, "attention_mask": mask, "labels": labels}


def _survey(
    dataset: Dataset, examples: Examples, options: dict[str, Any], parts: Parts
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each band, float32 [n_mels], which parts have if they were measured before."""
    first = islice(examples.of("train"), MEASURED)
    if parts.facts:
        for _ in first:  # so that what cannot be read is noted in the same order
            pass
        return np.array(parts.facts["mean"], np.float32), np.array(parts.facts["std"], np.float32)
    count, total, squares, fault = 0, 0.0, 0.0, None

    def frames_of(example: Example) -> np.ndarray:
        samples = _samples(example, dataset.columns, options)
        return log_mel(torch.from_numpy(samples), options["sample_rate"], options["n_mels"], options["level"]).numpy()

    for _, frames in track(_parallel(frames_of, first), f"{dataset.name}: utterances measured"):
        if isinstance(frames, Fault):
            fault = fault or frames
            continue
        count, total = count + len(frames), total + frames.sum(0, dtype=np.float64)
        squares = squares + np.square(frames, dtype=np.float64).sum(0)
    if not count:
        named = f"; the first that cannot be used: {fault}" if fault else ""
        raise UserError(
            f"config/datasets/{dataset.name}.yaml: splits.train: the training split has no usable utterance{named}"
        )
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6)).astype(np.float32)
    mean = mean.astype(np.float32)
    parts.facts = {"mean": mean.tolist(), "std": std.tolist()}
    return mean, std


def _to_stored(options: dict[str, Any], mean: np.ndarray, std: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes of samples float32 [n] what is stored: int16 [n], or frames float16 [T, n_mels]."""
    if options["store"] == "audio":
        # What most files hold, in half the bytes of float32.
        return to_int16
    bands = torch.from_numpy(mean), torch.from_numpy(std)
    return lambda samples: (
        normalised_log_mel(torch.from_numpy(samples), options["sample_rate"], *bands, options["level"])
        .numpy()
        .astype(np.float16)
    )


def _utterance(
    example: Example,
    columns: Mapping[str, str],
    options: dict[str, Any],
    units: Units,
    vocabulary: dict[str, int],
    to_stored: Callable[[np.ndarray], np.ndarray],
) -> Utterance:
    """Prepare an utterance.

    Raises:
        Fault: if it cannot be used.
    """
    text = _transcript(example, columns["text"], options)
    said = _joined(map(units.of_word, text.split()))
    if unknown := [unit for unit in said if unit not in vocabulary]:
        message = f"column {columns['text']}: prepare.units is words, and train never says {unknown[0]!r}"
        raise Fault("a word that train lacks", example.where, message)
    samples = _samples(example, columns, options)
    frames = frame_count(len(samples), options["sample_rate"])
    labels = np.array([vocabulary[unit] for unit in said], np.int32)
    needed, there = int(frames_needed(torch.from_numpy(labels)[None])), -(-frames // options.get("subsampling", 1))
    if needed > there:
        message = f"the transcript needs {needed} frames of the model, and the audio gives {there}"
        if options.get("subsampling", 1) > 1:
            message += f" with model.subsampling {options['subsampling']}, more with less"
        raise Fault("a transcript too long for its audio", example.where, message)
    recording = _recording(example, columns, options, samples) if example.split == "test" else b""
    return Utterance(to_stored(samples), frames, labels, text, recording)


def _transcript(example: Example, column: str, options: dict[str, Any]) -> str:
    """Return the transcript of an utterance as it is learnt.

    Raises:
        Fault: if it cannot be used.
    """
    text = example.roles["text"]
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        message = f"column {column}: the transcript is {type(text).__name__}, no text"
        raise Fault("a transcript of another kind", example.where, message)
    text = _normalised(text, options)
    if outside := _outside(text, options):
        message = f"column {column}: characters outside the alphabet: {_named(Counter(outside), options)}"
        raise Fault(OUTSIDE, example.where, message)
    if not text:
        raise Fault("an empty transcript", example.where, f"column {column}: an empty transcript")
    return text


def _normalised(text: str | int, options: dict[str, Any]) -> str:
    return normalise(str(text), options["transcripts"], options["alphabet"])


def _outside(text: str, options: dict[str, Any]) -> set[str]:
    """Return the characters of a normalised transcript that the alphabet lacks."""
    return set(text) - set(options["alphabet"]) - {" "}


def _units(examples: Examples, columns: Mapping[str, str], options: dict[str, Any]) -> Units:
    """Return what transcripts are written in: the alphabet, or what the training split has of words or of pieces of them."""
    if options["units"] == "characters":
        return Units(list(options["alphabet"]), list)
    counts: Counter[str] = Counter()
    for example in examples.of("train"):
        # What cannot be used is counted when it is prepared.
        with suppress(Fault):
            counts.update(_transcript(example, columns["text"], options).split())
    if options["units"] == "words":
        return Units(sorted(counts), lambda word: [word])
    units = _pieces(counts, options)
    if (classes := len(units.known) + len(SPECIAL)) < options["vocab_size"]:
        say(f"{examples.dataset.name}: prepare.vocab_size is {options['vocab_size']}, and train's words give {classes}")
    return units


def _pieces(counts: Mapping[str, int], options: dict[str, Any]) -> Units:
    """Return pieces of words by byte-pair encoding (Sennrich et al., ACL 2016): characters, and what stands together most often.

    Args:
        counts: word -> how often it is said.
        options: ``alphabet``, and ``vocab_size``, which counts blank, space and `UNKNOWN` too.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    size, alphabet = options["vocab_size"] - len(SPECIAL), list(options["alphabet"])
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    # Sorted, so that what comes equally often is always joined in the same order; in lines, because a word may come often.
    lines = (
        " ".join([word] * min(count - at, 1000))
        for word, count in sorted(counts.items())
        for at in range(0, count, 1000)
    )
    tokenizer.train_from_iterator(lines, trainer)
    known = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    numbers = {piece: number for number, piece in enumerate(known)}
    return Units(known, cache(lambda word: written(word, numbers)))


def _joined(words: Iterable[list[str]]) -> list[str]:
    """Return the units of words one after another, with `SPACE` between words."""
    return [unit for number, word in enumerate(words) for unit in ([SPACE, *word] if number else word)]


def _samples(example: Example, columns: Mapping[str, str], options: dict[str, Any]) -> np.ndarray:
    """Return the samples of an utterance, float32 [n] in -1..1.

    Raises:
        Fault: if they cannot be used.
    """
    audio, seconds = example.roles["audio"], options["max_seconds"]
    if not isinstance(audio, dict) or not isinstance(audio.get("bytes"), bytes):
        message = f"column {columns['audio']} holds no bytes of an audio file"
        raise Fault("a file that cannot be read", example.where, message)
    segment = _segment(example, columns)
    try:
        samples = decode_audio(audio["bytes"], options["sample_rate"], seconds, *segment)
    except TooLong as error:
        raise Fault(
            "a recording that is too long", example.where, f"{error}, prepare.max_seconds is {seconds:g}"
        ) from None
    except NoSegment as error:
        raise Fault("a segment that is not there", example.where, str(error)) from None
    except ValueError as error:
        raise Fault("a file that cannot be read", example.where, str(error)) from None
    if is_silent(samples):
        raise Fault("a silent recording", example.where, "the audio is silent")
    return samples


def _segment(example: Example, columns: Mapping[str, str]) -> tuple[float, float]:
    """Return where in its file an utterance begins and ends, in seconds; without such columns it is all of it, 0 to infinity.

    Raises:
        Fault: if a column holds no such number.
    """

    def seconds(role: str, otherwise: float) -> float:
        if role not in example.roles:
            return otherwise
        try:
            found = float(example.roles[role])
        except (TypeError, ValueError):
            found = math.nan
        if not 0 <= found < math.inf:
            message = f"column {columns[role]}: expected seconds, found {str(example.roles[role])[:40]!r}"
            raise Fault("a segment that is not there", example.where, message)
        return found

    start = seconds("start", 0.0)
    return start, start + seconds("duration", math.inf) if "duration" in example.roles else seconds("end", math.inf)


def _id(example: Example) -> str:
    """Return what tables call an utterance: of a segment also where it begins, if the dataset has no ``id``."""
    if "start" in example.roles and "id" not in example.roles:
        return f"{example.id}@{float(example.roles['start']):g}"
    return example.id


def _recording(example: Example, columns: Mapping[str, str], options: dict[str, Any], samples: np.ndarray) -> bytes:
    """Return the file of an utterance, or a FLAC of its samples if it is a segment of one."""
    if _segment(example, columns) == (0.0, math.inf):
        return example.roles["audio"]["bytes"]
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, options["sample_rate"], format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _named(outside: Counter[str], options: dict[str, Any]) -> str:
    """Name characters that the alphabet lacks, in how many transcripts they are, and the keys that admit them."""
    keys = ["prepare.alphabet"]
    if options["transcripts"]["digits"] == "keep" and any(character in "0123456789" for character in outside):
        keys.append("prepare.transcripts.digits (words)")
    if options["transcripts"]["case"] == "keep" and any(character.lower() != character for character in outside):
        keys.append("prepare.transcripts.case (lower)")
    if options["transcripts"]["punctuation"] == "keep" and any(
        unicodedata.category(character)[0] == "P" for character in outside
    ):
        keys.append("prepare.transcripts.punctuation (drop)")
    most = sorted(outside.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{character} ({count})" for character, count in most[:20])
    return f"{counts}; {' or '.join(keys)} admits them"


def _told(parts: Parts, name: str) -> Iterator[Utterance | Fault]:
    """Yield what parts hold, and say where preparation goes on after them."""
    yield from parts.kept()
    if parts.taken:
        say(f"{name}: {parts.taken:,} utterances were prepared before: going on after them")


def _parallel(
    function: Callable[[Example], Any], examples: Iterator[Example], known: Iterable[Any] = ()
) -> Iterator[tuple[Example, Any]]:
    """Return examples, each with ``function`` of it or the fault that this raises, in order; all cores compute.

    Args:
        function: what is computed.
        examples: read while others are computed, the same number ahead whatever is known.
        known: the results of the first of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    results = iter(known)

    def work(job: tuple[Example, Any]) -> tuple[Example, Any]:
        example, result = job
        try:
            return example, function(example) if result is None else result
        except Fault as fault:
            return example, fault

    return in_order(work, ((example, next(results, None)) for example in examples), cores, 8 * cores)


def _write_extractor(folder: Path, options: dict[str, Any], mean: np.ndarray, std: np.ndarray) -> None:
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "LogMelFeatureExtractor",
            # What `AutoProcessor` makes of the extractor and the tokenizer.
            "processor_class": "Wav2Vec2Processor",
            "feature_size": options["n_mels"],
            "sampling_rate": options["sample_rate"],
            "padding_value": 0.0,
            "level": options["level"],
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
