"""Checkpoints that are whole or not there.

torchtitan's manager decides when to save and what; this one writes each checkpoint under another name, adds a list of its files
with their hashes, and renames it. A newest checkpoint that does not match its list is set aside, and the one before is used.
"""

import hashlib
import json
import re
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse
from torchtitan.components.checkpoint import AsyncMode, CheckpointManager
from torchtitan.tools.logging import logger

from lt25.errors import UserError

MANIFEST = "manifest.json"


class WholeCheckpoints(CheckpointManager):
    """torchtitan's `CheckpointManager` whose ``step-N`` directories appear whole, and are checked before they are loaded."""

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future | AsyncSaveResponse | None:
        final = Path(checkpoint_id)
        partial = partial_name(final)
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        saved = super().dcp_save(state_dict, str(partial), async_mode, enable_garbage_collection, to_hf)
        if dist.get_rank() == 0:
            # The coordinating rank's save ends after every other rank's, because it writes the metadata of all.
            if saved is None:
                publish(partial, final)
            else:
                future = saved if isinstance(saved, Future) else saved.upload_completion
                future.add_done_callback(lambda done: done.exception() or publish(partial, final))
        return saved

    def load(self, step: int = -1) -> bool:
        """Load a checkpoint: the newest whole one for -1, otherwise that of ``step``.

        Raises:
            UserError: if the checkpoint of a given step is not there or is damaged.
        """
        if self.enable:
            problem = _tidy(Path(self.folder), step) if dist.get_rank() == 0 else None
            shared = [problem]
            dist.broadcast_object_list(shared)
            if shared[0]:
                raise UserError(shared[0])
        return super().load(step)


def partial_name(checkpoint: Path) -> Path:
    """Return where a checkpoint is written before it is whole: no name that torchtitan takes for a checkpoint's."""
    return checkpoint.with_name(checkpoint.name.replace("step-", "partial-"))


def publish(partial: Path, final: Path) -> None:
    """Turn a directory that has been written completely into a checkpoint: list its files and rename it."""
    files = {
        str(file.relative_to(partial)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(partial.rglob("*"))
        if file.is_file()
    }
    (partial / MANIFEST).write_text(json.dumps(files, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, or return None if they are as they were written."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or torn"
    for name, written in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != written["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {written['bytes']}"
        if _sha256(file) != written["sha256"]:
            return f"{name} has changed since it was written"
    return None


def kept_steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints stand in a directory, ascending."""
    matches = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(match[1]) for match in matches if match)


def _tidy(folder: Path, step: int) -> str | None:
    """Remove what a killed run left half-written, set damaged checkpoints aside, and say what stands in the way, if anything."""
    for leftover in folder.glob("partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    steps = kept_steps(folder)
    if step != -1:
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            return f"{folder}: checkpoint.load_step: no checkpoint of step {step}: there are {there}"
        wrong = damage(folder / f"step-{step}")
        return (
            f"{folder}/step-{step}: damaged ({wrong}): choose another checkpoint.load_step: {steps}" if wrong else None
        )
    for newest in reversed(steps):
        wrong = damage(folder / f"step-{newest}")
        if wrong is None:
            return None
        aside = folder.parent / f"damaged-step-{newest}"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / f"step-{newest}").rename(aside)
        logger.warning(
            "%s/step-%d is damaged (%s): set aside as %s, using the one before", folder, newest, wrong, aside.name
        )
    if folder.is_dir():
        # torchtitan starts from initial_load_path only where the folder is not there.
        folder.rmdir()
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
