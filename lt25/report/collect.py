"""What an experiment has left on disk, read once for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lt25.config import Experiment
from lt25.errors import UserError


@dataclass(frozen=True)
class Results:
    """The files of one experiment. What is optional and not there is empty: {} or [].

    metrics: evaluation/metrics.json; predictions: evaluation/predictions.parquet; figures: the evaluation's SVG files,
    name -> text; steps: metrics of the evaluated checkpoints and of the final model, ascending by step; train: train.json;
    history: the run's metrics.jsonl; model: the model's config.json; stats: the prepared data's stats.json; source: the raw
    data's SOURCE.json; config: text of the experiment file.
    """

    experiment: Experiment
    metrics: dict
    predictions: pd.DataFrame
    figures: dict[str, str] = field(default_factory=dict)
    steps: list[dict] = field(default_factory=list)
    train: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    model: dict = field(default_factory=dict)
    stats: dict = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    config: str = ""

    @property
    def headline_split(self) -> dict:
        """Metrics of the split that stands for the model."""
        return self.metrics["splits"][self.metrics["headline"]]


def collect(experiment: Experiment) -> Results:
    """Read an experiment's results. Raises UserError if it has not been evaluated, or a file is damaged."""
    folder = experiment.results_dir
    metrics = read_metrics(experiment)
    train = read_json(folder / "train.json")
    final = [metrics] if metrics.get("step") is not None else []
    kept = {m["step"]: m for m in map(read_json, folder.glob("evaluation/step-*/metrics.json")) if m.get("step")}
    kept.update({m["step"]: m for m in final})
    config = experiment.root / experiment.path
    return Results(
        experiment=experiment,
        metrics=metrics,
        predictions=pd.read_parquet(folder / "evaluation" / "predictions.parquet"),
        figures={path.name: path.read_text() for path in sorted((folder / "evaluation").glob("*.svg"))},
        steps=[kept[step] for step in sorted(kept)],
        train=train,
        history=read_history(folder / train["run_dir"] / "metrics.jsonl") if train else [],
        model=read_json(folder / "model" / "config.json"),
        stats=read_json(experiment.processed_dir / "stats.json"),
        source=read_json(experiment.raw_dir / "SOURCE.json"),
        config=config.read_text() if config.exists() else "",
    )


def read_metrics(experiment: Experiment) -> dict:
    """The experiment's metrics.json. Raises UserError if it is not there or damaged."""
    path = experiment.results_dir / "evaluation" / "metrics.json"
    metrics = read_json(path)
    if not metrics:
        raise UserError(f"{path}: not there: run `lt25 evaluate {experiment.path}` first")
    return metrics


def read_json(path: Path) -> dict:
    """A JSON object, {} if the file is not there. Raises UserError if it is no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}): make this file again") from error


def read_history(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
