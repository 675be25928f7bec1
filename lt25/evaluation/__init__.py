"""Measuring an exported model: `evaluate` writes metrics.json, predictions.parquet and plots.

The definitions of every number are in docs/evaluation.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lt25.experiment import Experiment

__all__ = ["evaluate"]


def evaluate(experiment: Experiment, model_dir: Path, out_dir: Path, intermediate: bool = False) -> dict:
    """Evaluate the exported model in `model_dir` on the experiment's prepared data; see `lt25.evaluation.run.run`."""
    # torch and transformers take seconds to import: `lt25 --help` must not wait for them
    from lt25.evaluation.run import run

    return run(experiment, model_dir, out_dir, intermediate)
