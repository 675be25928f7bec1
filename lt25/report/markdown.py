"""The results table of the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import refuse_no_file, write_text
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
    """Write the table of results between the two marks of a Markdown file. Raises UserError as `replace`."""
    replace(path, MARK, results_table(experiments))


def replace(path: Path, mark: str, table: str) -> None:
    """Replace what stands between two marks in a Markdown file; the file is left alone if nothing changes.

    Args:
        path: the file.
        mark: the line before the table and after it.
        table: lines, each with its end.

    Raises:
        UserError: if there is no such file, it is no text in UTF-8, or it has not two marks.
    """
    refuse_no_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: name the Markdown file that holds the table") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no text in UTF-8 ({error}): name the Markdown file that holds the table") from None
    parts = text.split(mark)
    if len(parts) != 3:
        raise UserError(f"{path}: expected two lines {mark} around the table, found {len(parts) - 1}: add them")
    new = f"{parts[0]}{mark}\n{table}{mark}{parts[2]}"
    if new != text:
        write_text(path, new)
