"""torchtitan's trainer with what it lacks: whole checkpoints, finite steps, randomness that survives a restart."""

import time
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torchtitan.train
from torchtitan.config import JobConfig

from lt25.training.checkpoint import WholeCheckpoints
from lt25.training.metrics import RunMetrics
from lt25.training.steps import FiniteOptimizers, FiniteSchedulers

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class Trainer(torchtitan.train.Trainer):
    """The one trainer of all tasks."""

    metrics_processor: RunMetrics

    def __init__(self, job_config: JobConfig):
        # torchtitan looks its checkpoint manager up by name and has no other way to choose one.
        with patch("torchtitan.train.CheckpointManager", WholeCheckpoints):
            super().__init__(job_config)
        self.optimizers = FiniteOptimizers(self.optimizers)
        self.lr_schedulers = FiniteSchedulers(self.lr_schedulers, self.optimizers)

    def batch_generator(self, data_iterable: Iterable[Batch]) -> Iterator[Batch]:
        # torchtitan asks for the first batch when it has loaded a checkpoint and counted the step that the batch is for.
        self.metrics_processor.start(self.step - 1)
        for inputs, labels in super().batch_generator(data_iterable):
            self.metrics_processor.count(inputs, labels)
            yield inputs, labels

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        # Dropout depends on seed, step and rank alone, so a resumed run draws what an undisturbed one draws.
        torch.manual_seed((self.job_config.debug.seed * 1_000_003 + self.step) * 65_537 + dist.get_rank())
        self.metrics_processor.skipped = self.optimizers.skipped
        super().train_step(data_iterator)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "skipped_steps": self.optimizers.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizers.skipped = state_dict["skipped_steps"]

    def train(self) -> None:
        # torchtitan ends with two seconds of sleep, for the other ranks to arrive; a barrier is exact.
        with patch("torchtitan.train.time", SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda _: None)):
            super().train()
        dist.barrier()
