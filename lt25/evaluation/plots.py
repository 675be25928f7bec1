"""The pictures of an evaluation, each a function from metrics or predictions to a figure."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from lt25.evaluation.style import ACCENT, SECOND, SMALL, SQUARE, TEXT, THIRD, axes, ticks

CLASSES_WITH_NUMBERS = 20
CLASSES_SHOWN = 30


def draw(task: str, metrics: dict, table: pd.DataFrame) -> dict[str, Figure]:
    """All plots of one split: file name -> figure.

    task: as in the experiment file; metrics and table: what the task's `evaluate_split` returned.
    """
    if task == "classification":
        names = list(metrics["per_class"])
        return {"confusion.svg": confusion(metrics["confusion"], names), "f1.svg": class_f1(metrics["per_class"])}
    if task == "speech_recognition":
        return {"wer_by_length.svg": wer_by_length(table), "error_kinds.svg": error_kinds(metrics)}
    return {
        "bits_by_document.svg": bits_by_document(table, metrics),
        "bits_by_position.svg": bits_by_position(metrics["by_position"]),
    }


def confusion(counts: list[list[int]], names: list[str]) -> Figure:
    """Confusion matrix, rows the true class, shaded by each row's share. counts: [K][K]."""
    counts = np.asarray(counts)
    k = len(names)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax = axes(SQUARE, "Which class was taken for which", "taken for", grid="none")
    for i, j in zip(*np.nonzero(counts), strict=True):
        # a mistake in a hundred must not vanish beside the diagonal: opacity starts well above nothing
        colour, opacity = (ACCENT, 0.1 + 0.35 * share[i, j]) if i == j else (THIRD, 0.2 + 0.4 * share[i, j])
        ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, facecolor=colour, alpha=opacity, linewidth=0))
        if k <= CLASSES_WITH_NUMBERS:
            ax.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8 if k <= 12 else 6, color=TEXT)
    ax.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal", ylabel="true class")
    ax.set_ylabel("true class", fontsize=8.5)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if k <= CLASSES_SHOWN:
        ax.set_xticks(range(k), names, rotation=0 if max(map(len, names)) <= 2 else 60)
        ax.set_yticks(range(k), names)
    return ax.figure


def class_f1(per_class: dict[str, dict]) -> Figure:
    """F1 of each class, the worst at the top; of many classes, the worst ones."""
    rows = sorted(((name, scores["f1"]) for name, scores in per_class.items() if scores["support"]), key=lambda r: r[1])
    rows = rows[:CLASSES_SHOWN]
    names, f1 = [r[0] for r in rows], np.array([r[1] for r in rows])
    left = min(0.9, np.floor(f1.min(initial=1.0) * 10) / 10)
    ax = axes((SMALL[0], max(SMALL[1], 0.9 + 0.19 * len(rows))), "F1 of each class, worst first", grid="x")
    ax.hlines(range(len(rows)), left, f1, color=ACCENT, alpha=0.35, linewidth=1.4)
    ax.plot(f1, range(len(rows)), "o", color=ACCENT)
    ax.set_yticks(range(len(rows)), names)
    ax.xaxis.set_major_locator(ticks(4))
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(left, 1 + 0.03 * (1 - left)))
    ax.spines["bottom"].set_visible(False)
    return ax.figure


def wer_by_length(table: pd.DataFrame) -> Figure:
    """Word error rate by the number of words spoken; long tails of lengths share a point."""
    words = table["words"].to_numpy()
    distinct = np.unique(words[words > 0])
    if len(distinct) <= 12:
        groups = [(f"{n}", words == n) for n in distinct]
    else:
        edges = np.unique(np.quantile(words[words > 0], np.linspace(0, 1, 9)).astype(int))
        edges[-1] += 1
        groups = [(f"{a}–{b - 1}" if b - a > 1 else f"{a}", (words >= a) & (words < b)) for a, b in pairwise(edges)]
    rates = [100 * table["errors"][chosen].sum() / words[chosen].sum() for _, chosen in groups]
    ax = axes(SMALL, "Word error rate by length, %", "words in the utterance")
    ax.bar(range(len(groups)), rates, width=0.66, color=ACCENT, alpha=0.85)
    for x, rate in enumerate(rates):
        ax.annotate(f"{rate:.1f}", (x, rate), (0, 3), textcoords="offset points", ha="center", fontsize=7.5, color=TEXT)
    ax.set_xticks(range(len(groups)), [label for label, _ in groups], rotation=0 if len(groups) <= 9 else 45)
    ax.set_ylim(0, max([*rates, 1]) * 1.15)
    return ax.figure


def error_kinds(metrics: dict) -> Figure:
    """Substitutions, deletions and insertions, in words and as a share of the reference's words."""
    kinds = [("substitutions", ACCENT), ("deletions", SECOND), ("insertions", THIRD)]
    counts = [metrics[kind] for kind, _ in kinds]
    ax = axes((SMALL[0], 1.9), f"Errors by kind, of {metrics['reference_words']:,} words", grid="none")
    ax.barh(range(3), counts, height=0.56, color=[colour for _, colour in kinds], alpha=0.85)
    for y, count in enumerate(counts):
        share = 100 * count / max(metrics["reference_words"], 1)
        ax.annotate(
            f"{count:,}  ({share:.2f} %)",
            (count, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=TEXT,
        )
    ax.set_yticks(range(3), [kind for kind, _ in kinds])
    ax.set(ylim=(2.6, -0.6), xlim=(0, max([*counts, 1]) * 1.45), xticks=[])
    ax.spines["bottom"].set_visible(False)
    return ax.figure


def bits_by_document(table: pd.DataFrame, metrics: dict) -> Figure:
    """Bits per byte of each document by its size, with the whole set's value and the compressors'."""
    rows = table[table["bytes"] > 0]
    if len(rows) > 1500:
        rows = rows.sample(1500, random_state=0)
    ax = axes(SMALL, "Bits per byte, one dot a document", "bytes in the document")
    ax.plot(rows["bytes"], rows["bits_per_byte"], "o", color=ACCENT, alpha=0.5, markersize=3.5, markeredgewidth=0)
    lines = {"this model": (metrics["bits_per_byte"], ACCENT)}
    for name, colour in (("gzip -9", SECOND), ("xz -9", THIRD)):
        if name in metrics["compressors"]:
            lines[name] = (metrics["compressors"][name], colour)
    ax.set_xscale("log")
    for value, colour in lines.values():
        ax.axhline(value, color=colour, linewidth=1.1)
    top = max(np.quantile(rows["bits_per_byte"], 0.98), *(value for value, _ in lines.values())) * 1.08
    bottom = min(rows["bits_per_byte"].min(), *(value for value, _ in lines.values())) * 0.92
    ax.set_ylim(bottom, top)
    label_lines(ax, lines, bottom, top)
    ax.xaxis.set_major_formatter(FuncFormatter(short_bytes))
    return ax.figure


def label_lines(ax, lines: dict[str, tuple[float, str]], bottom: float, top: float) -> None:
    """Write each line's name at its right end, pushed apart where they would overlap."""
    apart = (top - bottom) * 0.075
    below = -np.inf
    for name, (value, colour) in sorted(lines.items(), key=lambda line: line[1][0]):
        below = max(value, below + apart)
        ax.annotate(
            f"{name} {value:.2f}",
            (1, below),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
        )


def bits_by_position(rows: list[dict]) -> Figure:
    """Bits per token by position in the document: how much a longer past helps. rows: of `language.by_position`."""
    ax = axes(SMALL, "Bits per token by position in the document", "tokens before it")
    middle = [np.sqrt(max(row["from"], 1) * row["to"]) for row in rows]
    ax.plot(middle, [row["bits_per_token"] for row in rows], "o-", color=ACCENT)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(x):,}" if x >= 1 else ""))
    ax.yaxis.set_major_locator(ticks(5))
    return ax.figure


def short_bytes(value: float, _position=None) -> str:
    """1024 bytes are "1 kB" near enough on an axis: powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
