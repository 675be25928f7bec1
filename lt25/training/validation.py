"""Validation during training: the loss and the task's metric on held-out data, and what they decide.

The trainer calls a validator after a step, in torchtitan's place for it. Nothing of it is kept in checkpoints: the best step so
far and the patience left follow from the run's history.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchtitan.components.validate import BaseValidator
from torchtitan.distributed import ParallelDims

from lt25.data.batches import longest_first
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.tasks import TASKS
from lt25.training.context import Part
from lt25.training.device import DEVICE_TYPE
from lt25.training.job_config import Job, batch_steps, reading_of
from lt25.training.losses import IGNORE
from lt25.training.metrics import RunMetrics
from lt25.training.pipeline import Pipeline


class Validator(BaseValidator):
    """Measures a model on the validation split, which all data-parallel ranks share.

    Examples are as prepared, without augmentation, and always the same: the whole split or, with ``validation.steps``, as many
    as that many training steps take, drawn once.

    Attributes:
        metric: what tells the best step, as ``METRIC`` of the task's loss module.
    """

    job_config: Job

    def __init__(
        self,
        job_config: Job,
        *,
        dp_world_size: int,
        dp_rank: int,
        parallel_dims: ParallelDims,
        loss_fn: Callable[[Any, Tensor], Tensor],
        validation_context: Callable[[], AbstractContextManager[None]],
        maybe_enable_amp: AbstractContextManager[None],
        metrics_processor: RunMetrics,
        pp_schedule: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(job_config)
        self.pipeline: Pipeline | None = pp_schedule
        self.task = TASKS[job_config.model.name]
        self.losses = self.task.module("loss")
        self.metric: str = self.losses.METRIC
        self.rank, self.ranks = dp_rank, dp_world_size
        self.parallel_dims, self.loss_fn, self.metrics = parallel_dims, loss_fn, metrics_processor
        self.context, self.amp = validation_context, maybe_enable_amp
        self.folder = Path(job_config.lt25.data)
        split, data = PreparedSplit(self.folder, "validation"), self.task.module("data")
        self.source = data.source(split, reading_of(job_config, dp_rank, dp_world_size, training=False))
        self.transforms = data.transforms(split, {}, training=False)
        self.collate = data.collate
        if not self.source.count:
            raise UserError(f"{split.path}: the validation split has no {self.source.unit}: use validation.freq 0")

    def should_validate(self, step: int) -> bool:
        """Whether to validate after a step: every ``validation.freq`` steps and after the last, once."""
        validations = self.metrics.validations
        if validations and validations[-1]["step"] == step:
            return False
        return step % self.job_config.validation.freq == 0 or step == self.job_config.training.steps

    @torch.no_grad()
    def validate(self, model_parts: list[nn.Module], step: int) -> None:
        """Measure the model as it is after a step, and log the numbers."""
        started = time.perf_counter()
        for model in model_parts:
            model.eval()
        model = model_parts[0]
        sums: dict[str, Tensor] = {}
        sentences: list[tuple[str, str]] = []
        mesh = self.parallel_dims.get_optional_mesh("cp")
        part = None if mesh is None else Part(model, mesh)
        rounds = -(-len(self.batches) // self.ranks)
        # Of neither the shortest nor the longest examples; the first rank, which logs, has them.
        shown = self.ranks * (rounds // 2)
        for number in range(self.rank, rounds * self.ranks, self.ranks):
            # Ranks that have no batch left compute one in vain: sharded weights are gathered by all or by none.
            batch = self._load(self.batches[min(number, len(self.batches) - 1)])
            batch = part(batch, self.task.main_input) if part else batch
            labels = batch["labels"]
            with self.context(), self.amp:
                inputs = batch.pop(self.task.main_input)
                output = self.pipeline.evaluate({"input": inputs, **batch}) if self.pipeline else model(inputs, **batch)
                if output is None:
                    continue
                loss = self.loss_fn(output, labels)
            counts = float(number < len(self.batches))
            found = {"loss": (loss, (labels != IGNORE).sum()), **self.losses.metric(output, labels)}
            if number == shown and hasattr(self.losses, "sentences"):
                sentences = self.losses.sentences(output, labels, self.folder)
            for name, pair in found.items():
                pair = torch.stack([part.to(labels.device, torch.float64) for part in pair])
                sums[name] = sums.get(name, 0) + counts * pair
        for model in model_parts:
            model.train()
        values = self._over_ranks(sums) if sums else {}
        if self.pipeline:
            values, sentences = self.pipeline.of_last_stage((values, sentences))
        if sentences:
            self.metrics.log_sentences(sentences, step)
        self.metrics.log_validation(values.pop("loss"), step, values, time.perf_counter() - started)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best step so far: ``step``, ``metric`` and ``value``; None before any.

        Of steps with the same value it is the one with the lower loss, and of those the first.
        """
        sign = 1 if self.losses.DIRECTION == "max" else -1
        measured = [(record["step"], record["validation"]) for record in self.metrics.validations]
        measured = [(step, numbers) for step, numbers in measured if not math.isnan(numbers.get(self.metric, math.nan))]
        if not measured:
            return None

        def merit(one: tuple[int, dict[str, float]]) -> tuple[float, float, int]:
            step, numbers = one
            loss = numbers["loss"]
            return sign * numbers[self.metric], -math.inf if math.isnan(loss) else -loss, -step

        step, numbers = max(measured, key=merit)
        return {"step": step, "metric": self.metric, "value": numbers[self.metric]}

    @property
    def out_of_patience(self) -> bool:
        """Whether ``validation.patience`` validations in a row have brought nothing better."""
        best, patience = self.best, self.job_config.validation.patience
        since = sum(best is None or record["step"] > best["step"] for record in self.metrics.validations)
        return 0 < patience <= since

    def _over_ranks(self, sums: dict[str, Tensor]) -> dict[str, float]:
        pairs = torch.stack(list(sums.values()))
        if self.parallel_dims.dp_cp_enabled:
            dist.all_reduce(pairs, group=self.parallel_dims.get_mesh("loss").get_group())
        return dict(zip(sums, (pairs[:, 0] / pairs[:, 1]).tolist(), strict=True))

    @cached_property
    def batches(self) -> list[list[int]]:
        """Return the examples of each batch, those of like length together."""
        training, steps, source = self.job_config.training, self.job_config.validation.steps, self.source
        count = source.count
        places = np.arange(count)
        lengths = np.zeros(count) if source.lengths is None else source.lengths
        if steps > 0:
            total = training.global_batch_size
            wanted = steps * (total if total > 0 else training.local_batch_size * self.ranks)
            chosen = np.sort(np.random.default_rng(0).permutation(count)[:wanted])
            places, lengths = places[chosen], lengths[chosen]
        # The trainer may have found out only now how long a batch can be.
        cut = longest_first(lengths, training.local_batch_size, batch_steps(training))
        return [places[rows].tolist() for rows in cut]

    def _load(self, places: list[int]) -> dict[str, Tensor]:
        batch = self.collate([self.transforms.of_item(self.source[place]) for place in places])
        return {name: tensor.to(DEVICE_TYPE, non_blocking=True) for name, tensor in batch.items()}
