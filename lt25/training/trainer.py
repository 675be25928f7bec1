"""torchtitan's trainer with what it lacks: whole checkpoints, finite steps, randomness that survives a restart."""

import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torchtitan.train
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.config import TORCH_DTYPE_MAP, JobConfig
from torchtitan.distributed import utils as dist_utils

from lt25.training.checkpoint import WholeCheckpoints
from lt25.training.device import DEVICE_TYPE
from lt25.training.graphs import Replayed, can_replay, on_its_own
from lt25.training.kernels import compile_ahead
from lt25.training.metrics import RunMetrics
from lt25.training.parallelize import GradientSum, is_replicated
from lt25.training.precision import LowPrecision
from lt25.training.steps import FiniteOptimizers

Batch = tuple[dict[str, Tensor], Tensor]


class Trainer(torchtitan.train.Trainer):
    """The one trainer of all tasks."""

    metrics_processor: RunMetrics
    optimizers: FiniteOptimizers

    def __init__(self, job_config: JobConfig):
        # torchtitan looks its checkpoint manager up by name and has no other way to choose one.
        with patch("torchtitan.train.CheckpointManager", WholeCheckpoints):
            super().__init__(job_config)
        self.update = Replayed(self._update) if can_replay(job_config) else self._update
        self.compiled, self.low_precision, self.report = False, None, _nothing
        half = TORCH_DTYPE_MAP[job_config.training.mixed_precision_param]
        if DEVICE_TYPE == "cuda" and half != torch.float32 and on_its_own(job_config) and not job_config.compile.enable:
            self.low_precision = LowPrecision(self.model_parts[0], half)
        self.gradient_sum = None
        if self.parallel_dims.dp_replicate_enabled and is_replicated(job_config):
            copies = self.low_precision.copy_of if self.low_precision else None
            group = self.parallel_dims.get_mesh("dp_replicate").get_group()
            self.gradient_sum = GradientSum(self.model_parts[0].parameters(), group, copies)

    def batch_generator(self, data_iterable: Iterable[Batch]) -> Iterator[Batch]:
        # torchtitan asks for the first batch when it has loaded a checkpoint and counted the step that the batch is for.
        self.metrics_processor.start(self.step - 1)
        self.first_step = self.step
        for inputs, labels in super().batch_generator(data_iterable):
            self.metrics_processor.count(inputs, labels)
            yield inputs, labels

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """Take a step: torchtitan's, but the host waits for nothing that the device computes in it."""
        batches = []
        for _ in range(self.gradient_accumulation_steps):
            inputs, labels = next(data_iterator)
            batches.append({**inputs, "labels": labels})
        if DEVICE_TYPE == "cuda" and not self.compiled:
            compile_ahead(lambda: self._accumulate(batches[:1]))
            self.compiled = True
        # Dropout depends on seed, step and rank alone, so a resumed run draws what an undisturbed one draws.
        torch.manual_seed((self.job_config.debug.seed * 1_000_003 + self.step) * 65_537 + dist.get_rank())
        self.checkpointer.maybe_wait_for_staging()
        results = self.update(batches)
        # The step before is reported while the device is at work on this one.
        self.report()
        if self.metrics_processor.should_log(self.step):
            self.report = self._reporter(*results)
            ends = self.step in (self.first_step, self.job_config.training.steps)
            if ends or self.checkpointer.saves(self.step):
                self.report()

    def _reporter(self, loss: Tensor, own_labels: Tensor, all_labels: Tensor, norm: Tensor) -> Callable[[], None]:
        """What logs this step, once: its numbers are on their way to the host meanwhile. Arguments as `_update` returns."""
        mean = largest = loss
        if self.parallel_dims.dp_cp_enabled:
            group = self.parallel_dims.get_optional_mesh("loss").get_group()
            mean, largest = loss.clone(), loss * all_labels / own_labels
            dist.all_reduce(mean, group=group)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        samples, tokens = self.metrics_processor.take()
        numbers = [mean, largest, norm, self.optimizers.rate, self.optimizers.skipped, tokens]
        there = [number.reshape(()).to(loss.device, torch.float64) for number in numbers if isinstance(number, Tensor)]
        values, step = torch.stack(there).to("cpu", non_blocking=True), self.step
        arrived = torch.cuda.current_stream().record_event() if DEVICE_TYPE == "cuda" else None

        def report() -> None:
            self.report = _nothing
            if arrived:
                arrived.synchronize()
            mean, largest, norm, rate, skipped, *counted = values.tolist()
            extra = {"lr": rate, "skipped_steps": int(skipped), "samples": samples}
            extra["tokens"] = int(counted[0]) if counted else tokens
            self.metrics_processor.log(step, mean, largest, norm, extra)

        return report

    def _update(self, batches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Forward, backward, clipping and the optimizer's step, for the micro-batches of one step.

        Returns:
            Scalars: this rank's share of the mean loss, the number of labels on this rank and on all, and the norm of the
            gradients before clipping.
        """
        loss, own_labels, all_labels = self._accumulate(batches)
        norm = dist_utils.clip_grad_norm_(
            [parameter for part in self.model_parts for parameter in part.parameters()],
            self.job_config.training.max_norm,
            foreach=True,
        )
        self.optimizers.step(norm)
        return loss, own_labels, all_labels, norm

    def _accumulate(self, batches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Forward and backward from no gradients; the first three results of `_update`."""
        self.optimizers.zero_grad()
        own_labels = torch.stack([(batch["labels"] != IGNORE_INDEX).sum() for batch in batches]).sum().float()
        all_labels = own_labels
        if self.parallel_dims.dp_enabled:
            all_labels = own_labels.clone()
            dist.all_reduce(all_labels, group=self.parallel_dims.get_mesh("batch").get_group())
        if self.low_precision:
            self.low_precision.renew()
        losses = []
        for number, batch in enumerate(batches, 1):
            summed = self.gradient_sum is not None and number == len(batches)
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            with self.maybe_enable_amp:
                outputs = (self.low_precision or self.model_parts[0])(inputs.pop("input"), **inputs)
                loss = self.loss_fn(outputs, batch["labels"]) / all_labels
            # Freed before the backward pass allocates.
            del outputs
            if summed:
                self.gradient_sum.start()
            loss.backward()
            if summed:
                self.gradient_sum.finish()
            elif self.low_precision:
                self.low_precision.collect()
            losses.append(loss.detach())
        return torch.stack(losses).sum(), own_labels, all_labels

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "skipped_steps": int(self.optimizers.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizers.skipped.fill_(state_dict["skipped_steps"])

    def train(self) -> None:
        # torchtitan ends with two seconds of sleep, for the other ranks to arrive; a barrier is exact.
        with patch("torchtitan.train.time", SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda _: None)):
            super().train()
        dist.barrier()

    def close(self) -> None:
        if isinstance(self.update, Replayed):
            self.update.close()
        super().close()


def _nothing() -> None:
    """Report nothing."""
