"""The page: everything a reader wants to know of a set of experiments, in one HTML file without a network.

`render` turns what `collect` read into plain values, and page.html lays them out.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import cast

from markupsafe import Markup, escape

from lt25.checkpoints.card import path_of, steps_of
from lt25.experiment import Experiment
from lt25.progress import say
from lt25.report import plots
from lt25.report.collect import Results, collect
from lt25.report.comparison import ABSENT, comparison
from lt25.report.comparison import say as value_of
from lt25.report.headline import Headline, count, duration, size
from lt25.report.html import draw, fill
from lt25.report.svg import inline
from lt25.report.sweep import sweep
from lt25.tasks import TASKS

HERE = Path(__file__).parent
REASONS = 3


def render(experiments: Sequence[Experiment], sweeps: Sequence[Sequence[Experiment]] = ()) -> str:
    """The page as HTML, of experiments and of the runs of sweeps. Raises UserError if one has not been evaluated."""
    results = []
    # The same one twice is shown once.
    for experiment in {experiment.evaluation_dir: experiment for experiment in experiments}.values():
        results.append(collect(experiment))
        say(f"report: {results[-1].name}")
    swept = [runs[0].path.stem for runs in sweeps]
    keys = unique([*(one.name for one in results), *swept])
    stories = [story(one, key) for one, key in zip(results, keys, strict=False)]
    return fill(
        HERE / "page.html",
        stories=stories,
        swept=swept,
        sweeps=[sweep(runs, key) for runs, key in zip(sweeps, keys[len(results) :], strict=True)],
        comparison=comparison(results, [one["headline"] for one in stories]),
        style=Markup((HERE / "page.css").read_text()),
        date=datetime.date.today().strftime("%-d %B %Y"),
        versions=versions(stories),
    )


def unique(names: Sequence[str]) -> list[str]:
    """Names as ids of the page, each another one: what an address cannot hold becomes a dash."""
    keys: list[str] = []
    for name in names:
        key = re.sub(r"\W", "-", name, flags=re.ASCII)
        keys.append(key if key not in keys else f"{key}-{len(keys)}")
    return keys


def story(results: Results, key: str) -> dict:
    """All that page.html shows of one experiment, ready to print. key: what its ids on the page begin with."""
    experiment = results.experiment
    words = report_of(results)
    said = words.headline(results.headline_split, results.metrics["headline"])
    unit = TASKS[experiment.task].unit
    training = plots.training(results.history, results.validations, words.LOSS_UNIT, unit)
    return {
        "name": results.name,
        "key": key,
        "overrides": [(name, value_of(value)) for name, value in experiment.overrides.items()],
        "task": TASKS[experiment.task].title,
        "headline": said,
        "bars": bars(said),
        "sparkline": sparkline(results, key),
        "dataset": experiment.dataset,
        "facts": facts(results),
        "splits": split_rows(results),
        "figures": evaluation_figures(results, key),
        "curve": learning_curve(results, key),
        "training": [draw(f, f"{key}-{what}", f"{what} over the training steps") for what, f in training.items()],
        "skipped": results.train.get("skipped_steps", 0),
        "infinite": results.train.get("infinite_losses", 0),
        "data": data_figures(results, key),
        "data_rows": data_rows(results),
        "examples": words.examples(results),
        "config": highlight(results.config),
        "config_path": str(experiment.path),
        "commands": commands(experiment),
        "versions": results.train.get("versions", {}),
    }


def report_of(results: Results) -> ModuleType:
    """Return the report module of an experiment's task."""
    return TASKS[results.experiment.task].module("report")


def sparkline(results: Results, key: str) -> dict | None:
    """The training loss as small as a word, with its first and last value; None if there is no curve."""
    figure, (_, losses) = plots.sparkline(results.history), plots.series(results.history, "loss")
    if figure is None:
        return None
    first, last = (f"{loss:.3g}" for loss in plots.smooth(losses)[[0, -1]])
    return {"plot": draw(figure, f"{key}-spark", "training loss over the steps"), "first": first, "last": last}


def bars(said: Headline) -> list[tuple[str, str, float, bool]]:
    """A model beside its yardsticks, the best first: name, said number, length of the bar from 0 to 1, whether it is ours."""
    if not said.yardsticks:
        return []
    rows = [("this model", said.said, said.measured, True)]
    rows += [(name, said.say(value), value, False) for name, value in said.yardsticks.items()]
    longest = 100 if said.unit == "%" else max(value for _, _, value, _ in rows)
    rows.sort(key=lambda row: row[2], reverse=said.more_is_better)
    return [(name, written, value / longest, ours) for name, written, value, ours in rows]


def facts(results: Results) -> list[tuple[str, str]]:
    """What the model is and what it took, as names and values."""
    train, model, metrics = results.train, results.model, results.metrics
    rows = []
    if model:
        rows.append(("Model", model.get("model_type", "?")))
        if "hidden_size" in model:
            rows.append(("Layers × width", f"{model['num_hidden_layers']} × {model['hidden_size']}"))
    if train:
        device = train["device"] + (f", {train['world_size']} processes" if train.get("world_size", 1) > 1 else "")
        rows += [
            ("Parameters", f"{train['parameters']:,}"),
            ("Trained", f"{train['steps']:,} steps in {duration(train['seconds'])}"),
            ("Trained on", device),
        ]
        if (train.get("best") or "averaged" in metrics) and metrics.get("step"):
            rows.append(("Model of step", steps_of(train, metrics.get("averaged", [metrics["step"]]))))
        if train.get("memory_gib"):
            rows.append(("Peak memory", f"{train['memory_gib']:.1f} GiB"))
        if len(train.get("path", [])) > 1:
            rows.append(("Came about", path_of(train)))
    if results.experiment.init_from:
        rows.append(("Started from", results.experiment.init_from))
    rows.append(("Evaluated", f"in {duration(metrics['seconds'])} on {metrics['device']}"))
    if train:
        rows.append(("Run", train["fingerprint"]))
    return rows


def split_rows(results: Results) -> list[tuple[str, list[str], str]]:
    """The headline metric on every evaluated split: split, value with unit and interval, what it was measured on."""
    headline, rows = report_of(results).headline, []
    for name, metrics in results.metrics["splits"].items():
        said = headline(metrics, name)
        rows.append((name, [said.said, said.interval or ABSENT], said.on))
    return rows


def evaluation_figures(results: Results, key: str) -> list[tuple[Markup, str]]:
    """The evaluation's plots with their captions, in reading order."""
    captions = report_of(results).CAPTIONS
    order = [*captions, *sorted(set(results.figures) - set(captions))]
    return [
        (
            inline(results.figures[file], f"{key}-{Path(file).stem}", captions.get(file, file)),
            captions.get(file, ""),
        )
        for file in order
        if file in results.figures
    ]


def learning_curve(results: Results, key: str) -> Markup | str:
    """The headline metric over the evaluated checkpoints, on the splits they share; "" if there are fewer than two."""
    headline, steps = report_of(results).headline, results.steps
    names = [name for name in results.metrics["splits"] if all(name in metrics["splits"] for metrics in steps)]
    if len(steps) < 2 or not names:
        return ""
    values = {name: [headline(m["splits"][name], name).measured for m in steps] for name in names}
    said = headline(results.headline_split, results.metrics["headline"])
    title = f"{said.name}{f', {said.unit}' if said.unit else ''}{f', {names[0]}' if len(names) == 1 else ''}"
    figure = plots.learning_curve([m["step"] for m in steps], values, title, said.unit == "%")
    return draw(figure, f"{key}-curve", title)


def data_rows(results: Results) -> dict:
    """The prepared splits as a table, and what is to be known of them.

    Returns:
        {"columns", "rows": [(split, cells)], "excluded": [(split, reason, how many)], "shared": [(split, how many of its examples
        an earlier split has too)]}.
    """
    splits = results.stats.get("splits", {})
    known = {
        "examples": count,
        "seconds": duration,
        "characters": count,
        "tokens": count,
        "bytes": size,
        "frames": count,
        "speakers": lambda speakers: count(len(speakers) if isinstance(speakers, dict) else speakers),
    }
    columns = [name for name in known if any(name in split for split in splits.values())]
    rows = [
        (name, [known[column](split[column]) if column in split else ABSENT for column in columns])
        for name, split in splits.items()
    ]
    return {
        "columns": ["Audio" if column == "seconds" else column.capitalize() for column in columns],
        "rows": rows,
        "excluded": [
            (name, why, n)
            for name, split in splits.items()
            for why, n in sorted(split.get("excluded", {}).items(), key=lambda reason: -reason[1])[:REASONS]
        ],
        "shared": [(name, count(n)) for name, n in results.stats.get("shared", {}).items()],
    }


def data_figures(results: Results, key: str) -> list[Markup]:
    """How long the training examples are and which classes they have."""
    train = results.stats.get("splits", {}).get("train", {})
    figures = []
    lengths = train.get("lengths", {})
    if len(lengths.get("counts", [])) > 1:
        x = TASKS[results.experiment.task].unit
        if train.get("frames") and "seconds" in train:
            x += f" of {1000 * train['seconds'] / train['frames']:.0f} ms"
        figures.append(draw(plots.histogram(lengths["edges"], lengths["counts"], x), f"{key}-lengths", "lengths"))
    if len(train.get("labels", {})) > 1:
        figures.append(draw(plots.label_counts(train["labels"]), f"{key}-labels", "training examples by class"))
    return figures


def highlight(text: str) -> Markup:
    """YAML with its comments and keys marked."""
    lines = []
    for line in text.rstrip().splitlines():
        parts = re.match(r"((?:[^#'\"]|'[^']*'|\"[^\"]*\"|(?<=\S)#)*)(#?)(.*)", line)
        code, hash_, comment = cast(re.Match[str], parts).groups()
        code = re.sub(r"([\w.-]+)(:)(?=\s|$)", r"<b>\1</b>\2", str(escape(code)))
        lines.append(code + (f"<i>{escape(hash_ + comment)}</i>" if hash_ else str(escape(comment))))
    return Markup("\n".join(lines))


def commands(experiment: Experiment) -> str:
    """What to type to get these results again."""
    stages = "\n".join(f"lt25 {stage} {experiment.arguments}" for stage in ("prepare", "train", "export", "evaluate"))
    downloads = "".join(f"lt25 download {dataset.name}\n" for dataset in experiment.datasets)
    by_hand = f"{downloads}{stages}"
    if experiment.overrides:
        return by_hand
    whole = f"snakemake --cores all results/{experiment.name}/evaluation/metrics.json"
    return f"# the whole chain, doing only what is not done\n{whole}\n\n# or stage by stage\n{by_hand}"


def versions(stories: list[dict]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Library versions, once for the experiments that share them: [(names of the experiments, [(library, version)])]."""
    with_versions = sorted((sorted(s["versions"].items()), s["name"]) for s in stories if s["versions"])
    return [
        (", ".join(name for _, name in group), list(shared))
        for shared, group in groupby(with_versions, key=lambda v: v[0])
    ]
