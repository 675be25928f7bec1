"""Small projects for benchmarks of data: one dataset, and an experiment on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lt25.experiment import Experiment, load_experiment


def project(root: Path, name: str, dataset: Mapping[str, Any], prepare: Mapping[str, Any]) -> Experiment:
    """Write a project with one dataset and an experiment on it.

    Args:
        root: of the project; others of it may be there.
        name: the experiment's.
        dataset: the dataset's file, whose first task is the experiment's.
        prepare: how the experiment prepares it.
    """
    for folder in ("datasets", "experiments"):
        (root / "config" / folder).mkdir(parents=True, exist_ok=True)
    (root / "config/config.yaml").write_text(f"experiments: [{name}]\n")
    (root / "config/datasets/corpus.yaml").write_text(yaml.safe_dump(dict(dataset)))
    experiment = {
        "task": dataset["tasks"][0],
        "dataset": "corpus",
        "prepare": dict(prepare),
        "model": {"model_type": "lt25_hgrn"},
        "training": {"steps": 1},
        "optimizer": {},
        "lr_scheduler": {"warmup_steps": 0},
    }
    path = root / f"config/experiments/{name}.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return load_experiment(path)
