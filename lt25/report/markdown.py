"""The results table of the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import write_text
from lt25.report.collect import read_metrics, read_train
from lt25.report.headline import count, duration
from lt25.tasks import TASKS

MARK = "<!-- results -->"


def results_table(experiments: Sequence[Experiment]) -> str:
    """A Markdown table, a row an experiment: the number, what it was measured on, the model, the time to train it."""
    lines = [
        "| experiment | result | 95 % interval | measured on | parameters | training |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for experiment in experiments:
        metrics = read_metrics(experiment)
        train = read_train(experiment)
        said = (
            TASKS[experiment.task]
            .module("report")
            .headline(metrics["splits"][metrics["headline"]], metrics["headline"])
        )
        beside = [f"{name} {said.say(value)}" for name, value in said.yardsticks.items()]
        result = f"{said.name.lower()} **{said.said}**"
        cells = [
            f"`{experiment.evaluation_dir.parent.name}`",
            result + (f" ({', '.join(beside)})" if beside else ""),
            said.interval or "–",
            said.on,
            count(train["parameters"]) if train else "–",
            f"{train['steps']:,} steps, {duration(train['seconds'])} on {train['device']}" if train else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def renew(experiments: Sequence[Experiment], path: Path) -> None:
    """Replace what stands between the two marks in a Markdown file; the file is left alone if nothing changes."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: name the Markdown file that holds the table") from None
    parts = text.split(MARK)
    if len(parts) != 3:
        raise UserError(f"{path}: expected two lines {MARK} around the table, found {len(parts) - 1}: add them")
    new = f"{parts[0]}{MARK}\n{results_table(experiments)}{MARK}{parts[2]}"
    if new != text:
        write_text(path, new)
