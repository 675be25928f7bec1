"""What an experiment has arrived at, in small files that other tools compare: DVC's metrics and plots."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from lt25.files import write_json, write_text
from lt25.report.collect import read_history, read_metrics, read_validations
from lt25.tasks import TASKS

if TYPE_CHECKING:
    from lt25.experiment import Experiment

_COLUMNS = ("step", "loss", "lr")


def headline_numbers(experiment: Experiment) -> dict[str, tuple[str, float]]:
    """Return the name and the value of the main number of each evaluated split: ``{"test": ("accuracy_percent", 98.6)}``.

    Raises:
        UserError: if the experiment has not been evaluated, or another model of it is exported now.
    """
    headline, numbers = TASKS[experiment.task].module("report").headline, {}
    for split, measured in read_metrics(experiment)["splits"].items():
        said = headline(measured, split)
        name = f"{said.name} {'percent' if said.unit == '%' else said.unit}".strip().lower().replace(" ", "_")
        numbers[split] = name, round(said.measured, 6)
    return numbers


def write_tracked(experiment: Experiment) -> None:
    """Write ``headline.json``, the main number of each evaluated split, and ``curve.csv``, the losses by step.

    The columns of ``curve.csv`` are ``step``, ``loss``, ``lr``, and ``validation_loss`` and its like, where there was validation.

    Raises:
        UserError: if the experiment has not been evaluated.
    """
    folder = experiment.evaluation_dir
    numbers = {split: {name: value} for split, (name, value) in headline_numbers(experiment).items()}
    write_json(folder / "headline.json", numbers)
    history = experiment.results_dir / "metrics.jsonl"
    # A step that was trained a second time, after a stop, counts as it was last.
    steps = {record["step"]: dict(record) for record in read_history(history)}
    columns = list(_COLUMNS)
    for record in read_validations(history):
        found = {f"validation_{name}": value for name, value in record["validation"].items()}
        steps.setdefault(record["step"], {"step": record["step"]}).update(found)
        columns += [name for name in found if name not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[step] for step in sorted(steps))
    write_text(folder / "curve.csv", text.getvalue())
