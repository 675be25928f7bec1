"""torchtitan's checkpoints, made whole.

torchtitan's manager decides when to save and what; this one writes each checkpoint under another name, adds a list of its
files with their hashes, and renames it. A newest checkpoint that does not match its list is set aside, and the one before
is used.
"""

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse
from torchtitan.components.checkpoint import AsyncMode, CheckpointManager
from torchtitan.tools.logging import logger

from lt25.checkpoints.whole import damage, kept_steps, partial_name, publish
from lt25.errors import UserError


class WholeCheckpoints(CheckpointManager):
    """torchtitan's `CheckpointManager` whose ``step-N`` directories appear whole, and are checked before they are loaded.

    Attributes:
        best: the step whose checkpoint is kept whatever comes after it, or None.
    """

    best: int | None = None
    _newest: int | None = None

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future | AsyncSaveResponse | None:
        final = Path(checkpoint_id)
        self._newest = int(final.name.removeprefix("step-"))
        partial = partial_name(final)
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        saved = super().dcp_save(state_dict, str(partial), async_mode, enable_garbage_collection, to_hf)
        if dist.get_rank() == 0:
            # The coordinating rank's save ends after every other rank's, because it writes the metadata of all.
            if async_mode == AsyncMode.DISABLED:
                publish(partial, final)
            else:
                future = cast(Future, saved.upload_completion if isinstance(saved, AsyncSaveResponse) else saved)
                future.add_done_callback(lambda done: done.exception() or publish(partial, final))
        return saved

    def save_now(self, step: int) -> None:
        """Save a whole checkpoint of a step, whether or not the interval asks for one, unless there is one."""
        if not self.enable:
            return
        if self._newest != step:
            self.save(step, last_step=True)
        self._async_wait()

    def _purge_stale_checkpoints(self) -> None:
        # Those that no interval asked for (a stop, the best) do not count among the latest.
        if self.keep_latest_k == 0 or dist.get_rank() != 0:
            return
        steps = kept_steps(Path(self.folder))
        latest = [step for step in steps if self.saves(step)][-self.keep_latest_k :]
        for step in steps[:-1]:
            if step not in latest and step != self.best:
                self.purge_queue.put(self._create_checkpoint_id(step))

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after a step that is not the last."""
        return self._should_save(step)

    def load(self, step: int = -1) -> bool:
        """Load a checkpoint: the newest whole one for -1, otherwise that of ``step``.

        Raises:
            UserError: if the checkpoint of a given step is not there or is damaged.
        """
        if self.enable:
            problem = _tidy(Path(self.folder), step) if dist.get_rank() == 0 else None
            shared = [problem]
            if dist.get_world_size() > 1:
                dist.broadcast_object_list(shared)
            if shared[0]:
                raise UserError(shared[0])
        loaded = super().load(step)
        if loaded:
            self._newest = self._find_load_step() if step == -1 else step
        return loaded


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
