"""Labelled images and series: preparing them, and bringing them to a model."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.collation import NO_GRID, Batch, Grid, Item, pad
from lt25.data.examples import Example, Examples
from lt25.data.prepared import PreparedSplit
from lt25.data.series import decode_image, image_to_series, normalise_series
from lt25.data.shards import SplitWriter
from lt25.data.sources import PreparedExamples
from lt25.data.transforms import Transforms
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import write_json
from lt25.progress import track

MEASURED = 10_000
"""Mean and standard deviation are those of so many examples of train, its first."""


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict:
    """Write the splits and ``preprocessor_config.json``; return what `stats.json` says of splits and model.

    Raises:
        UserError: for an unreadable image, one of another size than the first, or a label that train does not have.
    """
    names, numbers, mean, std, first = _survey(dataset, examples, options)
    counts = {split: Counter() for split in writers}
    for example in track(examples.of(*writers), f"{dataset.name}: examples prepared"):
        values = _values(example, options, first)
        if options["layout"] == "series":
            inputs = normalise_series(values, mean, std)
        else:
            # Half precision tells the 256 levels of a pixel apart, and halves what is read while training.
            inputs = image_to_series(values, options["layout"], mean, std).astype(np.float16)
        label = example.roles["label"]
        if label not in numbers:
            known = ", ".join(map(str, list(numbers)[:10]))
            raise UserError(f"{example.where}: the label {label!r} is none of the training split's: {known}")
        row = {"id": example.id, "label": names[numbers[label]], "path": example.where}
        if example.split == "test" and options["layout"] != "series":
            row["image"] = example.roles["input"]["bytes"]
        writers[example.split].add(row, inputs, numbers[label])
        counts[example.split][row["label"]] += 1

    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "SeriesFeatureExtractor",
            "layout": options["layout"],
            "size": None if options["layout"] == "series" else list(first.shape[:2]),
            "feature_size": inputs.shape[1],
            "mean": mean,
            "std": std,
        },
    )
    return {
        "splits": {split: {"labels": dict(sorted(count.items()))} for split, count in counts.items()},
        "model": {
            "num_labels": len(names),
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
            "input_size": inputs.shape[1],
        },
    }


def source(split: PreparedSplit, seq_len: int) -> PreparedExamples:
    """Return where a training run's examples come from; ``seq_len`` is of no account."""
    return PreparedExamples(split)


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: nothing."""
    return Transforms()


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
    return batch if mask.all() else {**batch, "attention_mask": mask}


def collate_stacked(examples: Item) -> Batch:
    """`collate` of examples that are stacked already: ``{"input": [B, T, C], "label": [B]}``."""
    return {"input_features": examples["input"].float(), "labels": examples["label"].long()}


def _survey(
    dataset: Dataset, examples: Examples, options: dict[str, Any]
) -> tuple[list[str], dict[Any, int], list[float], list[float], np.ndarray]:
    """Return the names of the classes, label -> number, mean [C] and standard deviation [C], and the first input.

    All of train is looked through for its labels, its first `MEASURED` examples for their values.
    """
    labels, first, count, total, squares = set(), None, 0, 0.0, 0.0
    for number, example in enumerate(track(examples.of("train"), f"{dataset.name}: labels seen")):
        label = example.roles["label"]
        if not isinstance(label, str | int):
            raise UserError(f"{example.where}: the label {label!r} is neither a name nor a whole number")
        labels.add(label)
        if number < MEASURED:
            values = _values(example, options, first)
            first = values if first is None else first
            flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
            count, total, squares = count + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
    if first is None:
        raise UserError(f"config/datasets/{dataset.name}.yaml: splits.train: the training split has no examples")
    scale = 1 if options["layout"] == "series" else 255
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std == 0] = scale
    names, numbers = _classes(dataset, labels)
    return names, numbers, (mean / scale).tolist(), (std / scale).tolist(), first


def _classes(dataset: Dataset, labels: set) -> tuple[list[str], dict[Any, int]]:
    """Return names of the classes in the order of their numbers, and label -> number."""
    given = dataset.options.get("labels")
    where = f"config/datasets/{dataset.name}.yaml: labels"
    if len({type(label) for label in labels}) > 1:
        raise UserError(f"{where}: the training split has both names and numbers as labels: make them one kind")
    if all(isinstance(label, int) for label in labels):
        names = given or [str(label) for label in range(max(labels) + 1)]
        if min(labels) < 0 or max(labels) >= len(names):
            raise UserError(f"{where}: labels go from {min(labels)} to {max(labels)}, {len(names)} names are given")
        return names, {number: number for number in range(len(names))}
    names = given or sorted(labels)
    if unknown := labels - set(names):
        raise UserError(f"{where}: the training split has {json.dumps(sorted(unknown)[:3])}, which is not listed")
    return names, {name: number for number, name in enumerate(names)}


def _values(example: Example, options: dict[str, Any], first: np.ndarray | None) -> np.ndarray:
    """Return an example's pixels, uint8 [H, W, C], or series, float32 [T, C], shaped like the ``first``."""
    value = example.roles["input"]
    is_image = isinstance(value, dict) and isinstance(value.get("bytes"), bytes)
    if is_image == (options["layout"] == "series"):
        kind, fitting = ("an image", "pixels or rows") if is_image else (f"{type(value).__name__}, no image,", "series")
        raise UserError(
            f"{example.where}: the input is {kind} and prepare.layout is {options['layout']}: use {fitting}"
        )
    if not is_image:
        try:
            series = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            series = np.asarray(0.0, np.float32)
        series = series[:, None] if series.ndim == 1 else series
        if series.ndim != 2 or not len(series) or not np.isfinite(series).all():
            raise UserError(
                f"{example.where}: the series is not a list of finite numbers, or of equally long lists of them"
            )
        if first is not None and series.shape[1] != first.shape[1]:
            raise UserError(f"{example.where}: {series.shape[1]} values a step, the first series has {first.shape[1]}")
        return series
    try:
        pixels = decode_image(value["bytes"], None if first is None else first.shape[2], options["size"])
    except ValueError as error:
        raise UserError(f"{example.where}: {error}: replace or remove it") from None
    if first is not None and pixels.shape != first.shape:
        (height, width), (h, w) = first.shape[:2], pixels.shape[:2]
        raise UserError(f"{example.where}: {h} by {w} pixels, the first image {height} by {width}: set prepare.size")
    return pixels
