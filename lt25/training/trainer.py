"""torchtitan's trainer with what it lacks: whole checkpoints, finite steps, randomness that survives a restart."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
import torchtitan.train
from torch import Tensor
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.config import TORCH_DTYPE_MAP, JobConfig

from lt25.compiling import compile_ahead
from lt25.cuda_graphs import CUDAGraphWrapper
from lt25.errors import UserError
from lt25.training.checkpoint import WholeCheckpoints
from lt25.training.context import Part
from lt25.training.cuda_graphs import REFUSAL, can_replay
from lt25.training.device import DEVICE_TYPE
from lt25.training.float8 import use_float8
from lt25.training.job_config import Job
from lt25.training.largest_batch import check, settle
from lt25.training.metrics import RunMetrics
from lt25.training.norms import by_layer, norms
from lt25.training.parallelize import GradientSum, is_replicated
from lt25.training.pipeline import counted_elsewhere, of_one_length
from lt25.training.precision import LowPrecision, embed_in
from lt25.training.run import Run
from lt25.training.shards import clip_grad_norm_
from lt25.training.steps import FiniteOptimizers
from lt25.training.stopping import StopRequest
from lt25.training.torchtitan import barrier, trainer_parts, without_sleep
from lt25.training.validation import Validator

Batch = tuple[dict[str, Tensor], Tensor]


class Trainer(torchtitan.train.Trainer):
    """The one trainer of all tasks.

    A step is torchtitan's, but the host waits for nothing that the device computes in it: whether the step is taken and at
    which rate is decided on the device, and a step is logged while the next one is at work.
    """

    job_config: Job
    checkpointer: WholeCheckpoints
    metrics_processor: RunMetrics
    optimizers: FiniteOptimizers
    validator: Validator | None

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """Take one step: batches in, weights and a line of the log out."""
        microbatches = []
        for _ in range(self.gradient_accumulation_steps):
            inputs, labels = next(data_iterator)
            microbatches.append({**inputs, "labels": labels})
        if self.parallel_dims.pp_enabled:
            microbatches = of_one_length(microbatches)
        if self.part:
            microbatches = [self.part(microbatch, "input") for microbatch in microbatches]
        if DEVICE_TYPE == "cuda" and self.step == self.first_step:
            some = microbatches if self.parallel_dims.pp_enabled else microbatches[:1]
            compile_ahead(lambda: self.forward_backward(some))

        # Dropout depends on seed, step and rank alone, so a resumed run draws what an undisturbed one draws.
        torch.manual_seed(((self.job_config.debug.seed * 1_000_003 + self.step) * 65_537 + dist.get_rank()) % 2**63)
        self.checkpointer.maybe_wait_for_staging()
        loss, own_labels, all_labels, norm, layer_norms = self.update(microbatches)

        # A GPU's step before is reported while it is at work on this one; a CPU has computed this one by now.
        self.report()
        validates = self.validator is not None and self.validator.should_validate(self.step)
        if self.metrics_processor.should_log(self.step):
            self.report = self.make_report(loss, own_labels, all_labels, norm, layer_norms)
            ends = self.step in (self.first_step, self.job_config.training.steps)
            if DEVICE_TYPE == "cpu" or ends or self.checkpointer.saves(self.step) or validates:
                self.report()
        # Before torchtitan saves a checkpoint: whoever goes on from that knows what the validation found.
        if self.validator and validates:
            with self.optimizers.averaged():
                self.validator.validate(self.model_parts, self.step)

    def update_weights(self, microbatches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Compute gradients, clip them and let the optimizer step; all of it can be recorded as a CUDA graph.

        Args:
            microbatches: the model's inputs by name, and ``labels``.

        Returns:
            Scalars: this rank's share of the mean loss, the number of labels on this rank and on all, and the norm of the
            gradients before clipping. Then [2, layers]: the norms of each layer's gradients, and of its weights before the step;
            no layers without ``metrics.log_layer_norms``.
        """
        loss, own_labels, all_labels = self.forward_backward(microbatches)
        layer_norms = loss.new_empty(2, 0)
        if self.layers:
            layer_norms = torch.stack([norms(self.layers, gradients=True), norms(self.layers, gradients=False)])
        norm = clip_grad_norm_(
            (parameter for part in self.model_parts for parameter in part.parameters()),
            self.job_config.training.max_norm,
            pp_mesh=self.parallel_dims.get_optional_mesh("pp"),
            others=counted_elsewhere(self.model_parts) if self.parallel_dims.pp_enabled else (),
            ep_enabled=self.parallel_dims.ep_enabled,
        )
        self.optimizers.step(norm)
        return loss, own_labels, all_labels, norm, layer_norms

    def forward_backward(self, microbatches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Count the valid labels, and accumulate gradients from none; the first three results of `update_weights`."""
        self.optimizers.zero_grad()
        counts = [(microbatch["labels"] != IGNORE_INDEX).sum() for microbatch in microbatches]
        # Processes that share sequences have their own labels of steps, but the same labels of sequences.
        same = self.parallel_dims.cp if self.part and not self.part.cut else 1
        own_labels = torch.stack(counts).sum().float() / same
        all_labels = own_labels
        if self.parallel_dims.dp_cp_enabled:
            all_labels = own_labels.clone()
            dist.all_reduce(all_labels, group=self.parallel_dims.get_mesh("loss").get_group())

        if self.parallel_dims.pp_enabled:
            return cast(Any, self.pp_schedule).step(microbatches, all_labels * same), own_labels, all_labels
        losses = []
        for number, microbatch in enumerate(microbatches, start=1):
            # The labels are among the model's inputs too: its head may compute the loss.
            with self.low_precision, self.gradient_sum if number == len(microbatches) else nullcontext():
                loss = self.forward_backward_step(
                    input_dict=dict(microbatch), labels=microbatch["labels"], global_valid_tokens=all_labels * same
                )
            losses.append(loss.detach())
        return torch.stack(losses).sum(), own_labels, all_labels

    def make_report(
        self, loss: Tensor, own_labels: Tensor, all_labels: Tensor, norm: Tensor, layer_norms: Tensor
    ) -> Callable[[], None]:
        """Return what logs this step, once: its numbers are on their way to the host meanwhile.

        Arguments as `update_weights` returns them.
        """
        if self.parallel_dims.pp_enabled:
            # Only the last stage has computed it, others have 0.
            dist.all_reduce(loss, group=self.parallel_dims.get_mesh("pp").get_group())
        mean = largest = loss
        if self.parallel_dims.dp_cp_enabled:
            group = self.parallel_dims.get_mesh("loss").get_group()
            mean, largest = loss.clone(), loss * all_labels / own_labels
            dist.all_reduce(mean, group=group)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        samples, tokens, infinite = self.metrics_processor.take()
        if infinite is not None and self.parallel_dims.dp_enabled:
            infinite = infinite.clone()
            dist.all_reduce(infinite, group=self.parallel_dims.get_mesh("batch").get_group())
        numbers = [mean, largest, norm, self.optimizers.rate, self.optimizers.skipped, tokens, infinite]
        there = [number.reshape(()).to(loss.device, torch.float64) for number in numbers if isinstance(number, Tensor)]
        values, step = torch.stack(there).to("cpu", non_blocking=True), self.step
        per_layer = layer_norms.to("cpu", non_blocking=True)
        arrived = torch.cuda.current_stream().record_event() if DEVICE_TYPE == "cuda" else None

        def report() -> None:
            self.report = _nothing
            if arrived:
                arrived.synchronize()
            mean, largest, norm, rate, skipped, *counted = values.tolist()
            extra = {"lr": rate, "skipped_steps": int(skipped), "samples": samples}
            extra["tokens"] = int(counted[0]) if counted else tokens
            extra["infinite"] = int(counted[1]) if infinite is not None else 0
            of_gradients, of_weights = (dict(zip(self.layers, row, strict=True)) for row in per_layer.tolist())
            extra["layers"] = {"grad_norm": of_gradients, "weight_norm": of_weights}
            self.metrics_processor.log(step, mean, largest, norm, extra)

        return report

    def __init__(self, job_config: JobConfig, run: Run):
        self.validator = None
        check(job_config)
        use_float8(job_config)
        if job_config.profiling.enable_memory_snapshot and DEVICE_TYPE != "cuda":
            raise UserError("profiling.enable_memory_snapshot: found true, but only a GPU's memory has one: use false")
        if DEVICE_TYPE == "cpu":
            # Everything is in the CPU's memory anyway.
            job_config.training.enable_cpu_offload = False
        with trainer_parts(checkpoint_manager=WholeCheckpoints):
            super().__init__(job_config)
        self.checkpointer.run = run
        if self.parallel_dims.tp_enabled and not self.parallel_dims.fsdp_enabled:
            # torchtitan leaves low precision to FSDP2 here.
            half = TORCH_DTYPE_MAP[job_config.training.mixed_precision_param]
            self.maybe_enable_amp = torch.autocast(DEVICE_TYPE, half, enabled=half != torch.float32)
        mesh = self.parallel_dims.get_optional_mesh("cp")
        self.part = None if mesh is None else Part(self.model_parts[0], mesh)
        self.layers = by_layer(self.model_parts) if cast(Any, job_config.metrics).log_layer_norms else {}
        self.update, self.low_precision, self.report = self.update_weights, nullcontext(), _nothing
        if can_replay(job_config):
            self.update = CUDAGraphWrapper(self.update_weights, REFUSAL)
        half = TORCH_DTYPE_MAP[job_config.training.mixed_precision_param]
        whole = DEVICE_TYPE == "cuda" and is_replicated(job_config)
        if whole and half != torch.float32:
            embed_in(self.model_parts[0], half)
            if not job_config.compile.enable:
                self.low_precision = LowPrecision(self.model_parts[0], half)
        self.gradient_sum: GradientSum | nullcontext = nullcontext()
        if self.parallel_dims.dp_replicate_enabled and is_replicated(job_config):
            copies = self.low_precision.copy_of if isinstance(self.low_precision, LowPrecision) else None
            group = self.parallel_dims.get_mesh("dp_replicate").get_group()
            self.gradient_sum = GradientSum(self.model_parts[0].parameters(), group, copies)

    def batch_generator(self, data_iterable: Iterable[Batch]) -> Iterator[Batch]:
        # torchtitan calls this once, with a checkpoint loaded and before the first step.
        if self.job_config.training.batch_seconds == "auto":
            self.job_config.training.batch_seconds = settle(self)
        self.metrics_processor.start(self.step, self.checkpointer.loaded)
        self.first_step = self.step + 1
        return map(self.metrics_processor.count, super().batch_generator(data_iterable))

    def post_dataloading_process(
        self, input_dict: dict[str, Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Any]]:
        # torchtitan would cut sequences into a head and a tail for each process, which suits attention alone.
        return input_dict["input"], labels, {key: value for key, value in input_dict.items() if key != "input"}, {}

    def train(self) -> int:
        """Load the newest checkpoint and train to the last step, or until somebody asks for a stop.

        Returns:
            The exit status of a training that was stopped, see `lt25.training.stopping`, 0 for one that has arrived, at its last
            step or at a rung of its sweep (`paused`).
        """
        self.stopped = 0
        self.paused = False
        with StopRequest(self.job_config.lt25.time_limit) as self.stop, without_sleep():
            super().train()
            barrier()
        return self.stopped

    def close(self) -> None:
        if isinstance(self.update, CUDAGraphWrapper):
            self.update.close()
        cast(Any, self.dataloader).close()
        super().close()

    def should_continue_training(self) -> bool:
        """What comes after each step: whether to go on, and the checkpoints that no interval asks for."""
        best = self.validator.best if self.validator else None
        if best and self.job_config.checkpoint.keep == "best":
            self.checkpointer.best = best["step"]
        arrived = not super().should_continue_training() or (self.validator and self.validator.out_of_patience)
        self.paused = not arrived and 0 < self.job_config.lt25.rung <= self.step
        arrived = arrived or self.paused
        self.stopped = 0 if arrived else self.stop.agreed(self.step >= self.first_step)
        ends = self.step > 0 and (arrived or self.stopped)
        if ends or self.checkpointer.best == self.step > 0:
            self.report()
            self.checkpointer.save_now(self.step)
        return not arrived and not self.stopped

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "skipped_steps": int(self.optimizers.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizers.skipped.fill_(state_dict["skipped_steps"])


def _nothing() -> None:
    """Report nothing."""
