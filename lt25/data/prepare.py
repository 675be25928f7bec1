"""Preparing a dataset for training: from the files as published to packed tensors.

    lt25 prepare config/experiments/digits.yaml

The folder is written beside its place and moved there when it is whole. The same files and options give the same bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lt25 import files
from lt25.data import acquire
from lt25.data.examples import Examples, content
from lt25.data.faults import Faults
from lt25.data.folders import Folder
from lt25.data.shards import SplitWriter
from lt25.errors import UserError
from lt25.experiment import Dataset, Experiment, digest
from lt25.files import whole_folder
from lt25.progress import say
from lt25.tasks import TASKS


def prepare(experiment: Experiment) -> None:
    """Prepare ``experiment.dataset`` as its options say, from ``raw_dir`` into ``processed_dir``.

    Raises:
        UserError: if the dataset is not there or damaged, or holds something unusable.
    """
    dataset, folder = experiment.dataset, experiment.processed_dir
    manifests = {one.name: acquire.verify(one, experiment.raw_dir_of(one)) for one in experiment.datasets}
    sources = {name: manifest["files"] for name, manifest in manifests.items()}
    faults = Faults(dataset.name, experiment.prepare.get("faulty", ""))
    task = TASKS[experiment.task]
    module = task.module("data")
    decisive = digest([list(sources.values()), experiment.preparation_options])
    with _parts(folder, decisive) as parts, whole_folder(folder) as partial:
        of = {one.name: faults.of(one.name) if experiment.further else faults for one in experiment.datasets}
        others = [_examples(experiment, one, sources[one.name], of[one.name]) for one in experiment.further]
        examples = _examples(experiment, dataset, sources[dataset.name], of[dataset.name], parts=parts, others=others)
        for named_by, every in zip(experiment.datasets, (examples, *others), strict=True):
            if all(isinstance(text := content(one), str) and not text for one in every.of("train")):
                faults.report(0)
                raise UserError(
                    f"config/datasets/{named_by.name}.yaml: splits.train: no examples, or empty texts only: name another split, "
                    "or hold out a smaller fraction"
                )
        # Of few speakers or files a split may get none, which is said before the work.
        for split, source in dataset.splits.items():
            held_out = isinstance(source, dict) and "fraction" in source
            whole = held_out and not {"group", "start"}.isdisjoint(dataset.columns)
            if whole and next(examples.of(split), None) is None:
                raise _no_examples(dataset, split, faults)

        writers = {split: SplitWriter(partial, split) for split in experiment.splits}
        facts = module.write(dataset, examples, experiment.preparation_options, writers, partial)
        sizes = facts["splits"]
        faults.report(
            sum(sizes[split].get("examples", sizes[split].get("read", len(one))) for split, one in writers.items())
        )
        writers = {split: writer for split, writer in writers.items() if not _is_text(facts, split)}
        _say_shared(dataset.name, examples)
        for split, writer in writers.items():
            if not len(writer):
                named_by = next(one for one in experiment.datasets if split in one.splits)
                raise _no_examples(named_by, split, faults)
            writer.close()
        stats = {
            "task": experiment.task,
            "dataset": dataset.name,
            "preparation": folder.name,
            "options": experiment.preparation_options,
            "title": dataset.title,
            "licence": dataset.licence,
            "sources": {name: acquire.source_digest(manifest) for name, manifest in manifests.items()},
            "fingerprint": _fingerprint(partial, sources if _is_text(facts, "train") else {}),
            "splits": {
                split: {
                    "examples": len(writer),
                    **facts["splits"][split],
                    "excluded": {**facts["splits"][split].get("excluded", {}), **faults.counts(split)},
                    "lengths": _histogram(writer.lengths),
                }
                if (writer := writers.get(split))
                else facts["splits"][split]
                for split in experiment.splits
            },
            "excluded": faults.named(),
            "shared": {split: count for split, (count, _) in examples.shared().items()},
            "model": facts["model"],
        }
        files.write_record(partial / "stats.json", stats, sorted(partial.iterdir()))
    counts = ", ".join(f"{split} {len(writer)}" for split, writer in writers.items())
    say(f"{dataset.name}: {folder.name} holds {counts} examples")


def _examples(experiment: Experiment, dataset: Dataset, names: Iterable[str], faults: Faults, **more: Any) -> Examples:
    folder = Folder(acquire.data_root(dataset, experiment.raw_dir_of(dataset)), names)
    return Examples(dataset, folder, faults, **more)


@contextmanager
def _parts(folder: Path, of: str) -> Iterator[Path]:
    """Give a folder beside ``folder`` for what need not be made again if this preparation is stopped; at the end it goes.

    Who prepares the same at the same time gets another, which goes however that ends.

    Args:
        folder: that is made.
        of: what decides the content.
    """
    parts = folder.with_name(f".{folder.name}.parts-{of[:8]}")
    for former in folder.parent.glob(f".{folder.name}.parts-*"):
        if former != parts:
            files.remove(former)
    parts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parts / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with files.temporary(parts) as own:
            yield own
        return
    try:
        yield parts
        files.remove(parts)
    finally:
        lock.release()
        if parts.is_dir() and {path.name for path in parts.iterdir()} <= {"lock"}:
            files.remove(parts)


def _is_text(facts: dict[str, Any], split: str) -> bool:
    """Whether a split is left as text, which is tokenized as training goes."""
    return facts["splits"][split].get("store") == "text"


def _no_examples(dataset: Dataset, split: str, faults: Faults) -> UserError:
    left_out = f"; the first that was left out: {faults.named()[0]}" if faults.counts(split) else ""
    return UserError(
        f"config/datasets/{dataset.name}.yaml: splits.{split}: no examples: {_more_of(dataset, split)}{left_out}"
    )


def _more_of(dataset: Dataset, split: str) -> str:
    """Return what to do about a split without examples."""
    if "fraction" in dataset.splits[split]:
        if "group" in dataset.columns:
            return (
                f"of the column {dataset.columns['group']} whole groups are held out: hold out a larger fraction, or name "
                f"groups, `{split}: {{from: train, groups: [...]}}`"
            )
        if "start" in dataset.columns:
            return "whole files are held out: hold out a larger fraction, or name a column of speakers as columns.group"
    return "name another split, or hold out a larger fraction"


def _rows_are_series(columns: Mapping[str, Any]) -> bool:
    """Whether each row of a table is a series, whose steps are its columns."""
    return "time" not in columns and (isinstance(columns.get("input"), list) or "*" in str(columns.get("input")))


def _say_shared(name: str, examples: Examples) -> None:
    if examples.repeated:
        columns = examples.dataset.columns
        instead = "; for the rows of an id to be one series, name columns.time" if _rows_are_series(columns) else ""
        say(
            f"{name}: {len(examples.repeated)} examples have the id of another, the first {examples.repeated[0]}: tables and "
            f"reports call both the same{instead}"
        )
    for split, (count, first) in examples.shared().items():
        before = "train" if split == "validation" else "train or validation"
        say(
            f"{name}: {count} examples of {split} have the same content as some of {before}, the first {first}: a model that has "
            "learnt them by heart does well on them"
        )


def _histogram(lengths: list[int]) -> dict[str, Any]:
    """Return how many inputs are how long, in at most twenty bins of whole numbers."""
    least, most = min(lengths), max(lengths)
    edges = np.unique(np.linspace(least, most + 1, min(most + 1 - least, 20) + 1).round().astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _fingerprint(folder: Path, sources: dict[str, Any]) -> str:
    """Return 16 hex digits that stand for the content of every file.

    Args:
        folder: the prepared data.
        sources: the files that text which is not in it is read from, with their hashes or sizes, by dataset; where they lie, as
            ``train.json`` says it, is of no account.
    """
    content = hashlib.sha256()
    if sources:
        content.update(
            digest(
                [[name, fact.get("sha256", fact["bytes"])] for some in sources.values() for name, fact in some.items()]
            ).encode()
        )
    for path in sorted(folder.iterdir()):
        if sources and path.name == "train.json":
            continue
        content.update(f"{path.name} {files.sha256(path)}\n".encode())
    return content.hexdigest()[:16]
