"""How many of the symbols asked for a model recalls, by difficulty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lt25.data.batches import IGNORE, longest_first
from lt25.data.prepared import PreparedSplit
from lt25.data.recall import collate
from lt25.evaluation.interval import rate_interval
from lt25.evaluation.style import ACCENT, SMALL, axes, figure_of
from lt25.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.inference_mode()
def evaluate_split(
    model: Any, model_dir: Path, split: Any, options: Any, name: str, shown: bool
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Ask for the symbols of every sequence of a prepared split; see `lt25.tasks` for the arguments."""
    right = np.zeros(len(split), np.int64)
    batches = longest_first(split.lengths, options.batch_size)
    for indices in track(batches, name, len(batches)):
        batch = collate([split[int(i)] for i in indices])
        labels = batch["labels"].to(model.device)
        said = model(input_ids=batch["input_ids"].to(model.device)).logits.argmax(-1)
        right[indices] = ((said == labels) & (labels != IGNORE)).sum(1).cpu().numpy()
    table = split.table()[["id", "difficulty", "asked"]].assign(right=right)
    metrics = {
        "examples": len(table),
        "asked": int(table["asked"].sum()),
        "right": int(right.sum()),
        "accuracy": float(right.sum() / table["asked"].sum()),
        "interval_95": rate_interval(right, table["asked"].to_numpy()),
        "by_difficulty": by_difficulty(table),
    }
    if shown:
        metrics["baselines"] = {"guess": _guess(PreparedSplit(split.path, "train"), split)}
    return metrics, table


def by_difficulty(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy at each difficulty, easiest first: [{"difficulty", "examples", "asked", "accuracy", "whole"}].

    ``whole`` is the share of sequences of which all symbols are right.
    """
    parts: Any = table.groupby("difficulty")
    return [
        {
            "difficulty": int(difficulty),
            "examples": len(rows),
            "asked": int(rows["asked"].sum()),
            "accuracy": float(rows["right"].sum() / rows["asked"].sum()),
            "whole": float((rows["right"] == rows["asked"]).mean()),
        }
        for difficulty, rows in parts
    ]


def _guess(train: Any, split: Any) -> float:
    """Accuracy of always saying the symbol that training asks for most often."""
    asked = train.shards["labels"]
    most = asked[asked != IGNORE].mode().values
    labels = split.shards["labels"]
    return float((labels == most).sum() / (labels != IGNORE).sum())


def summary(metrics: dict[str, Any]) -> str:
    """Say a split's main number in a line for the log."""
    hardest = metrics["by_difficulty"][-1]
    return (
        f"{100 * metrics['accuracy']:.1f} % of {metrics['asked']:,} symbols recalled, "
        f"{100 * hardest['accuracy']:.1f} % at difficulty {hardest['difficulty']}"
    )


def plots(metrics: dict[str, Any], table: pd.DataFrame) -> dict[str, Figure]:
    """Draw the accuracy by difficulty: file -> figure."""
    ax = axes(SMALL, "Symbols recalled, %", "difficulty")
    rows = metrics["by_difficulty"]
    ax.plot([row["difficulty"] for row in rows], [100 * row["accuracy"] for row in rows], "o-", color=ACCENT)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.set_ylim(0, 103)
    return {"accuracy_by_difficulty.svg": figure_of(ax)}
