"""How far the predicted numbers are from the true ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lt25.data.batches import longest_first
from lt25.evaluation.interval import bootstrap_interval
from lt25.evaluation.style import ACCENT, INK, SQUARE, axes
from lt25.progress import track

from .data import collate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.inference_mode()
def evaluate_split(
    model: Any, model_dir: Path, split: Any, options: Any, name: str, shown: bool
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Predict the number of every example of a prepared split; see `lt25.tasks` for the arguments."""
    truth, predicted = np.zeros(len(split)), np.zeros(len(split))
    batches = longest_first(split.lengths, options.batch_size)
    for indices in track(batches, name, len(batches)):
        batch = collate([split[int(i)] for i in indices])
        truth[indices] = batch.pop("labels").numpy()
        logits = model(**{key: tensor.to(model.device) for key, tensor in batch.items()}).logits
        predicted[indices] = logits[:, 0].float().cpu().numpy()
    errors = np.abs(predicted - truth)
    metrics = {
        "examples": len(truth),
        "mean_absolute_error": float(errors.mean()),
        "interval_95": bootstrap_interval(errors, np.ones(len(errors))),
        "root_mean_squared_error": float(np.sqrt((errors**2).mean())),
    }
    table = {"id": split.table()["id"].to_numpy(), "reference": truth, "prediction": predicted, "error": errors}
    return metrics, pd.DataFrame(table)


def summary(metrics: dict[str, Any]) -> str:
    """Say a split's main number in a line for the log."""
    return f"mean absolute error {metrics['mean_absolute_error']:.4g} over {metrics['examples']:,} examples"


def plots(metrics: dict[str, Any], table: pd.DataFrame) -> dict[str, Figure]:
    """Draw the predicted numbers over the true ones: file -> figure."""
    ax = axes(SQUARE, "Predicted", "true number", grid="both")
    ends = [table["reference"].min(), table["reference"].max()]
    ax.plot(ends, ends, color=INK, linewidth=1)
    ax.plot(table["reference"], table["prediction"], "o", color=ACCENT, alpha=0.5)
    return {"predictions.svg": ax.figure}
