"""The report's own plots: what training did, what the data looks like, how the model grew, experiments beside each other."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lt25.evaluation.style import ACCENT, INK, SECOND, SMALL, THIRD, axes, end_at_100, figure_of, logarithmic, ticks

WIDE = (4.7, 2.8)
"""Inches of a plot of several experiments."""

PERCENT = {"accuracy": "accuracy", "wer": "word error rate", "cer": "character error rate"}
"""What validation measures in shares, and how it is called."""

LINES = [(colour, dashes) for dashes in ("", "5 2", "1.5 1.5") for colour in (ACCENT, SECOND, THIRD, INK)]
"""Colour and dashes, in points, of each experiment's line."""


def smooth(values: np.ndarray) -> np.ndarray:
    """Average over a window of a twentieth of the run, to both sides: unlike a running mean it does not lag behind.

    values: [n] finite floats. Near the ends the window is what there is of it.
    """
    half = max(1, len(values) // 40)
    window = np.hanning(2 * half + 3)
    total, weight = (np.convolve(v, window)[half + 1 : half + 1 + len(values)] for v in (values, np.ones(len(values))))
    return total / weight


def series(history: list[dict], key: str, x: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """Steps (or another key) and finite values of one key of metrics.jsonl."""
    rows = [(row[x], row[key]) for row in history if row.get(key) is not None and np.isfinite(row[key])]
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=float)


def validated(validations: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one number of the validations in a metrics.jsonl; shares in percent."""
    scale = 100 if key in PERCENT else 1
    steps, values = series([{"step": line["step"], **line["validation"]} for line in validations], key)
    return steps, scale * values


def training(history: list[dict], validations: list[dict], loss_unit: str, unit: str) -> dict[str, Figure]:
    """Loss, validation, learning rate and throughput over the steps: name -> figure. What was not recorded is left out.

    loss_unit: "nats per example"; unit: what a sequence consists of, "tokens".
    """
    figures = {}
    steps, values = series(history, "loss")
    if len(steps) > 1:
        held_out, measured = validated(validations, "loss")
        ax = axes(SMALL, f"{'Loss' if len(held_out) else 'Training loss'}, {loss_unit}", "step")
        ax.plot(steps, values, color=ACCENT, alpha=0.3, linewidth=1)
        ax.plot(steps, smooth(values), color=ACCENT, label="training")
        if len(held_out):
            ax.plot(held_out, measured, "o-", color=SECOND, label="validation")
            ax.legend(frameon=False, fontsize=8, labelcolor="linecolor")
        scale_loss(ax, np.concatenate([values, measured]))
        figures["loss"] = finish(ax)
    for key in [key for key in (validations[-1]["validation"] if validations else ()) if key != "loss"]:
        held_out, measured = validated(validations, key)
        if len(held_out):
            ax = axes(SMALL, f"Validation, {PERCENT[key]}, %" if key in PERCENT else f"Validation, {key}", "step")
            ax.plot(held_out, measured, "o-", color=SECOND, clip_on=False)
            if key in PERCENT:
                end_at_100(ax)
            figures[f"validation-{key}"] = finish(ax)
    steps, values = series(history, "lr")
    if len(steps) > 1:
        ax = axes(SMALL, "Learning rate", "step")
        ax.plot(steps, values, color=SECOND)
        ax.set_ylim(bottom=0)
        figures["lr"] = finish(ax)
    steps, values = series(history, "positions_per_second")
    if len(steps) > 1:
        ax = axes(SMALL, f"Throughput, {unit} per second", "step")
        ax.plot(steps, values, color=INK, linewidth=1.2)
        ax.set_ylim(0, np.quantile(values, 0.98) * 1.25)
        figures["rate"] = finish(ax)
    return figures


def scale_loss(ax, values: np.ndarray) -> None:
    """Let a loss's axis begin at 0, or have it logarithmic where the loss falls a long way."""
    if values.min() > 0 and values.max() / values.min() > 30:
        logarithmic(ax)
    else:
        ax.set_ylim(bottom=min(0, values.min()))


def learning_curve(steps: list[int], values: dict[str, list[float]], title: str, percent: bool = False) -> Figure:
    """A metric over the evaluated checkpoints, a line a split: the last split in the accent colour.

    percent: whether the values are percentages.
    """
    ax = axes(SMALL, title, "training step")
    colours = [SECOND, ACCENT][-len(values) :] if len(values) <= 2 else [INK] * (len(values) - 1) + [ACCENT]
    for (split, line), colour in zip(values.items(), colours, strict=True):
        ax.plot(steps, line, "o-", color=colour, label=split, clip_on=False)
    if percent:
        end_at_100(ax)
    if len(values) > 1:
        ax.legend(frameon=False, fontsize=8, labelcolor="linecolor")
    return finish(ax)


def together(curves: list[tuple[np.ndarray, np.ndarray]], title: str, x: str, percent: bool = False) -> Figure | None:
    """The curves of several experiments in one plot, in the order and with the looks of `LINES`.

    curves: x and y of each, perhaps empty; percent: whether they are percentages, and otherwise losses. Returns None if
    fewer than two have points.
    """
    if sum(len(xs) > 1 for xs, _ in curves) < 2:
        return None
    ax = axes(WIDE, title, x)
    for number, (xs, ys) in enumerate(curves):
        colour, dashes = LINES[number % len(LINES)]
        ax.plot(xs, ys, color=colour, linestyle=(0, tuple(map(float, dashes.split()))) if dashes else "-")
    if percent:
        end_at_100(ax)
    else:
        scale_loss(ax, np.concatenate([ys for _, ys in curves]))
    return finish(ax)


def histogram(edges: list[float], counts: list[int], x: str) -> Figure:
    """Bars of a histogram that was counted when the data was prepared. edges: [n + 1]; counts: [n]."""
    ax = axes(SMALL, "Training examples by length", x)
    ax.bar(edges[:-1], counts, width=np.diff(edges) * 0.94, align="edge", color=ACCENT, alpha=0.8)
    return finish(ax)


def label_counts(counts: dict[str, int]) -> Figure:
    """How many training examples each class has."""
    ax = axes(SMALL, "Training examples by class", "")
    ax.bar(range(len(counts)), list(counts.values()), width=0.7, color=ACCENT, alpha=0.8)
    ax.yaxis.set_major_locator(ticks(5, whole=True))
    if len(counts) <= 30:
        longest = max(map(len, counts))
        ax.set_xticks(range(len(counts)), counts, rotation=0 if longest <= 2 or len(counts) <= 4 else 45)
    return figure_of(ax)


def sparkline(history: list[dict]) -> Figure | None:
    """The loss, as small as a word."""
    steps, values = series(history, "loss")
    if len(steps) < 2:
        return None
    ax = axes((2.6, 0.5), grid="none")
    ax.plot(steps, smooth(values), color=ACCENT, linewidth=1.4)
    ax.set_axis_off()
    ax.margins(0.005, 0.1)
    figure_of(ax).set_layout_engine("none")
    ax.set_position((0, 0, 1, 1))
    return figure_of(ax)


def finish(ax) -> Figure:
    """Few, whole-numbered ticks."""
    ax.xaxis.set_major_locator(ticks(5, whole=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if ax.get_yscale() == "log":
        # Within one decade matplotlib would label hardly anything.
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        ax.yaxis.set_major_locator(ticks(5))
        if ax.get_ylim()[1] >= 1000:
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    return figure_of(ax)
