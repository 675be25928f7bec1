"""Preparing a dataset for training: from the files as published to packed tensors.

    lt25 prepare config/experiments/digits.yaml

The folder is written beside its place and moved there when it is whole. The same files and options give the same bytes.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from lt25 import files
from lt25.data import acquire
from lt25.data.examples import SPLITS, Examples
from lt25.data.shards import SplitWriter
from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import whole_folder
from lt25.progress import say
from lt25.tasks import TASKS


def prepare(experiment: Experiment) -> None:
    """Prepare ``experiment.dataset`` as its options say, from ``raw_dir`` into ``processed_dir``.

    Raises:
        UserError: if the dataset is not there or damaged, or holds something unusable.
    """
    dataset, folder = experiment.dataset, experiment.processed_dir
    config = f"config/datasets/{dataset.name}.yaml"
    acquire.verify(dataset, experiment.raw_dir)
    examples = Examples(dataset, acquire.data_root(dataset, experiment.raw_dir))
    module = TASKS[experiment.task].module("data")

    with whole_folder(folder) as partial:
        writers = {split: SplitWriter(partial, split) for split in SPLITS}
        facts = module.write(dataset, examples, experiment.prepare, writers, partial)
        for split, writer in writers.items():
            if not len(writer):
                raise UserError(
                    f"{config}: splits.{split}: no examples: name another split, or hold out a larger fraction"
                )
            writer.close()
        stats = {
            "task": experiment.task,
            "dataset": dataset.name,
            "preparation": folder.name,
            "options": experiment.prepare,
            "title": dataset.title,
            "licence": dataset.licence,
            "fingerprint": _fingerprint(partial),
            "splits": {
                split: {"examples": len(writer), **facts["splits"][split], "lengths": _histogram(writer.lengths)}
                for split, writer in writers.items()
            },
            "model": facts["model"],
        }
        files.write_record(partial / "stats.json", stats, sorted(partial.iterdir()))
    counts = ", ".join(f"{split} {len(writer)}" for split, writer in writers.items())
    say(f"{dataset.name}: {folder.name} holds {counts} examples")


def _histogram(lengths: list[int]) -> dict[str, Any]:
    """Return how many inputs are how long, in at most twenty bins of whole numbers."""
    least, most = min(lengths), max(lengths)
    edges = np.unique(np.linspace(least, most + 1, min(most + 1 - least, 20) + 1).round().astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _fingerprint(folder: Path) -> str:
    """Return 16 hex digits that stand for the content of every file."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content.update(f"{path.name} {files.sha256(path)}\n".encode())
    return content.hexdigest()[:16]
