"""What an experiment has left on disk, read once for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lt25.experiment import Experiment
from lt25.files import read_json

if TYPE_CHECKING:
    import pandas as pd


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

    def headline_predictions(self) -> pd.DataFrame:
        """Return the predictions of the headline split, numbered as its examples are."""
        table = self.predictions
        return cast("pd.DataFrame", table[table["split"] == self.metrics["headline"]]).reset_index(drop=True)


def collect(experiment: Experiment) -> Results:
    """Read an experiment's results. Raises UserError if it has not been evaluated, or a file is damaged."""
    import pandas as pd

    folder = experiment.results_dir
    metrics = read_metrics(experiment)
    train = read_if_there(folder / "train.json")
    final = [metrics] if metrics.get("step") is not None else []
    kept = {
        m["step"]: m for m in map(read_if_there, experiment.evaluation_dir.glob("step-*/metrics.json")) if m.get("step")
    }
    kept.update({m["step"]: m for m in final})
    config = experiment.root / experiment.path
    return Results(
        experiment=experiment,
        metrics=metrics,
        predictions=pd.read_parquet(experiment.evaluation_dir / "predictions.parquet"),
        figures={path.name: path.read_text() for path in sorted(experiment.evaluation_dir.glob("*.svg"))},
        steps=[kept[step] for step in sorted(kept)],
        train=train,
        history=read_history(folder / train["run_dir"] / "metrics.jsonl") if train else [],
        model=read_if_there(folder / "model" / "config.json"),
        stats=read_if_there(experiment.processed_dir / "stats.json"),
        source=read_if_there(experiment.raw_dir / "SOURCE.json"),
        config=config.read_text() if config.exists() else "",
    )


def read_metrics(experiment: Experiment) -> dict:
    """The experiment's metrics.json. Raises UserError if it is not there or damaged."""
    path = experiment.evaluation_dir / "metrics.json"
    return read_json(path, f"run `lt25 evaluate {experiment.arguments}` first")


def read_if_there(path: Path) -> dict:
    """A JSON object, {} if the file is not there. Raises UserError if it is no JSON."""
    return read_json(path, "") if path.exists() else {}


def read_history(path: Path) -> list[dict]:
    """The training steps in a metrics.jsonl, without its validations; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))
    return [line for line in lines if "validation" not in line]
