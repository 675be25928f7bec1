"""Everything of torchtitan 0.2.2 that lt25 changes or relies on beyond its public seams, and of torch's what it leaves noisy.

Import this module before any other of torchtitan's: what it answers for a CPU must be there when torchtitan is imported. What is
not here is a `TrainSpec`, a subclass or a job file. For another version of torchtitan, go through these in order:

1. `CpuDevice`: torchtitan asks torch for an accelerator once, in `torchtitan.tools.utils`, and calls about ten functions of the
   module that it is given. There is none for a CPU.
2. `trainer_parts`: `torchtitan.train.Trainer` looks up its checkpoint manager by name and has no argument for another; where
   algorithms are to be deterministic, it has FlexAttention compiled, which no model of lt25's or FLA's calls.
3. `without_sleep`: its `train` ends with two seconds of sleep, in which the other ranks are to arrive.
4. `barrier`: torch warns when it has to guess a rank's GPU.
5. `quiet`: remarks that say nothing to the user of lt25.
"""

import logging
import platform
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import torch
import torch._utils
import torch.distributed as dist

from lt25.importing import compiling_when_called
from lt25.replaced import replaced
from lt25.training.device import DEVICE_TYPE
from lt25.training.startup import fewer_imports


class CpuDevice:
    """The functions of ``torch.cuda`` that torchtitan calls, for a CPU: its memory is the process's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, device: Any = None) -> str:
        return platform.processor() or platform.machine()

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(total_memory=psutil.virtual_memory().total, name=self.get_device_name())

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"active_bytes.all.peak": peak, "reserved_bytes.all.peak": peak, "num_alloc_retries": 0, "num_ooms": 0}

    def set_device(self, device: Any) -> None: ...

    def current_device(self) -> int:
        return 0

    def reset_peak_memory_stats(self, device: Any = None) -> None: ...

    def empty_cache(self) -> None: ...


with ExitStack() as answers:
    if DEVICE_TYPE == "cpu":
        answers.enter_context(replaced(torch._utils, "_get_available_device_type", lambda: "cpu"))
        answers.enter_context(replaced(torch._utils, "_get_device_module", lambda device_type: CpuDevice()))
    answers.enter_context(fewer_imports())
    import torchtitan.train


@contextmanager
def trainer_parts(checkpoint_manager: type) -> Iterator[None]:
    """Let `torchtitan.train.Trainer` be built with another class of checkpoint manager, and without importing the compiler."""
    utils = torchtitan.train.dist_utils
    own = utils.set_determinism

    def set_determinism(*given: Any, **named: Any) -> None:
        with compiling_when_called():
            own(*given, **named)

    with (
        replaced(torchtitan.train, "CheckpointManager", checkpoint_manager),
        replaced(utils, "set_determinism", set_determinism),
    ):
        yield


def without_sleep() -> AbstractContextManager[None]:
    """Let `torchtitan.train.Trainer.train` end at once; `barrier` waits for the other ranks exactly."""
    clock = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda seconds: None)
    return replaced(torchtitan.train, "time", clock)


def barrier() -> None:
    """Wait until every rank is here."""
    dist.barrier(device_ids=[torch.cuda.current_device()] if DEVICE_TYPE == "cuda" else None)


WARNINGS = (
    "In CPU autocast, but",
    "DTensor .* may not have complete support on cpu",
    "Set timeout is now only",
    r"barrier\(\): using the device under current context",
)
"""Warnings of torch's about what lt25 does on purpose."""

REMARKS = (
    "Peak flops undefined",
    "Error running lspci",
    "will be overridden",
    "Mixed precision training with TP or PP",
    "Pipeline Parallel loss is not visible",
)
"""torchtitan's remarks on a GPU's peak, which say nothing of a CPU, on variables that it sets itself, and on autocast."""


def quiet(handler: logging.Handler) -> None:
    """Keep from a terminal's handler, and from Python's warnings, what is not the user's business."""
    for remark in WARNINGS:
        warnings.filterwarnings("ignore", message=remark)
    handler.addFilter(lambda record: not any(remark in record.getMessage() for remark in REMARKS))
