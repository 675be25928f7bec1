"""Accuracy, F1 and the confusion matrix of a sequence classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lt25.data.batches import longest_first
from lt25.data.classification import collate
from lt25.data.prepared import PreparedSplit
from lt25.evaluation.answers import PARTS, beginnings
from lt25.evaluation.baselines import classifier_baselines
from lt25.evaluation.interval import wilson_interval
from lt25.evaluation.style import (
    ACCENT,
    INK,
    SMALL,
    SQUARE,
    TEXT,
    THIRD,
    axes,
    end_at_100,
    figure_of,
    logarithmic,
    ticks,
)
from lt25.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10
"""Of equal width, by what a classifier holds its answer's probability to be: for the calibration."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the time constants of a layer's channels."""

LOOKED_AT = 1000
"""So many examples are read by parts, and their forget gates looked at; others of a larger split are not."""

CLASSES_WITH_NUMBERS = 20
CLASSES_SHOWN = 30


def score(labels: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict:
    """Accuracy, macro F1, precision, recall and F1 of each class, and the confusion matrix.

    labels, predictions: int [n], each in 0..len(names)-1. `confusion[i][j]` counts examples of class i taken for j.
    A ratio with nothing below the line is 0. Macro F1 is the plain mean over the classes that occur in `labels`: a
    class without examples would otherwise pull it down whatever the model does.
    """
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    right, support, chosen = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision = right / np.maximum(chosen, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + chosen, 1)
    return {
        "examples": len(labels),
        "correct": int(right.sum()),
        "accuracy": float(right.sum() / max(len(labels), 1)),
        "interval_95": wilson_interval(int(right.sum()), len(labels)),
        "macro_f1": float(f1[support > 0].mean()) if len(labels) else 0.0,
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
    }


def calibration(probabilities: np.ndarray, correct: np.ndarray) -> dict:
    """Compare how sure a classifier is with how often it is right.

    Args:
        probabilities: of each answer, float [n].
        correct: whether it is right, bool [n].

    Returns:
        ``error``, the mean difference of the two over the examples (the expected calibration error, of `BINS` bins of equal
        width), and ``bins`` with any examples: ``examples``, ``probability`` (mean) and ``accuracy``.
    """
    bins, number = [], np.minimum((probabilities * BINS).astype(int), BINS - 1)
    for inside in (number == one for one in range(BINS)):
        if inside.any():
            said, right = float(probabilities[inside].mean()), float(correct[inside].mean())
            bins.append({"examples": int(inside.sum()), "probability": said, "accuracy": right})
    error = sum(one["examples"] * abs(one["probability"] - one["accuracy"]) for one in bins)
    return {"error": error / max(len(correct), 1), "bins": bins}


def by_part_read(model: Any, split: Any, batch_size: int, title: str) -> list[dict]:
    """Return how often a classifier is right when it has read some tenths of the sequences.

    Returns:
        For each tenth ``read``, the part of a sequence up to there, ``accuracy`` and ``examples``.
    """
    chosen = _looked_at(split)
    right = np.zeros(PARTS)
    batches = [chosen[order] for order in longest_first(split.lengths[chosen], batch_size)]
    for indices in track(batches, f"{title}, by part read", len(batches)):
        batch = collate([split[int(i)] for i in indices])
        for number in range(PARTS):
            found = beginnings(model, batch["input_features"], (number + 1) / PARTS, batch.get("attention_mask"))
            right[number] += (found.argmax(1) == batch["labels"]).sum().item()
    return [
        {"read": (number + 1) / PARTS, "accuracy": right[number] / len(chosen), "examples": len(chosen)}
        for number in range(PARTS)
    ]


def memory(model: Any, split: Any, batch_size: int) -> list[list[float]]:
    """Return for each layer the 5, 25, 50, 75 and 95 % quantiles of its channels' time constants in steps; see `HGRNModel`."""
    batch = collate([split[int(i)] for i in _looked_at(split)[:batch_size]])
    del batch["labels"]
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return [
        torch.quantile(layer.float().cpu(), torch.tensor(QUANTILES)).tolist()
        for layer in model.base_model.time_constants(**inputs)
    ]


def _looked_at(split: Any) -> np.ndarray:
    """Return the examples that are looked at more closely, ascending: of many the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(len(split))[:LOOKED_AT])


@torch.inference_mode()
def evaluate_split(
    model: Any, model_dir: Path, split: Any, options: Any, name: str, shown: bool
) -> tuple[dict, pd.DataFrame]:
    """Classify every example of a prepared split, and compare with simple means if it is shown; see `lt25.tasks`.

    ``model`` takes `input_features` [B, T, C] and `attention_mask` [B, T].

    Returns:
        The metrics and one row an example, in the split's order: id, reference, prediction, probability (of the
        prediction), reference_probability, correct.
    """
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    n = len(split)
    probabilities = np.zeros((n, len(names)), dtype=np.float32)
    labels = np.zeros(n, dtype=np.int64)
    batches = longest_first(split.lengths, options.batch_size)
    for indices in track(batches, name, len(batches)):
        batch = collate([split[int(i)] for i in indices])
        labels[indices] = batch.pop("labels").numpy()
        logits = model(**{key: tensor.to(model.device) for key, tensor in batch.items()}).logits
        probabilities[indices] = logits.float().softmax(-1).cpu().numpy()
    predictions = probabilities.argmax(1)
    rows = np.arange(n)
    table = pd.DataFrame(
        {
            "id": split.table()["id"].to_numpy(),
            "reference": [names[i] for i in labels],
            "prediction": [names[i] for i in predictions],
            "probability": probabilities[rows, predictions],
            "reference_probability": probabilities[rows, labels],
            "correct": labels == predictions,
        }
    )
    metrics = score(labels, predictions, names)
    if shown:
        metrics["calibration"] = calibration(probabilities[rows, predictions], labels == predictions)
        metrics["by_part_read"] = by_part_read(model, split, options.batch_size, name)
        if hasattr(model.base_model, "time_constants"):
            metrics["time_constants"] = memory(model, split, options.batch_size)
        metrics["baselines"] = classifier_baselines(PreparedSplit(split.path, "train"), split)
    return metrics, table


def summary(metrics: dict) -> str:
    """Say a split's main number in a line for the log."""
    return f"accuracy {metrics['accuracy']:.2%} of {metrics['examples']:,} examples"


def plots(metrics: dict, table: pd.DataFrame) -> dict[str, Figure]:
    """Draw the confusion matrix, the F1 of each class, calibration, accuracy by the part read, and gates: file -> figure."""
    names = list(metrics["per_class"])
    drawn = {
        "confusion.svg": confusion(metrics["confusion"], names),
        "f1.svg": class_f1(metrics["per_class"]),
        "calibration.svg": reliability(metrics["calibration"]),
        "read.svg": growing(metrics["by_part_read"]),
    }
    return drawn | ({"gates.svg": gates(metrics["time_constants"])} if "time_constants" in metrics else {})


def confusion(counts: list[list[int]], names: list[str]) -> Figure:
    """Confusion matrix, rows the true class, shaded by each row's share. counts: [K][K]."""
    from matplotlib.patches import Rectangle

    table = np.asarray(counts)
    k = len(names)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    ax = axes(SQUARE, "Which class was taken for which", "taken for", grid="none")
    for i, j in zip(*np.nonzero(table), strict=True):
        # a mistake in a hundred must not vanish beside the diagonal: opacity starts well above nothing
        colour, opacity = (ACCENT, 0.1 + 0.35 * share[i, j]) if i == j else (THIRD, 0.2 + 0.4 * share[i, j])
        ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, facecolor=colour, alpha=opacity, linewidth=0))
        if k <= CLASSES_WITH_NUMBERS:
            ax.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=8 if k <= 12 else 6, color=TEXT)
    ax.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal", ylabel="true class")
    ax.set_ylabel("true class", fontsize=8.5)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if k <= CLASSES_SHOWN:
        ax.set_xticks(range(k), names, rotation=0 if max(map(len, names)) <= 2 else 60)
        ax.set_yticks(range(k), names)
    return figure_of(ax)


def class_f1(per_class: dict[str, dict]) -> Figure:
    """F1 of each class, the worst at the top; of many classes, the worst ones."""
    rows = sorted(((name, scores["f1"]) for name, scores in per_class.items() if scores["support"]), key=lambda r: r[1])
    rows = rows[:CLASSES_SHOWN]
    names, f1 = [r[0] for r in rows], 100 * np.array([r[1] for r in rows])
    left = min(90, np.floor(f1.min(initial=100) / 10) * 10)
    ax = axes((SMALL[0], max(SMALL[1], 0.9 + 0.19 * len(rows))), "F1 of each class, %, worst first", grid="x")
    ax.hlines(range(len(rows)), left, f1, color=ACCENT, alpha=0.35, linewidth=1.4)
    # Nothing lies beyond 100 %, so the axis ends there, and the dots are drawn across its end.
    ax.plot(f1, range(len(rows)), "o", color=ACCENT, clip_on=False)
    ax.set_yticks(range(len(rows)), names)
    ax.xaxis.set_major_locator(ticks(4))
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(left, 100))
    ax.spines["bottom"].set_visible(False)
    return figure_of(ax)


def reliability(found: dict) -> Figure:
    """How often answers are right, by how sure the classifier is: points as large as they have examples."""
    ax = axes(SMALL, "Right answers, %", "how sure the model is, %", grid="both")
    ax.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle="--")
    most = max((one["examples"] for one in found["bins"]), default=1)
    for one in found["bins"]:
        size = 12 + 60 * one["examples"] / most
        ax.scatter(100 * one["probability"], 100 * one["accuracy"], size, color=ACCENT, clip_on=False, zorder=3)
    ax.set(xlim=(0, 100), ylim=(0, 100))
    return figure_of(ax)


def growing(found: list[dict]) -> Figure:
    """Accuracy by the part of the sequence that was read."""
    ax = axes(SMALL, "Right answers, %", "part of the sequence read, %")
    read, accuracy = ([100 * one[key] for one in found] for key in ("read", "accuracy"))
    # A point at 100 % lies on the axis' end, and is drawn across it.
    ax.plot(read, accuracy, "o-", color=ACCENT, clip_on=False)
    ax.set(xlim=(0, 103))
    end_at_100(ax)
    return figure_of(ax)


def gates(layers: list[list[float]]) -> Figure:
    """Time constants of each layer's channels: the median, and lines over half and over 90 % of them."""
    ax = axes(SMALL, "Steps that channels remember", "layer")
    for number, (lowest, low, middle, high, highest) in enumerate(layers, 1):
        ax.plot([number, number], [lowest, highest], color=ACCENT, linewidth=1, alpha=0.6)
        ax.plot([number, number], [low, high], color=ACCENT, linewidth=4, alpha=0.6, solid_capstyle="butt")
        ax.plot(number, middle, "o", color=ACCENT)
    logarithmic(ax)
    ax.xaxis.set_major_locator(ticks(min(len(layers), 12), whole=True))
    return figure_of(ax)
