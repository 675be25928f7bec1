"""Labelled images, series and recordings: preparing them, and bringing them to a model."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.audio import HOP_SECONDS, TooLong, decode_audio, log_mel, waveform
from lt25.data.audio_augmentation import waveform_transform
from lt25.data.batches import NO_GRID, Batch, Grid, Item, Transforms, pad
from lt25.data.examples import Example, Examples
from lt25.data.faults import Fault, Faults
from lt25.data.image_augmentation import image_transform
from lt25.data.images import (
    ImageError,
    TooLarge,
    decode_image,
    image_facts,
    image_to_series,
    pixel_order,
)
from lt25.data.order import Reading
from lt25.data.prepared import PreparedExamples, PreparedSplit
from lt25.data.read import kind_of
from lt25.data.series import as_series, decode_array, normalise_series
from lt25.data.series_augmentation import series_transform
from lt25.data.shards import SplitWriter
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import write_json
from lt25.progress import say, track
from lt25.tasks import augment_complaint, kind_complaint

MEASURED = 10_000
"""Mean and standard deviation are those of so many examples of train, its first."""

LONGEST_SIDE = 32
"""Images without a ``prepare.size`` are made so small that their longer side has at most so many pixels."""

CLASSES = 10_000
"""The most classes; more are numbers or names of the examples themselves."""

LEVEL = "running"
"""What the power of recordings is measured by, as `lt25.data.audio.log_mel` takes it: how loud they are tells no class."""

_NAMES = {"image": "an image", "series": "a series", "audio": "a recording"}


@dataclass(frozen=True)
class Form:
    """What training's inputs look like, and so all of the dataset's.

    Attributes:
        kind: "image", "series" or "audio".
        channels: of an image, 1 or 3; the values of a step of a series; the mel bands of a recording, or 1 for its samples.
        size: [height, width] of images, otherwise None.
        ranges: depth of images, as `ImageFacts` has it -> the values that become 0 and 255, the least and most of train's.
    """

    kind: str
    channels: int
    size: list[int] | None = None
    ranges: dict[str, list[float]] = field(default_factory=dict)


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict:
    """Write the splits and ``preprocessor_config.json``; return what `stats.json` says of splits and model.

    Raises:
        UserError: if train has no usable example, or labels that are no classes.
    """
    missing = dataset.options["missing"] == "carry"
    options = {**options, "missing": missing}
    form, labels = _survey(dataset, examples, options)
    names, numbers = _classes(dataset, labels, examples.faults)
    mean, std = _measure(dataset, examples, options, form)
    order = None
    if options["permutation"] is not None and form.size is not None:
        order = pixel_order(form.size, options["permutation"])
    counts = {split: Counter() for split in writers}
    for example in track(examples.of(*writers), f"{dataset.name}: examples prepared"):
        try:
            number = _number(example, numbers)
            values = _values(example, form, options)
            if form.kind == "image":
                inputs = image_to_series(values, options["layout"], mean, std, order)
            else:
                inputs = _normalised(values, mean, std, missing and form.kind == "series", example)
        except Fault as fault:
            examples.faults.add(example.split, fault)
            continue
        if form.kind != "series":
            # Half precision tells the 256 levels of a pixel apart, and halves what is read while training. What is brighter than
            # it can say stays the brightest.
            most = np.finfo(np.float16).max
            inputs = inputs.clip(-most, most).astype(np.float16)
        row = {"id": example.id, "label": names[number], "path": example.path}
        if example.split == "test" and form.kind != "series":
            row[form.kind] = example.roles["input"]["bytes"]
        writers[example.split].add(row, inputs, number)
        counts[example.split][row["label"]] += 1

    rows = form.kind == "image" and options["layout"] == "rows"
    input_size = form.channels * form.size[1] if rows and form.size else form.channels
    input_size *= 2 if missing and form.kind == "series" else 1
    write_json(folder / "preprocessor_config.json", _extractor(form, options, input_size, mean, std))
    return {
        "splits": {split: {"labels": dict(sorted(count.items()))} for split, count in counts.items()},
        "model": {
            "num_labels": len(names),
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
            "input_size": input_size,
        },
    }


def source(split: PreparedSplit, reading: Reading) -> PreparedExamples:
    """Return where a training run's examples come from; ``reading`` is of no account."""
    return PreparedExamples(split)


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: those of a training are augmented.

    Raises:
        UserError: if `augment` has a key for inputs of another kind, or moves images out of sight.
    """
    if not training or not any(augment.values()):
        return Transforms()
    extractor = json.loads((split.path / "preprocessor_config.json").read_text())
    kind = (
        "image" if extractor.get("size") else "audio" if "Waveform" in extractor["feature_extractor_type"] else "series"
    )
    if complaint := augment_complaint(augment, kind):
        raise UserError(f"{complaint} (found in {split.path})")
    if kind == "audio":
        transform = waveform_transform(augment)
    elif kind == "series":
        transform = series_transform(augment, extractor.get("missing", False))
    else:
        order = pixel_order(extractor["size"], extractor["permutation"])
        transform = image_transform(
            augment, extractor["size"], len(extractor["mean"]), None if order is None else torch.from_numpy(order)
        )
    return Transforms(batch=() if transform is None else (transform,))


def collate(items: list[Item], grid: Grid = NO_GRID) -> Batch:
    """Join examples into a batch.

    Args:
        items: ``{"input": [T, C], "label": int64 []}`` each.
        grid: further padding.

    Returns:
        ``input_features`` float32 [B, T, C], ``attention_mask`` int64 [B, T] (left out where nothing is padded), ``labels``
        int64 [B].
    """
    features, mask = pad([item["input"] for item in items], grid)
    batch = {"input_features": features, "labels": torch.stack([item["label"] for item in items]).long()}
    return batch if mask.numpy().all() else {**batch, "attention_mask": mask}


def collate_stacked(examples: Item) -> Batch:
    """`collate` of examples that are stacked already: ``{"input": [B, T, C], "label": [B]}``."""
    return {"input_features": examples["input"].float(), "labels": examples["label"].long()}


def _survey(dataset: Dataset, examples: Examples, options: dict[str, Any]) -> tuple[Form, set]:
    """Return what the inputs of train look like, and its labels; all of train is looked through.

    Labels are all names or all numbers, whichever most are: the others cannot be used.
    """
    labels, kinds_of_label, kinds, widths = set(), Counter(), Counter(), Counter()
    sizes, greys, transparent, ranges = Counter(), Counter(), 0, {}
    for example in track(examples.of("train"), f"{dataset.name}: examples seen"):
        try:
            label = _label(example)
            match kind := _kind(example):
                case "image":
                    facts = _decoded(image_facts, example)
                    sizes[facts.size] += 1
                    greys[facts.grey] += 1
                    transparent += facts.transparent
                    if facts.depth and facts.range:
                        low, high = ranges.get(facts.depth, facts.range)
                        ranges[facts.depth] = [min(low, facts.range[0]), max(high, facts.range[1])]
                case "series":
                    widths[_series(example, options).shape[1]] += 1
        except Fault as fault:
            examples.faults.add("train", fault)
            continue
        labels.add(label)
        kinds_of_label[type(label)] += 1
        kinds[kind] += 1
    if not kinds:
        examples.faults.report(0)
    (kind, _), *_ = kinds.most_common(1)
    if complaint := kind_complaint(options, kind):
        raise UserError(f"dataset {dataset.name}: {complaint}")
    (kind_of_label, _), *_ = kinds_of_label.most_common(1)
    labels = {label for label in labels if type(label) is kind_of_label}
    if kind == "series":
        return Form(kind, widths.most_common(1)[0][0]), labels
    if kind == "audio":
        return Form(kind, options["n_mels"] or 1), labels
    if transparent:
        say(f"{dataset.name}: {transparent} images with transparency are laid on white")
    size = options["size"] or _common_size(dataset, sizes)
    channels = 1 if options["grey"] or set(greys) == {True} else 3
    return Form(kind, channels, list(size), dict(sorted(ranges.items()))), labels


def _common_size(dataset: Dataset, sizes: Counter) -> list[int]:
    """Return the [height, width] that images of some sizes are brought to, and say so where any is changed."""
    every = np.array(list(sizes.elements()))
    height, width = np.median(every, axis=0)
    smaller = min(1, LONGEST_SIDE / max(height, width))
    size = [max(1, round(height * smaller)), max(1, round(width * smaller))]
    if set(sizes) != {tuple(size)}:
        (least, most), several = (every[every.prod(1).argsort()[[0, -1]]]), len(sizes) > 1
        found = f"{least[0]} by {least[1]} to {most[0]} by {most[1]}" if several else f"{most[0]} by {most[1]}"
        say(
            f"{dataset.name}: images of {found} pixels are brought to {size[0]} by {size[1]}; prepare.size sets another"
        )
    return size


def _measure(
    dataset: Dataset, examples: Examples, options: dict[str, Any], form: Form
) -> tuple[list[float], list[float]]:
    """Return mean [C] and standard deviation [C] of the channels over train's first `MEASURED` examples; of images, in 0..1.

    Each example's own mean is subtracted before it is squared, and the parts are joined after Chan, Golub and LeVeque (1983):
    a small change on top of a large offset keeps its digits.
    """
    if form.kind == "audio" and not options["n_mels"]:
        return [0.0], [1.0]
    mean, squares, count = np.zeros(form.channels), np.zeros(form.channels), np.zeros(form.channels, np.int64)
    measured = islice(_usable(examples, form, options), MEASURED)
    for values in track(measured, f"{dataset.name}: examples measured"):
        flat = np.asarray(values, np.float64).reshape(-1, form.channels)
        known = ~np.isnan(flat)
        n = known.sum(0)
        own = np.where(known, flat, 0).sum(0) / n.clip(1)
        every = (count + n).clip(1)
        squares = squares + np.square(np.where(known, flat - own, 0)).sum(0) + np.square(own - mean) * count * n / every
        mean = mean + (own - mean) * n / every
        count = count + n
    if not count.any():
        examples.faults.report(0)
    scale = 255 if form.kind == "image" else 1
    std = np.sqrt(squares / count.clip(1))
    std[std == 0] = scale
    return (mean / scale).tolist(), (std / scale).tolist()


def _normalised(values: np.ndarray, mean: list[float], std: list[float], missing: bool, example: Example) -> np.ndarray:
    """`normalise_series`, whose complaint is a fault of the example."""
    try:
        return normalise_series(values, mean, std, missing)
    except ValueError as error:
        raise Fault("values that are no numbers", example.where, str(error)) from None


def _usable(examples: Examples, form: Form, options: dict[str, Any]) -> Iterator[np.ndarray]:
    for example in examples.of("train"):
        try:
            yield _values(example, form, options)
        except Fault as fault:
            examples.faults.add("train", fault)


def _extractor(
    form: Form, options: dict[str, Any], input_size: int, mean: list[float], std: list[float]
) -> dict[str, Any]:
    """Return the feature extractor's configuration."""
    if form.kind == "audio":
        recording = {"feature_size": input_size, "sampling_rate": options["sample_rate"], "padding_value": 0.0}
        if not options["n_mels"]:
            return {"feature_extractor_type": "WaveformFeatureExtractor", **recording}
        return {
            "feature_extractor_type": "LogMelFeatureExtractor",
            **recording,
            "level": LEVEL,
            "mean": mean,
            "std": std,
        }
    return {
        "feature_extractor_type": "SeriesFeatureExtractor",
        "layout": options["layout"] if form.kind == "image" else "series",
        "size": form.size,
        "ranges": form.ranges,
        "permutation": options["permutation"],
        "missing": options["missing"] and form.kind == "series",
        "feature_size": input_size,
        "mean": mean,
        "std": std,
    }


def _label(example: Example) -> str | int:
    """Return an example's label: a name, or a whole number.

    Raises:
        Fault: if it is neither.
    """
    label = example.roles["label"]
    if isinstance(label, bool):
        return str(label)
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if isinstance(label, str | int):
        return label.strip() if isinstance(label, str) else label
    raise Fault(
        "an unusable label", example.where, f"the label {str(label)[:40]!r} is neither a name nor a whole number"
    )


def _number(example: Example, numbers: dict[Any, int]) -> int:
    """Return the number of an example's class."""
    if (label := _label(example)) not in numbers:
        known = ", ".join(map(str, list(numbers)[:10]))
        raise Fault("an unusable label", example.where, f"the label {label!r} is none of the training split's: {known}")
    return numbers[label]


def _classes(dataset: Dataset, labels: set, faults: Faults) -> tuple[list[str], dict[Any, int]]:
    """Return names of the classes in the order of their numbers, and label -> number of its class.

    Numbers, also those that a table has as texts, are classes in the order of their values.
    """
    given = dataset.options["labels"]
    where = f"config/datasets/{dataset.name}.yaml: labels"
    if len(labels) > CLASSES:
        raise UserError(
            f"config/datasets/{dataset.name}.yaml: columns.label: {len(labels):,} different labels in train, at most {CLASSES:,} "
            "are classes: name another column"
        )
    if len(labels) == 1 and not given:
        left_out = f"; the first that was left out: {faults.named()[0]}" if faults.counts("train") else ""
        raise UserError(
            f"config/datasets/{dataset.name}.yaml: columns.label: all of the training split has the label {_quoted(*labels)}: "
            f"two classes are needed; if they are folders, origin.path is the folder that these lie in{left_out}"
        )
    values = _as_numbers(labels)
    ordered = sorted(labels, key=values.__getitem__) if values else sorted(labels)
    if not given:
        return [str(label) for label in ordered], {label: number for number, label in enumerate(ordered)}
    if not values or labels <= set(given):
        if unknown := labels - set(given):
            raise UserError(f"{where}: the training split has {_quoted(sorted(unknown)[:3])}, which is not listed")
        return given, {name: number for number, name in enumerate(given)}
    if all(value in range(len(given)) for value in values.values()):
        kind = type(ordered[0])
        every = {kind(number): number for number in range(len(given))}
        return given, every | {label: int(value) for label, value in values.items()}
    if len(labels) == len(given):
        return given, {label: number for number, label in enumerate(ordered)}
    raise UserError(
        f"{where}: the training split has {len(labels)} labels, {ordered[0]} to {ordered[-1]}, and {len(given)} names are given"
    )


def _quoted(labels: Any) -> str:
    """Return labels as they stand in a dataset's file, in letters of any language."""
    return json.dumps(labels, ensure_ascii=False)


def _as_numbers(labels: set) -> dict[Any, float]:
    """Return the numbers that labels are, or nothing if one is none."""
    try:
        values = {label: float(label) for label in labels}
    except (ValueError, OverflowError):
        return {}
    return values if all(map(math.isfinite, values.values())) else {}


def _kind(example: Example) -> str:
    """Return what an input is: "image", "audio" or "series".

    Raises:
        Fault: if it is none of them.
    """
    if (kind := kind_of(example.roles["input"])) not in _NAMES:
        message = f"the input is {kind}, no file and no list of numbers"
        raise Fault("input of another kind", example.where, message)
    return kind


def _values(example: Example, form: Form, options: dict[str, Any]) -> np.ndarray:
    """Return an example's pixels [H, W, C] in 0..255, series float64 [T, C], log-mel frames float32 [T, C] or
    samples float32 [T, 1].

    Raises:
        Fault: if it has none, or of another form.
    """
    if (kind := _kind(example)) != form.kind:
        message = f"the input is {_NAMES[kind]}, most of train's are {_NAMES[form.kind]}"
        raise Fault("input of another kind", example.where, message)
    if kind == "image":
        return _decoded(lambda data: decode_image(data, form.channels, form.size, form.ranges), example)
    if kind == "series":
        series = _series(example, options)
        if series.shape[1] != form.channels:
            message = f"{series.shape[1]} values a step, most series have {form.channels} (an array has steps first)"
            raise Fault("input of another width", example.where, message)
        return series
    rate = options["sample_rate"]
    longest = options["max_steps"] * (HOP_SECONDS if options["n_mels"] else 1 / rate)
    samples = _decoded(lambda data: decode_audio(data, rate, longest), example)
    if not options["n_mels"]:
        return waveform(samples)[:, None]
    return log_mel(torch.from_numpy(samples), rate, options["n_mels"], LEVEL).numpy()


def _decoded(decode: Any, example: Example) -> Any:
    """Return what a function makes of the bytes of an input."""
    try:
        return decode(example.roles["input"]["bytes"])
    except TooLarge as error:
        raise Fault("an image that is too large", example.where, str(error)) from None
    except TooLong as error:
        raise Fault("input that is too long", example.where, f"{error}, prepare.max_steps allows less") from None
    except (ImageError, ValueError) as error:
        raise Fault("a file that cannot be read", example.where, str(error)) from None


def _series(example: Example, options: dict[str, Any]) -> np.ndarray:
    """Return a series as float64 [T, C]."""
    value = example.roles["input"]
    value = _decoded(decode_array, example) if isinstance(value, dict) else value
    try:
        series = as_series(value, options["missing"])
    except ValueError as error:
        gaps = (
            not options["missing"]
            and isinstance(value, np.ndarray)
            and value.dtype.kind == "f"
            and np.isnan(value).any()
        )
        hint = ": it has NaN, which `missing: carry` in the dataset's file admits" if gaps else ""
        raise Fault("values that are no numbers", example.where, f"{error}{hint}") from None
    if len(series) > options["max_steps"]:
        message = f"{len(series):,} steps, prepare.max_steps is {options['max_steps']:,}"
        raise Fault("input that is too long", example.where, message)
    return series
