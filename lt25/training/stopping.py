"""Stopping before the last step: Ctrl-C, SIGTERM, Slurm's warning and a time limit end a training at the end of a step.

All ranks must stop after the same step. They vote by an all-reduce between the hosts that runs beside the steps that follow, so
that no device is waited for; what a vote says is done at the next one. Short steps share a vote.
"""

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

import psutil
import torch
import torch.distributed as dist

from lt25.training.processes import STATUS

TIME_IS_UP = 124
"""The exit status of a training that its time limit stops, as of the command ``timeout``."""


VOTE_EVERY = 0.02
"""Seconds between two votes, or one step if that takes longer: a vote takes about as long as a small model's step."""


class StopRequest:
    """Notes that a training shall stop, from any of its processes.

        with StopRequest() as stop:
            while not stop.agreed():
                ...

    Args:
        time_limit: seconds from the start of the process after which to stop, at least one step on; 0 for none.
    """

    def __init__(self, time_limit: float = 0) -> None:
        self.asked = 0
        self.deadline = psutil.Process().create_time() + time_limit if time_limit else float("inf")

    def __enter__(self) -> Self:
        # Until all ranks are here, a signal ends each of them at once; from here on none does that alone.
        self.hosts = dist.new_group(backend="gloo") if dist.is_initialized() and dist.get_world_size() > 1 else None
        self.before = {number: signal.signal(number, self._note) for number in STATUS}
        self.vote: tuple[torch.Tensor, Any] | None = None
        self.steps, self.interval, self.voted = 0, 1, time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.vote is not None and error is None:
            self.vote[1].wait()
        for number, handler in self.before.items():
            # What is left to do is the first rank's alone, and so is the status of a training that is stopped meanwhile.
            signal.signal(number, handler if self.hosts is None or dist.get_rank() == 0 else signal.SIG_IGN)

    def agreed(self, moved: bool) -> int:
        """Return the exit status to stop with, the same on every rank, or 0; to be called once after every step.

        Args:
            moved: whether a step was taken. A time limit that is shorter than the start lets one be taken, so that the same
                command arrives in the end.
        """
        asked = self.asked or (TIME_IS_UP if moved and time.time() >= self.deadline else 0)
        if self.hosts is None:
            return asked
        self.steps += 1
        if self.steps < self.interval:
            return 0
        now, before = time.perf_counter(), self.vote
        votes = torch.tensor([asked, (now - self.voted) / self.steps], dtype=torch.float64)
        self.vote = votes, dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.hosts, async_op=True)
        self.steps, self.voted = 0, now
        if before is None:
            return 0
        before[1].wait()
        # The slowest rank's time, which all ranks know: so they all vote again after the same step.
        status, seconds = before[0].tolist()
        self.interval = max(int(VOTE_EVERY / max(seconds, 1e-6)), 1)
        return int(status)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = STATUS[signal.Signals(number)]
        if number == signal.SIGINT:
            # A second Ctrl-C stops at once.
            signal.signal(number, signal.default_int_handler)
