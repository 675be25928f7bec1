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
from lt25.evaluation.baselines import classifier_baselines
from lt25.evaluation.interval import wilson_interval
from lt25.evaluation.style import ACCENT, SMALL, SQUARE, TEXT, THIRD, axes, figure_of, ticks
from lt25.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        metrics["baselines"] = classifier_baselines(PreparedSplit(split.path, "train"), split)
    return metrics, table


def summary(metrics: dict) -> str:
    """Say a split's main number in a line for the log."""
    return f"accuracy {metrics['accuracy']:.2%} of {metrics['examples']:,} examples"


def plots(metrics: dict, table: pd.DataFrame) -> dict[str, Figure]:
    """Draw the confusion matrix and the F1 of each class: file -> figure."""
    names = list(metrics["per_class"])
    return {"confusion.svg": confusion(metrics["confusion"], names), "f1.svg": class_f1(metrics["per_class"])}


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
