"""Checkpoint directories that appear whole, with a record of their files and of the run that they belong to.

A checkpoint is believed if its files are as they were written, and if it is of the run that reads it: one of another seed, say,
that was copied in is as wrong as a torn one.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lt25 import files
from lt25.errors import UserError
from lt25.experiment import exported_step

MANIFEST = "manifest.json"


def partial_name(checkpoint: Path) -> Path:
    """Return where a checkpoint is written before it is whole; a folder that is not called ``step-N`` has no such place."""
    return checkpoint.with_name(re.sub(r"^step-(\d+)$", r"partial-\1", checkpoint.name))


def publish(partial: Path, final: Path, run: Mapping[str, Any] | None) -> None:
    """Turn a directory that has been written completely into a checkpoint: list its files and rename it.

    Args:
        partial: what was written.
        final: its name as a checkpoint, ``step-N``.
        run: ``identity`` and ``path`` of the run that wrote it; None for weights that any run can start from.
    """
    written = [file for file in sorted(partial.rglob("*")) if file.is_file() and file.name != MANIFEST]
    files.write_record(partial / MANIFEST, {"step": step_of(final), "run": run}, written)
    files.publish(partial, final)


def damage(checkpoint: Path, run: Mapping[str, Any] | None = None) -> str | None:
    """Say why a checkpoint is not to be believed, or return None if it is.

    Args:
        checkpoint: a directory ``step-N``.
        run: ``identity`` and ``path`` of the run that it has to be of; None: only its files are compared.
    """
    found = manifest(checkpoint)
    if found is None:
        return f"{MANIFEST} is missing or not as it was written"
    if found["step"] != step_of(checkpoint):
        return f"it is the checkpoint of step {found['step']}"
    of = found["run"]
    # A run that was continued begins with checkpoints of the shorter one, whose path is the beginning of its own.
    if run and of and (of["identity"] != run["identity"] or of["path"] != run["path"][: len(of["path"])]):
        return "it is of another run"
    if run and not of and found["step"]:
        return "it is of no run"
    return files.damage(checkpoint, found["files"])


def manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Return what a checkpoint's record holds, ``step``, ``run`` and ``files``; None if it is not as it was written."""
    try:
        found = files.load_record(checkpoint / MANIFEST)
    except (FileNotFoundError, UserError):
        return None
    return found if found.keys() >= {"step", "run", "files"} else None


def discard(checkpoint: Path) -> Path:
    """Move a checkpoint that is not to be believed out of the checkpoints' folder, to a name that is free there.

    Returns:
        Where it is now, ``damaged-step-N`` or ``damaged-step-N-2`` and so on.
    """
    name = checkpoint.parent.parent / f"damaged-{checkpoint.name}"
    free = next(place for place in _numbered(name) if not os.path.lexists(place))
    if checkpoint.exists():
        checkpoint.rename(free)
    return free


def _numbered(name: Path) -> Iterator[Path]:
    yield name
    yield from (name.with_name(f"{name.name}-{number}") for number in itertools.count(2))


def kept_steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints stand in a directory, ascending."""
    return sorted(int(path.name[5:]) for path in folder.glob("step-*") if _is_checkpoint(path))


def step_of(checkpoint: Path) -> int:
    """Return N of a directory ``step-N``."""
    return int(checkpoint.name.removeprefix("step-"))


def _is_checkpoint(path: Path) -> bool:
    return re.fullmatch(r"step-(0|[1-9]\d*)", path.name) is not None and path.is_dir()


def earlier_steps(trained: Mapping[str, Any]) -> list[int]:
    """Return the steps whose checkpoints a training has kept, but for the one that is exported, of what ``train.json`` says."""
    return [step for step in trained["checkpoints"] if step != exported_step(trained)]


def reachable_steps(results_dir: Path, trained: Mapping[str, Any]) -> list[int]:
    """Return those of `earlier_steps` that can be evaluated here: a project that was pulled has no checkpoints."""
    places = (results_dir / "checkpoints", results_dir / "hf")
    return [step for step in earlier_steps(trained) if any((place / f"step-{step}").is_dir() for place in places)]
