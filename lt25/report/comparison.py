"""What sets the experiments of a page apart: results, settings that differ, and their curves in one plot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lt25.config.key import flat
from lt25.experiment import WINDOW, Experiment
from lt25.models import families
from lt25.report import plots
from lt25.report.collect import Results
from lt25.report.headline import Headline, count, duration
from lt25.report.html import draw, fill
from lt25.report.svg import COLOURS
from lt25.tasks import TASKS

ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """A table as it is printed.

    Attributes:
        head: of the columns; the first is that of the rows' names.
        rows: name and cells of each row.
    """

    head: list[str]
    rows: list[tuple[str, list[str]]]

    def lengthwise(self) -> Table:
        """Return the table with its longer side running down, as a page is read."""
        if len(self.rows) >= len(self.head) - 1:
            return self
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return Table(
            [self.head[0], *(name for name, _ in self.rows)],
            [(name, list(cells)) for name, cells in zip(self.head[1:], columns, strict=True)],
        )


def comparison(results: Sequence[Results], said: Sequence[Headline]) -> Markup | str:
    """Show experiments side by side; "" for a single one.

    Args:
        results: of each experiment.
        said: the headline of each.
    """
    if len(results) < 2:
        return ""
    shared, own = settings(results)
    names = [one.name for one in results]
    return fill(
        Path(__file__).with_suffix(".html"),
        table=Table(["", *names], [*outcomes(results, said), *shared]).lengthwise(),
        own=Table(["", *names], own).lengthwise() if own else None,
        legend=[
            (name, COLOURS[colour], dashes)
            for name, (colour, dashes) in zip(names, itertools.cycle(plots.LINES), strict=False)
        ],
        figures=curves(results),
        ranges=ranges(names, said),
    )


def outcomes(results: Sequence[Results], said: Sequence[Headline]) -> list[tuple[str, list[str]]]:
    """What came of each experiment: rows of a table."""
    name = said[0].name if len({one.name for one in said}) == 1 else ""
    numbers = [one.said if name else f"{one.said} {one.name.lower()}" for one in said]
    rows = [(name or "Result", numbers), ("95 % interval", [one.interval or ABSENT for one in said])]

    def trained(what: str, say: Callable[[dict], str]) -> None:
        cells = [say(one.train) if one.train else ABSENT for one in results]
        if set(cells) != {ABSENT}:
            rows.append((what, cells))

    trained("Parameters", lambda train: count(train["parameters"]))
    trained("Training", lambda train: f"{duration(train['seconds'])} on {train['device']}")
    return rows


def settings(results: Sequence[Results]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """The values that differ: of keys that all experiments have, and of those that only some have, as rows of a table.

    What the prepared data decides is no setting, and is left out.
    """
    resolved = []
    for one in results:
        values, origins = one.experiment.resolved()
        used = {key: value for key, value in flat(values).items() if has_effect(one.experiment, key)}
        resolved.append({key: value for key, value in used.items() if not decided(key, origins)})
    shared, own = [], []
    for key in dict.fromkeys(key for values in resolved for key in values):
        cells = [say(values[key]) if key in values else ABSENT for values in resolved]
        if len(set(cells)) > 1:
            (shared if all(key in values for values in resolved) else own).append((key, cells))
    return shared, own


def has_effect(experiment: Experiment, key: str) -> bool:
    """Whether a key means something to the experiment's task."""
    section, _, name = key.partition(".")
    if section == "model":
        return families.has_effect(experiment.model["model_type"], name, experiment.task)
    return section != "training" or name not in WINDOW or TASKS[experiment.task].windows


def decided(key: str, origins: dict[str, str]) -> bool:
    """Whether the prepared data decides a key, or the mapping that it is in."""
    parts = key.split(".")
    return any(origins.get(".".join(parts[:n])) == "the prepared data" for n in range(1, len(parts) + 1))


def say(value: Any) -> str:
    """A setting's value as YAML would have it, near enough."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(say, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {say(part)}" for key, part in value.items()) or "none"
    return str(value)


def curves(results: Sequence[Results]) -> list[Markup]:
    """Loss of all experiments by step and by time; of a single task also what validation measures."""
    tasks = {one.experiment.task for one in results}
    unit = TASKS[tasks.pop()].module("report").LOSS_UNIT if len(tasks) == 1 else ""
    title, drawn = f"Training loss, {unit or 'nats per label'}", {}
    for x, name in (("step", "step"), ("seconds", "seconds of training")):
        losses = [plots.series(one.history, "loss", x) for one in results]
        drawn[x] = plots.together([(xs, plots.smooth(ys) if len(ys) else ys) for xs, ys in losses], title, name)
    measured = [set(one.validations[-1]["validation"]) if one.validations else set() for one in results]
    for key in sorted(set.intersection(*measured)) if unit else ():
        name = f"{plots.PERCENT[key]}, %" if key in plots.PERCENT else f"{key}, {unit}" if key == "loss" else key
        lines = [plots.validated(one.validations, key) for one in results]
        drawn[f"validation-{key}"] = plots.together(lines, f"Validation, {name}", "step", key in plots.PERCENT)
    return [draw(figure, f"together-{key}", f"{key} of all experiments") for key, figure in drawn.items() if figure]


def ranges(names: Sequence[str], said: Sequence[Headline]) -> dict | None:
    """The numbers of experiments that have one metric and their intervals, as places on a scale; None for several metrics.

    Returns {"low", "high": ends of the scale, "better", "rows": [(name, said number, interval, dot, left, width)]}, places
    and widths in percent of the scale.
    """
    metrics = {(one.name, one.unit) for one in said}
    if len(metrics) > 1 or not all(one.bounds for one in said):
        return None
    first = said[0]
    ends = [end for one in said for end in one.bounds]
    step = 10 ** math.floor(math.log10(max(max(ends) - min(ends), 1e-9)))
    low, high = (max(math.floor(min(ends) / step), 0) * step, math.ceil(max(ends) / step) * step)

    def place(number: float) -> float:
        return round(100 * (number - low) / (high - low), 2)

    return {
        "low": f"{low:g} {first.unit}".strip(),
        "high": f"{high:g} {first.unit}".strip(),
        "name": first.name,
        "better": "more" if first.more_is_better else "less",
        "rows": [
            (name, one.said, one.interval, place(one.measured), place(one.bounds[0]), place(one.bounds[1]))
            for name, one in zip(names, said, strict=True)
        ],
    }
