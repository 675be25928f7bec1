"""From series and their numbers to prepared tensors, and from these to batches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.collation import NO_GRID, Batch, Grid, Item, pad
from lt25.data.examples import Examples
from lt25.data.order import Reading
from lt25.data.prepared import PreparedSplit
from lt25.data.series import normalise_series
from lt25.data.shards import SplitWriter
from lt25.data.sources import PreparedExamples
from lt25.data.transforms import Transforms
from lt25.experiment import Dataset
from lt25.files import write_json


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict[str, Any]:
    """Write the splits, normalised by mean and standard deviation of train, and the feature extractor's configuration."""
    seen = np.concatenate([np.asarray(example.roles["input"], np.float32) for example in examples.of("train")])
    seen = seen.reshape(len(seen), -1)
    mean, std = seen.mean(0).tolist(), np.where(seen.std(0) > 0, seen.std(0), 1).tolist()
    for example in examples.of(*writers):
        inputs = normalise_series(example.roles["input"], mean, std)
        writers[example.split].add({"id": example.id}, inputs, np.array([example.roles["label"]], np.float32))
    extractor = {"feature_extractor_type": "SeriesFeatureExtractor", "layout": "series", "size": None}
    write_json(folder / "preprocessor_config.json", {**extractor, "feature_size": len(mean), "mean": mean, "std": std})
    return {"splits": {split: {} for split in writers}, "model": {"num_labels": 1, "input_size": len(mean)}}


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
