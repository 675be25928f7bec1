"""Measuring an exported model: `evaluate` writes metrics.json, predictions.parquet and plots.

The definitions of every number are in docs/evaluation.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lt25.errors import UserError
from lt25.importing import without_compiler, without_garbage

if TYPE_CHECKING:
    from lt25.experiment import Experiment

__all__ = ["evaluate", "require"]


def evaluate(experiment: Experiment, model_dir: Path, out_dir: Path, intermediate: bool = False) -> dict:
    """Evaluate the exported model in `model_dir` on the experiment's prepared data; see `lt25.evaluation.run.run`."""
    require(experiment, model_dir)
    # torch and transformers take seconds to import, which a mistake of the user's should not wait for
    with without_garbage(), without_compiler():
        from lt25.evaluation.run import run

    return run(experiment, model_dir, out_dir, intermediate)


def require(experiment: Experiment, model_dir: Path) -> None:
    """Refuse to evaluate where there is nothing to evaluate, or nothing to evaluate it on.

    Raises:
        UserError: if the folder holds no exported model, or the experiment's data is not prepared.
    """
    if not (Path(model_dir) / "config.json").exists():
        raise UserError(f"{model_dir}: no config.json, so no exported model here: run `lt25 export` first")
    if not experiment.processed_dir.is_dir():
        raise UserError(f"{experiment.processed_dir}: not there: run `lt25 prepare {experiment.arguments}` first")
