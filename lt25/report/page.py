"""The page: everything a reader wants to know of a set of experiments, in one HTML file without a network.

`render` turns what `collect` read into plain values, and page.html lays them out.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lt25.checkpoints.card import path_of
from lt25.evaluation import style
from lt25.experiment import Experiment
from lt25.progress import say
from lt25.report import media, plots
from lt25.report.collect import Results, collect
from lt25.report.headline import TASK_NAMES, count, duration, headline, size
from lt25.report.svg import inline

HERE = Path(__file__).parent
WORST_UTTERANCES = 8
MISTAKES = 18
REASONS = 3

# evaluation's plots in reading order, with the sentence that stands under each
CAPTIONS = {
    "confusion.svg": "Rows are the true classes, columns what the model said. Off the diagonal: mistakes.",
    "f1.svg": "Harmonic mean of precision and recall.",
    "wer_by_length.svg": "Errors divided by words, for utterances of each length.",
    "error_kinds.svg": "Words taken for others, left out, and made up.",
    "bits_by_document.svg": "Fewer is better. The lines are the values over all these bytes together.",
    "bits_by_position.svg": "A falling line: the model uses what it has read.",
}


def render(experiments: Sequence[Experiment]) -> str:
    """The page as HTML. Raises UserError if an experiment has not been evaluated."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.undefined = jinja2.StrictUndefined
    stories = []
    for experiment in experiments:
        say(f"report: {experiment.name}")
        stories.append(story(collect(experiment)))
    return environment.get_template("page.html").render(
        stories=stories,
        style=Markup((HERE / "page.css").read_text()),
        date=datetime.date.today().strftime("%-d %B %Y"),
        versions=versions(stories),
    )


def story(results: Results) -> dict:
    """All that page.html shows of one experiment, ready to print."""
    experiment, name = results.experiment, results.experiment.name
    said = headline(experiment.task, results.headline_split, results.metrics["headline"])
    spark = plots.sparkline(results.history)
    return {
        "name": name,
        "task": TASK_NAMES[experiment.task],
        "headline": said,
        "bars": compressor_bars(results),
        "sparkline": draw(spark, f"{name}-spark", "training loss falling over the steps") if spark else "",
        "dataset": experiment.dataset,
        "facts": facts(results),
        "splits": split_rows(results),
        "figures": evaluation_figures(results),
        "curve": learning_curve(results),
        "training": {
            key: draw(f, f"{name}-{key}", f"{key} over the training steps")
            for key, f in plots.training(results.history, experiment.task).items()
        },
        "skipped": results.train.get("skipped_steps", 0),
        "data": data_figures(results),
        "data_rows": data_rows(results),
        "mistakes": mistakes(results) if experiment.task == "classification" else [],
        "utterances": utterances(results) if experiment.task == "speech_recognition" else [],
        "samples": results.headline_split.get("samples", []),
        "config": highlight(results.config),
        "config_path": str(experiment.path),
        "commands": commands(experiment),
        "versions": results.train.get("versions", {}),
    }


def draw(figure: Figure, name: str, description: str) -> Markup:
    """A figure as an element of the page."""
    return inline(style.svg(figure), re.sub(r"\W", "-", name), description)


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


def split_rows(results: Results) -> list[tuple[str, str, str, str]]:
    """The headline metric on every evaluated split: split, value with unit, interval, what it was measured on."""
    rows = []
    for name, metrics in results.metrics["splits"].items():
        said = headline(results.experiment.task, metrics, name)
        rows.append((name, f"{said.value} {said.unit}".strip(), said.interval, said.on))
    return rows


def evaluation_figures(results: Results) -> list[tuple[Markup, str]]:
    """The evaluation's plots with their captions, in reading order."""
    order = [*CAPTIONS, *sorted(set(results.figures) - set(CAPTIONS))]
    return [
        (
            inline(results.figures[file], f"{results.experiment.name}-{file[:-4]}", CAPTIONS.get(file, file)),
            CAPTIONS.get(file, ""),
        )
        for file in order
        if file in results.figures
    ]


def learning_curve(results: Results) -> Markup | str:
    """The headline metric over the evaluated checkpoints, on the splits they share; "" if there are fewer than two."""
    task, steps = results.experiment.task, results.steps
    names = [name for name in results.metrics["splits"] if all(name in metrics["splits"] for metrics in steps)]
    if len(steps) < 2 or not names:
        return ""
    values = {name: [headline(task, m["splits"][name], name).measured for m in steps] for name in names}
    said = headline(task, results.headline_split, results.metrics["headline"])
    title = f"{said.name}{f', {said.unit}' if said.unit else ''}{f', {names[0]}' if len(names) == 1 else ''}"
    figure = plots.learning_curve([m["step"] for m in steps], values, title)
    return draw(figure, f"{results.experiment.name}-curve", title)


def data_rows(results: Results) -> dict:
    """The prepared splits as a table: {"columns", "rows": [(split, cells)], "excluded": [(split, reason, how many)]}."""
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
        (name, [known[column](split[column]) if column in split else "–" for column in columns])
        for name, split in splits.items()
    ]
    return {
        "columns": ["audio" if column == "seconds" else column for column in columns],
        "rows": rows,
        "excluded": [
            (name, why, n)
            for name, split in splits.items()
            for why, n in sorted(split.get("excluded", {}).items(), key=lambda reason: -reason[1])[:REASONS]
        ],
    }


def data_figures(results: Results) -> list[Markup]:
    """How long the training examples are and which classes they have."""
    train = results.stats.get("splits", {}).get("train", {})
    name, figures = results.experiment.name, []
    lengths = train.get("lengths", {})
    if len(lengths.get("counts", [])) > 1:
        unit = {"speech_recognition": "frames of 10 ms", "language_modeling": "tokens"}
        x = unit.get(results.experiment.task, "steps")
        figures.append(draw(plots.histogram(lengths["edges"], lengths["counts"], x), f"{name}-lengths", "lengths"))
    if len(train.get("labels", {})) > 1:
        figures.append(draw(plots.label_counts(train["labels"]), f"{name}-labels", "training examples by class"))
    return figures


def compressor_bars(results: Results) -> list[tuple[str, float, float, bool]]:
    """This model beside the compressors: name, bits per byte, share of the longest bar, whether it is ours."""
    metrics = results.headline_split
    if "compressors" not in metrics:
        return []
    values = {results.experiment.name: metrics["bits_per_byte"], **metrics["compressors"]}
    longest = max(values.values())
    rows = sorted(values.items(), key=lambda row: row[1])
    return [(name, value, value / longest, name == results.experiment.name) for name, value in rows]


def headline_predictions(results: Results) -> pd.DataFrame:
    """The predictions of the headline split, numbered as its examples are."""
    table = results.predictions
    return table[table["split"] == results.metrics["headline"]].reset_index(drop=True)


def mistakes(results: Results) -> list[dict]:
    """The wrong answers given with most conviction, with the picture or curve that the model was shown."""
    from lt25.data.prepared import PreparedSplit

    table = headline_predictions(results)
    wrong = table[~table["correct"]].sort_values("probability", ascending=False).head(MISTAKES)
    if wrong.empty:
        return []
    split = PreparedSplit(results.experiment.processed_dir, results.metrics["headline"])
    shown = []
    for position, row in wrong.iterrows():
        values = split[int(position)]["input"].float().numpy()
        picture = media.picture(values)
        shown.append(
            {
                "picture": picture,
                "trace": "" if picture else media.trace(values),
                "reference": row["reference"],
                "prediction": row["prediction"],
                "probability": f"{100 * row['probability']:.0f} %",
            }
        )
    return shown


def utterances(results: Results) -> list[dict]:
    """The utterances with most errors, aligned word by word, with their sound where the prepared data keeps it."""
    from lt25.evaluation.speech_recognition import align

    table = headline_predictions(results)
    worst = table.sort_values(["errors", "character_errors", "words"], ascending=False, kind="stable")
    worst = worst.head(WORST_UTTERANCES)
    clips = sounds(results, list(worst.index))
    return [
        {
            "id": row["id"],
            "pairs": align(row["reference"], row["prediction"]),
            "errors": int(row["errors"]),
            "words": int(row["words"]),
            "about": " · ".join(
                str(part)
                for part in (row.get("speaker"), duration(row["seconds"]) if "seconds" in row else None)
                if part is not None and not pd.isna(part)
            ),
            "sound": clips.get(position, ""),
        }
        for position, row in worst.iterrows()
    ]


def sounds(results: Results, positions: list[int]) -> dict[int, str]:
    """Clips of some examples of the headline split: position -> data URI; {} where the prepared data keeps no audio."""
    import pyarrow.parquet

    path = results.experiment.processed_dir / f"{results.metrics['headline']}.parquet"
    if not path.exists() or "audio" not in pyarrow.parquet.read_schema(path).names:
        return {}
    audio = pyarrow.parquet.read_table(path, columns=["audio"])["audio"].take(positions).to_pylist()
    return {position: media.sound(clip) for position, clip in zip(positions, audio, strict=True) if clip}


def highlight(text: str) -> Markup:
    """YAML with its comments and keys marked."""
    lines = []
    for line in text.rstrip().splitlines():
        code, hash_, comment = re.match(r"((?:[^#'\"]|'[^']*'|\"[^\"]*\"|(?<=\S)#)*)(#?)(.*)", line).groups()
        code = re.sub(r"([\w.-]+)(:)(?=\s|$)", r"<b>\1</b>\2", str(escape(code)))
        lines.append(code + (f"<i>{escape(hash_ + comment)}</i>" if hash_ else str(escape(comment))))
    return Markup("\n".join(lines))


def commands(experiment: Experiment) -> str:
    """What to type to get these results again."""
    stages = "\n".join(f"lt25 {stage} {experiment.arguments}" for stage in ("prepare", "train", "export", "evaluate"))
    by_hand = f"lt25 download {experiment.dataset.name}\n{stages}"
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
