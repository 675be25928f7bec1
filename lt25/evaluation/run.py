"""One evaluation from an exported model to its files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch

from lt25.data.prepared import PreparedSplit
from lt25.evaluation import decoder, style
from lt25.experiment import Experiment
from lt25.files import whole_file, write_record
from lt25.models.auto import load_model
from lt25.progress import say
from lt25.tasks import TASKS


def run(
    experiment: Experiment,
    model_dir: Path,
    out_dir: Path,
    names: Sequence[str],
    intermediate: bool = False,
    exported: Mapping[str, Any] | None = None,
) -> dict:
    """Evaluate an exported model on some splits, and write what came out.

    intermediate: whether it is a checkpoint on the way, which is neither drawn nor sampled from.

    model_dir: a Hugging Face folder; exported: what its export.json holds, if lt25 wrote it; out_dir: receives
    predictions.parquet (one row an example, column `split`), the plots of the headline split as SVG and, last, metrics.json,
    the record of them all.
    Returns what metrics.json holds; docs/evaluation.md defines each number.
    Raises UserError if the model or the prepared data is missing or does not fit the task.
    """
    model_dir, out_dir = Path(model_dir), Path(out_dir)
    task, options = TASKS[experiment.task].module("evaluation"), SimpleNamespace(**decoder.settled(experiment))
    headline = "test" if "test" in names else names[-1]
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(experiment.task, model_dir, device, options.trust_remote_code)
    splits, tables, drawn = {}, [], {}
    for name in names:
        split = PreparedSplit(experiment.processed_dir, name)
        shown = name == headline and not intermediate
        metrics, table = task.evaluate_split(model, model_dir, split, options, name, shown)
        say(f"{experiment.name}, {name}: {task.summary(metrics)}")
        if shown:
            drawn = task.plots(metrics, table)
        table.insert(0, "split", name)
        splits[name] = metrics
        tables.append(table)
    for file, figure in drawn.items():
        style.save(figure, out_dir / file)
    with whole_file(out_dir / "predictions.parquet") as partial:
        pd.concat(tables, ignore_index=True).to_parquet(partial, index=False)
    threads = torch.get_num_threads()
    plural = "" if threads == 1 else "s"
    result = {
        "task": experiment.task,
        "experiment": experiment.name,
        "step": (exported or {}).get("step"),
        **({"averaged": exported["averaged"]} if exported and "averaged" in exported else {}),
        "model": (exported or {}).get("fingerprint"),
        "options": experiment.evaluation,
        "headline": headline,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} thread{plural}",
        "seconds": round(time.perf_counter() - started, 3),
        "splits": splits,
    }
    written = [out_dir / file for file in ("predictions.parquet", *drawn)]
    return write_record(out_dir / "metrics.json", result, written)
