"""torchtitan's checkpoints, made whole.

torchtitan's manager decides when to save and what; this one writes each checkpoint under another name, adds a list of its
files with their hashes, and renames it. A newest checkpoint that does not match its list is set aside, and the one before
is used.
"""

import shutil
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse
from torchtitan.components.checkpoint import MODEL, AsyncMode, CheckpointManager
from torchtitan.tools.logging import logger

from lt25.checkpoints import plain
from lt25.checkpoints.whole import damage, discard, kept_steps, partial_name, publish
from lt25.errors import UserError
from lt25.replaced import replaced
from lt25.training.run import HISTORY, Run, lost_steps, needed_steps, no_such_step


class WholeCheckpoints(CheckpointManager):
    """torchtitan's `CheckpointManager` whose ``step-N`` directories appear whole, and are checked before they are loaded.

    Each holds the run's history up to its step, so that what a resumed run reports does not depend on a file that is still
    written to.

    Attributes:
        run: whose checkpoints they are; to be set before anything is saved or loaded.
        best: the step whose checkpoint is kept whatever comes after it, or None.
        loaded: the checkpoint that training went on from, or None.
    """

    run: Run
    best: int | None = None
    loaded: Path | None = None
    _newest: int | None = None
    _published: Future | None = None
    _chosen: int = -1

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
            partial.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.run.directory / HISTORY, partial / HISTORY)
        saved = super().dcp_save(state_dict, str(partial), async_mode, enable_garbage_collection, to_hf)
        if dist.get_rank() == 0:
            # The coordinating rank's save ends after every other rank's, because it writes the metadata of all.
            if async_mode == AsyncMode.DISABLED:
                publish(partial, final, self.run.facts)
            else:
                future = cast(Future, saved.upload_completion if isinstance(saved, AsyncSaveResponse) else saved)
                published = self._published = Future()

                def finish(done: Future) -> None:
                    # What a callback raises is logged and forgotten.
                    try:
                        done.result()
                        publish(partial, final, self.run.facts)
                    except BaseException as error:
                        published.set_exception(error)
                    else:
                        published.set_result(None)

                future.add_done_callback(finish)
        return saved

    def _async_wait(self) -> None:
        super()._async_wait()
        if self._published is not None:
            published, self._published = self._published, None
            published.result()

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        if from_hf:
            super().dcp_load(state_dict, checkpoint_id, from_hf, from_quantized)
            return
        plain.load(state_dict, Path(checkpoint_id))
        self.states[MODEL].load_state_dict(state_dict)

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
        if not self.enable:
            return False
        found: list[Any] = [_choose(self.run, step)] if dist.get_rank() == 0 else [None]
        if dist.get_world_size() > 1:
            dist.broadcast_object_list(found)
        if isinstance(found[0], str):
            raise UserError(found[0])
        self._chosen = found[0]
        folder = Path(self.folder)
        if self._chosen != -1:
            # What a run began with is of no account once it goes on, and torchtitan would warn of it.
            self.initial_load_path, self.initial_load_in_hf = None, False
        # torchtitan starts from initial_load_path only where there is no folder; other files may lie in ours.
        with nullcontext() if self._chosen != -1 else replaced(self, "folder", str(folder.with_name("no checkpoints"))):
            loaded = super().load(self._chosen)
        if self._chosen != -1:
            self._newest, self.loaded = self._chosen, folder / f"step-{self._chosen}"
        return loaded


def _choose(run: Run, step: int) -> int | str:
    """Remove what a killed run left half-written, set damaged checkpoints aside, and choose the one to go on from.

    Args:
        run: whose checkpoints they are.
        step: the step that was asked for; -1 for the newest.

    Returns:
        The step of the checkpoint; -1 to begin; or what stands in the way.
    """
    for leftover in run.checkpoints.glob("partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if step != -1:
        return no_such_step(run, step) or step
    steps = kept_steps(run.checkpoints)
    for needed in needed_steps(run) & set(steps):
        _set_aside_if_damaged(run, needed)
    lost = lost_steps(run)
    for newest in reversed([step for step in steps if not lost or step < lost[0]]):
        if not _set_aside_if_damaged(run, newest):
            return newest
    return -1


def _set_aside_if_damaged(run: Run, step: int) -> bool:
    checkpoint = run.checkpoints / f"step-{step}"
    if (wrong := damage(checkpoint, run.facts)) is None:
        return False
    logger.warning(
        "%s is damaged (%s): set aside as %s, using the one before", checkpoint, wrong, discard(checkpoint).name
    )
    return True
