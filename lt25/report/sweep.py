"""The runs of a sweep compared: mean and spread over seeds of each setting, in a table and in curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lt25.config.sections import SPLITS
from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.progress import track
from lt25.report import plots
from lt25.report.collect import Results, collect
from lt25.report.comparison import ABSENT, Table, say
from lt25.report.headline import Headline, duration
from lt25.report.html import draw, fill
from lt25.report.svg import COLOURS
from lt25.sweeps import SEED
from lt25.tasks import TASKS
from lt25.training.halving import finalists, stopped

CHOOSES = "validation"
"""The split by which settings are ordered, so that the test split chooses none."""


@dataclass(frozen=True)
class Measured:
    """What the page shows of one run.

    Attributes:
        experiment: the run.
        said: the headline number of each evaluated split but further test splits.
        seconds: that training took; None where it is not known.
        history, validations: the lines of its metrics.jsonl.
    """

    experiment: Experiment
    said: dict[str, Headline]
    seconds: float | None
    history: list[dict]
    validations: list[dict]


def sweep(runs: Sequence[Experiment], key: str) -> Markup:
    """Show the runs of a sweep.

    Args:
        runs: all of them.
        key: what its ids on the page begin with.

    Raises:
        UserError: if one has not been evaluated.
    """
    name, keys = runs[0].path.stem, [one for one in runs[0].swept if one != SEED]
    arrived, early = finalists(runs), table_of_stopped(stopped(runs), keys)
    if not arrived:
        raise UserError(f"{name}: all of these runs were stopped early: name others")
    measured = [measure(collect(run)) for run in track(arrived, f"report: {name}", len(arrived))]
    groups = settings(measured, keys)
    first = measured[0].said
    chooses = CHOOSES if CHOOSES in first else next(iter(first))
    groups.sort(key=lambda group: mean(group, chooses), reverse=first[chooses].more_is_better)
    best = groups[: len(plots.LINES)]
    return fill(
        Path(__file__).with_suffix(".html"),
        key=key,
        name=name,
        dataset=runs[0].dataset,
        task=TASKS[runs[0].task].title,
        runs=len(runs),
        settings=len(groups) + len(early.rows),
        seeds=SEED in runs[0].swept,
        metric=first[chooses].name,
        better="more" if first[chooses].more_is_better else "less",
        chooses=chooses,
        table=table(groups, keys),
        early=early,
        ranges=spread(best, keys, chooses),
        legend=[
            (label(group[0].experiment, keys), COLOURS[colour], dashes)
            for group, (colour, dashes) in zip(best, plots.LINES, strict=False)
        ],
        figures=curves(best, key),
        every=Table(
            ["Run", *(split.capitalize() for split in first)],
            [
                (run.experiment.name, [with_interval(one) for one in run.said.values()])
                for group in groups
                for run in group
            ],
        ),
    )


def with_interval(said: Headline) -> str:
    """Write a number, and its 95 % interval if it has one."""
    return f"{said.said} ({said.interval})" if said.interval else said.said


def measure(results: Results) -> Measured:
    """Keep of a run's results what is shown here: 500 of them fit in memory."""
    headline = TASKS[results.experiment.task].module("report").headline
    return Measured(
        experiment=results.experiment,
        said={name: headline(metrics, name) for name, metrics in results.metrics["splits"].items() if name in SPLITS},
        seconds=results.train.get("seconds"),
        history=results.history,
        validations=results.validations,
    )


def settings(measured: Sequence[Measured], keys: Sequence[str]) -> list[list[Measured]]:
    """Put runs together that differ in the seed alone; each group has at least one."""
    groups: dict[str, list[Measured]] = {}
    for run in measured:
        groups.setdefault(repr([value(run, key) for key in keys]), []).append(run)
    return list(groups.values())


def value(run: Measured, key: str) -> Any:
    """Return what a run has for a swept key."""
    return run.experiment.overrides[key]


def label(run: Experiment, keys: Sequence[str]) -> str:
    """Name a run's setting by what sets it apart: "lr 0.001, base gla_10m"."""
    return ", ".join(f"{key.split('.')[-1]} {shown(run.overrides[key])}" for key in keys) or run.path.stem


def shown(setting: Any) -> str:
    """Write the value of a key; of a file in config/models/, its name."""
    return say(setting).removeprefix("config/models/").removesuffix(".json")


def mean(group: Sequence[Measured], split: str) -> float:
    """Return the mean over a setting's seeds of the headline number of a split."""
    return statistics.fmean(run.said[split].measured for run in group)


def table(groups: Sequence[Sequence[Measured]], keys: Sequence[str]) -> Table:
    """A row for each setting: mean and sample standard deviation over its seeds, of each split."""
    splits = groups[0][0].said
    rows = []
    for group in groups:
        cells = [shown(value(group[0], key)) for key in keys[1:]]
        for split, said in splits.items():
            numbers = [run.said[split].measured for run in group]
            deviation = f" ± {statistics.stdev(numbers):.{said.digits}f}" if len(numbers) > 1 else ""
            cells.append(f"{statistics.fmean(numbers):.{said.digits}f}{deviation} {said.unit}".strip())
        seconds = [run.seconds for run in group if run.seconds is not None]
        cells += [str(len(group)), duration(statistics.fmean(seconds)) if seconds else ABSENT]
        rows.append((shown(value(group[0], keys[0])) if keys else label(group[0].experiment, keys), cells))
    names = [*keys[1:], *(f"{said.name}, {split}" for split, said in splits.items()), "Runs", "Training, mean"]
    return Table([keys[0] if keys else "", *names], rows)


def table_of_stopped(rungs: Mapping[int, Sequence[tuple[Experiment, float]]], keys: Sequence[str]) -> Table:
    """A row for each setting that has stopped early, the last to stop and the better ones first."""
    rows = []
    for step, runs in sorted(rungs.items(), reverse=True):
        losses: dict[str, list[float]] = {}
        for run, loss in runs:
            losses.setdefault(label(run, keys), []).append(loss)
        for setting, found in sorted(losses.items(), key=lambda one: statistics.fmean(one[1])):
            spread_out = len(found) > 1 and all(map(math.isfinite, found))
            deviation = f" ± {statistics.stdev(found):.4f}" if spread_out else ""
            rows.append(
                (setting, [f"stopped at step {step}", f"{statistics.fmean(found):.4f}{deviation}", str(len(found))])
            )
    return Table(["Setting", "Until", "Validation loss there", "Runs"], rows)


def spread(groups: Sequence[Sequence[Measured]], keys: Sequence[str], split: str) -> dict:
    """The runs of each setting as places on one scale, in percent of it.

    Returns:
        {"low", "high": ends of the scale, "rows": [(label, said mean, places of its runs)]}.
    """
    numbers = [run.said[split].measured for group in groups for run in group]
    low, high = min(numbers), max(numbers)
    said = groups[0][0].said[split]

    def place(number: float) -> float:
        return round(100 * (number - low) / (high - low), 2) if high > low else 50.0

    return {
        "low": said.say(low),
        "high": said.say(high),
        "rows": [
            (
                label(group[0].experiment, keys),
                said.say(mean(group, split)),
                sorted(place(run.said[split].measured) for run in group),
            )
            for group in groups
        ],
    }


def curves(groups: Sequence[Sequence[Measured]], key: str) -> list[Markup]:
    """Training loss and what validation measures, each line the mean over a setting's seeds."""
    unit = TASKS[groups[0][0].experiment.task].module("report").LOSS_UNIT
    losses = [average([smoothed(run.history) for run in group]) for group in groups]
    drawn = {"loss": plots.together(losses, f"Training loss, {unit}", "step")}
    runs = [run for group in groups for run in group]
    measured = [set(run.validations[-1]["validation"]) if run.validations else set() for run in runs]
    for name in sorted(set.intersection(*measured)):
        title = f"{plots.PERCENT[name]}, %" if name in plots.PERCENT else f"{name}, {unit}" if name == "loss" else name
        lines = [average([plots.validated(run.validations, name) for run in group]) for group in groups]
        drawn[f"validation-{name}"] = plots.together(lines, f"Validation, {title}", "step", name in plots.PERCENT)
    return [draw(figure, f"{key}-{name}", f"{name} of the settings") for name, figure in drawn.items() if figure]


def smoothed(history: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and training losses of a run, smoothed."""
    steps, losses = plots.series(history, "loss")
    return steps, plots.smooth(losses) if len(losses) else losses


def average(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of several lines at the steps of the shortest, interpolated where they have others."""
    with_points = [line for line in lines if len(line[0])]
    if not with_points:
        return np.array([]), np.array([])
    steps = min((xs for xs, _ in with_points), key=lambda xs: xs[-1])
    return steps, np.mean([np.interp(steps, xs, ys) for xs, ys in with_points], axis=0)
