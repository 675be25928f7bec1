"""From series and their numbers to prepared tensors, and from these to batches."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.batches import NO_GRID, Batch, Grid, Item, Transforms, pad
from lt25.data.examples import Example, Examples
from lt25.data.faults import Fault
from lt25.data.order import Reading
from lt25.data.prepared import PreparedExamples, PreparedSplit
from lt25.data.series import as_series, normalise_series
from lt25.data.shards import SplitWriter
from lt25.experiment import Dataset
from lt25.files import write_json


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict[str, Any]:
    """Write the splits, normalised by mean and standard deviation of train, and the feature extractor's configuration."""
    train = [series for _, series, _ in _usable(examples, "train")]
    if not train:
        examples.faults.report(0)
    seen = np.concatenate(train)
    mean, std = seen.mean(0).tolist(), np.where(seen.std(0) > 0, seen.std(0), 1).tolist()
    for example, series, number in _usable(examples, *writers):
        inputs = normalise_series(series, mean, std)
        writers[example.split].add({"id": example.id}, inputs, np.array([number], np.float32))
    extractor = {"feature_extractor_type": "SeriesFeatureExtractor", "layout": "series", "size": None}
    write_json(folder / "preprocessor_config.json", {**extractor, "feature_size": len(mean), "mean": mean, "std": std})
    return {"splits": {split: {} for split in writers}, "model": {"num_labels": 1, "input_size": len(mean)}}


def _usable(examples: Examples, *splits: str) -> Iterator[tuple[Example, np.ndarray, float]]:
    """Yield each example with its series [T, C] and its number; what is none goes to the faults."""
    for example in examples.of(*splits):
        try:
            series, number = as_series(example.roles["input"]), float(example.roles["label"])
            if not math.isfinite(number):
                raise ValueError(f"the label {number} is not finite")
        except (ValueError, TypeError) as error:
            examples.faults.add(example.split, Fault("values that are no numbers", example.where, str(error)))
            continue
        yield example, series, number


def source(split: PreparedSplit, reading: Reading) -> PreparedExamples:
    """Return where a training run's examples come from."""
    return PreparedExamples(split)


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: nothing."""
    return Transforms()


def collate(items: list[Item], grid: Grid = NO_GRID) -> Batch:
    """Join examples: ``input_features`` float32 [B, T, C], ``attention_mask`` int64 [B, T], ``labels`` float32 [B]."""
    features, mask = pad([item["input"] for item in items], grid)
    labels = torch.cat([item["label"] for item in items])
    return {"input_features": features, "attention_mask": mask, "labels": labels}
