"""What an experiment has left on disk, read once for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lt25.checkpoints.whole import reachable_steps
from lt25.data import shards
from lt25.errors import UserError
from lt25.evaluation import believe_model
from lt25.experiment import Experiment, model_fingerprint
from lt25.files import believe, read_json, read_record, set_aside

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The files of one experiment. What is optional and not there is empty: {} or [].

    Attributes:
        experiment: whose they are.
        metrics: evaluation/metrics.json.
        predictions: evaluation/predictions.parquet.
        figures: the evaluation's SVG files, name -> text.
        steps: metrics of the evaluated checkpoints and of the final model, ascending by step.
        train: train.json.
        history, validations: the logged steps and the validations of metrics.jsonl.
        model: the model's config.json.
        stats: the prepared data's stats.json.
        source: the raw data's SOURCE.json.
        config: text of the experiment file.
    """

    experiment: Experiment
    metrics: dict
    predictions: pd.DataFrame
    figures: dict[str, str] = field(default_factory=dict)
    steps: list[dict] = field(default_factory=list)
    train: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    validations: list[dict] = field(default_factory=list)
    model: dict = field(default_factory=dict)
    stats: dict = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    config: str = ""

    @property
    def name(self) -> str:
        """The experiment's, with all that was overridden: of its folder in results/."""
        return self.experiment.evaluation_dir.parent.name

    @property
    def headline_split(self) -> dict:
        """Metrics of the split that stands for the model."""
        return self.metrics["splits"][self.metrics["headline"]]

    def headline_predictions(self) -> pd.DataFrame:
        """Return the predictions of the headline split, numbered as its examples are."""
        table = self.predictions
        return cast("pd.DataFrame", table[table["split"] == self.metrics["headline"]]).reset_index(drop=True)


def collect(experiment: Experiment) -> Results:
    """Read an experiment's results.

    Raises UserError if it has not been evaluated, a file is not as it was written, or the evaluation is of another model than
    the one that is exported now.
    """
    import pandas as pd

    folder, again = experiment.results_dir, experiment.arguments
    metrics = read_metrics(experiment)
    train = read_train(experiment)
    if train:
        believe(folder / "train.json", f"lt25 train {again}")
    final = [metrics] if metrics.get("step") is not None else []
    kept = {
        m["step"]: m for m in read_steps(experiment) if not train or m["model"] == model_fingerprint(train, [m["step"]])
    }
    kept.update({m["step"]: m for m in final})
    stats, config = experiment.processed_dir / "stats.json", experiment.root / experiment.path
    if stats.exists():
        shards.believe(experiment.processed_dir, [metrics["headline"]], f"lt25 prepare {again}")
    history = folder / "metrics.jsonl"
    return Results(
        experiment=experiment,
        metrics=metrics,
        predictions=pd.read_parquet(experiment.evaluation_dir / "predictions.parquet"),
        figures={
            name: (experiment.evaluation_dir / name).read_text()
            for name in sorted(metrics["files"])
            if name.endswith(".svg")
        },
        steps=[kept[step] for step in sorted(kept)],
        train=train,
        history=read_history(history) if train else [],
        validations=read_validations(history) if train else [],
        model=train["identity"]["model"] if train else {},
        stats=read_record(stats, f"lt25 prepare {again}") if stats.exists() else {},
        source=read_if_there(experiment.raw_dir / "SOURCE.json"),
        config=config.read_text() if config.exists() else "",
    )


def read_metrics(experiment: Experiment) -> dict:
    """The experiment's metrics.json.

    Raises UserError if it is not there, it or a file of its evaluation is damaged, or it is of another model than the one
    that is exported now.
    """
    path, again = experiment.evaluation_dir / "metrics.json", experiment.commands("evaluate")
    metrics = believe(path, again)
    hf = experiment.results_dir / "hf"
    if (hf / "export.json").exists():
        exported = believe_model(experiment, hf)
        if metrics["model"] != exported["fingerprint"]:
            complaint = f"{path}: measured on {metrics['model']}, and what is exported now is {exported['fingerprint']}"
            raise set_aside(path, complaint, again)
    return metrics


def read_steps(experiment: Experiment) -> list[dict]:
    """The metrics of the evaluated checkpoints. Raises UserError if a file is damaged, or one of a whole curve is missing."""
    folder, steps = experiment.evaluation_dir, {}
    evaluated = {int(path.parent.name.removeprefix("step-")) for path in folder.glob("step-*/metrics.json")}
    # There if all kept steps were evaluated together; where they were elsewhere, it is all there is of them.
    curve, trained = folder / "steps.json", read_train(experiment)
    if curve.exists():
        kept = read_record(curve, f"lt25 evaluate {experiment.arguments} --export --kept")["steps"]
        steps = {metrics["step"]: metrics for metrics in kept}
        evaluated.update(reachable_steps(experiment.results_dir, trained) if trained else ())
    for step in sorted(evaluated):
        command = f"lt25 evaluate {experiment.arguments} --export --step {step}"
        try:
            steps[step] = believe(folder / f"step-{step}" / "metrics.json", command)
        except UserError:
            curve.unlink(missing_ok=True)
            raise
    return list(steps.values())


def read_train(experiment: Experiment) -> dict:
    """The experiment's train.json, {} if it is not there. Raises UserError if it is damaged."""
    path = experiment.results_dir / "train.json"
    return read_record(path, f"lt25 train {experiment.arguments}") if path.exists() else {}


def read_if_there(path: Path) -> dict:
    """A JSON object, {} if the file is not there. Raises UserError if it is no JSON."""
    return read_json(path, "") if path.exists() else {}


def read_history(path: Path) -> list[dict]:
    """The training steps in a metrics.jsonl, without its validations; a last line that was cut off is left out."""
    return [line for line in _lines(path) if "validation" not in line]


def read_validations(path: Path) -> list[dict]:
    """The validations in a metrics.jsonl, {"step", "validation": {name: number}} each."""
    return [line for line in _lines(path) if "validation" in line]


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
