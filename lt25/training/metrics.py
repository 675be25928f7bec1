"""What a run says while it trains: a bar or plain lines, TensorBoard, W&B, and a history file."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torchtitan.components.metrics import MetricsProcessor, TensorBoardLogger, WandBLogger
from torchtitan.config import JobConfig
from torchtitan.distributed import ParallelDims

from lt25.files import write_text
from lt25.tasks import TASKS
from lt25.training.device import DEVICE_TYPE
from lt25.training.job_config import Job
from lt25.training.run import HISTORY

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]

# Seconds between plain lines: a log file stays readable, and nobody wonders whether anything happens.
_LINE_EVERY = 5.0


class RunMetrics(MetricsProcessor):
    """torchtitan's metrics, with units that fit sequences, a history that survives restarts, and progress to look at.

    The history, ``metrics.jsonl`` in the run directory, has one JSON object for each logged step: ``step``, ``loss``, ``lr``,
    ``grad_norm``, ``samples_per_second``, ``positions_per_second`` (of the sequences, padding not counted: tokens, frames),
    ``seconds`` (of training, over all restarts), ``skipped_steps``, ``infinite_losses`` (examples that a step left out because
    their loss is infinite, up to here; for tasks that have such), ``memory_gib`` (peak). A validation is a line of its own:
    ``step``, and ``validation`` with the loss and the task's metric.

    Attributes:
        records, validations: what the history has of either kind, on every rank.
    """

    def __init__(self, job_config: Job, parallel_dims: ParallelDims, tag: str | None = None):
        super().__init__(job_config, parallel_dims, tag)
        self.steps = job_config.training.steps
        self.name, self.unit = job_config.lt25.experiment, TASKS[job_config.model.name].unit
        self.history = Path(job_config.job.dump_folder) / HISTORY
        self.records: list[dict[str, Any]] = []
        self.validations: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        self.samples = 0
        # A tensor once there are masks to count, whose sum stays on its device until it is logged.
        self.tokens: int | torch.Tensor = 0
        self.count_infinite = getattr(TASKS[job_config.model.name].module("loss"), "infinite", None)
        self.model_config = json.loads(Path(job_config.lt25.model_config).read_text())
        self.infinite: torch.Tensor | None = None
        self.infinite_before = 0
        self.leads = dist.get_rank() == 0
        self.started = self.last_line = time.perf_counter()
        # Step and time of the first record of this start: the steps up to it compile, so they tell nothing of those to come.
        self.first: tuple[int, float] | None = None
        self.bar: Progress | None = None

    def start(self, step: int, checkpoint: Path | None) -> None:
        """Begin, or go on at a step with the history that its checkpoint holds: what came after it is forgotten."""
        text = ""
        if checkpoint is not None and (checkpoint / HISTORY).is_file():
            text = (checkpoint / HISTORY).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        self.records = [line for line in lines if "validation" not in line]
        self.validations = [line for line in lines if "validation" in line]
        if self.records:
            self.seconds_before = self.records[-1]["seconds"]
            self.infinite_before = self.records[-1].get("infinite_losses", 0)
        if not self.leads:
            return
        write_text(self.history, text)
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(self.name, total=self.steps, completed=step, shown="")
            self.bar.start()
        self.started = self.last_line = self.time_last_log = time.perf_counter()
        self.started_at = step

    def count(self, batch: Batch) -> Batch:
        """Count a micro-batch, and return it: its examples, the positions of its sequences that are not padding, and the
        examples whose loss is infinite."""
        inputs, labels = batch
        mask = inputs.get("attention_mask")
        self.samples += labels.shape[0]
        self.tokens = self.tokens + (mask.sum() if mask is not None else inputs["input"].shape[:2].numel())
        if self.count_infinite:
            found = self.count_infinite(inputs, labels, self.model_config)
            self.infinite = found if self.infinite is None else self.infinite + found
        return batch

    def take(self) -> tuple[int, int | torch.Tensor, torch.Tensor | None]:
        """Return the examples and positions counted since the last call, and this rank's infinite losses since the start."""
        taken = self.samples, self.tokens, self.infinite
        self.samples = self.tokens = 0
        return taken

    def should_log(self, step: int) -> bool:
        if self.bar is not None:
            self.bar.update(self.task, completed=step)
        return super().should_log(step) or step == self.steps

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        extra, now = extra_metrics or {}, time.perf_counter()
        elapsed, ranks = (
            now - self.time_last_log,
            self.parallel_dims.world_size // self.parallel_dims.non_data_parallel_size,
        )
        record = {
            "step": step,
            "loss": global_avg_loss,
            "lr": extra["lr"],
            "grad_norm": grad_norm,
            "samples_per_second": extra["samples"] * ranks / elapsed,
            "positions_per_second": extra["tokens"] * ranks / elapsed,
            "seconds": self.seconds_before + now - self.started,
            "skipped_steps": extra["skipped_steps"],
            **({"infinite_losses": self.infinite_before + extra["infinite"]} if self.count_infinite else {}),
            "memory_gib": self.device_memory_monitor.get_peak_stats().max_reserved_gib,
        }
        self.ntokens_since_last_log, self.time_last_log = 0, now
        waited = sum(self.data_loading_times) / elapsed
        self.data_loading_times.clear()
        self.device_memory_monitor.reset_peak_stats()
        scalars = {**record, "max_loss": global_max_loss, "data_loading_share": waited}
        if DEVICE_TYPE == "cuda":
            per_second = record["positions_per_second"] / ranks
            scalars["mfu_percent"] = 100 * self.num_flops_per_token * per_second / self.gpu_peak_flops
        for kind, layers in extra["layers"].items():
            scalars |= {f"{kind}/{layer}": value for layer, value in layers.items()}
        self.logger.log({name: value for name, value in scalars.items() if name != "step"}, step)
        if not self.leads:
            return
        self.records.append(record)
        self._write(record)
        self._show(record)

    def log_validation(
        self, loss: float, step: int, extra_metrics: dict[str, Any] | None = None, seconds: float = 0.0
    ) -> None:
        """Log a validation, which does not count as time of training.

        Args:
            loss: mean over the labels, in nats.
            step: the step that it was done after.
            extra_metrics: the task's metric.
            seconds: how long it took.
        """
        self.time_last_log += seconds
        self.started += seconds
        if self.first:
            self.first = self.first[0], self.first[1] + seconds
        record = {"step": step, "validation": {"loss": loss, **(extra_metrics or {})}}
        self.validations.append(record)
        self.logger.log({f"validation_{name}": value for name, value in record["validation"].items()}, step)
        if not self.leads:
            return
        self._write(record)
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in record["validation"].items())
        if self.bar is not None:
            self.bar.console.print(f"{self.name}  step {step}/{self.steps}  validation: {numbers}", highlight=False)
        else:
            print(f"{self.name}  step {step}/{self.steps}  validation: {numbers}", flush=True)

    def log_sentences(self, pairs: list[tuple[str, str]], step: int) -> None:
        """Show what was said and what is heard after a step in TensorBoard and W&B."""
        for logger in getattr(self.logger, "_loggers", []):
            if isinstance(logger, TensorBoardLogger):
                rows = "".join(f"| {said} | {heard} |\n" for said, heard in pairs)
                logger.writer.add_text("validation_sentences", f"| said | heard |\n| --- | --- |\n{rows}", step)
            elif isinstance(logger, WandBLogger):
                table = logger.wandb.Table(columns=["said", "heard"], data=[list(pair) for pair in pairs])
                logger.wandb.log({"validation_sentences": table}, step=step)

    def _write(self, record: dict[str, Any]) -> None:
        with self.history.open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def _show(self, record: Mapping[str, Any]) -> None:
        skipped = f"  skipped {record['skipped_steps']}" if record["skipped_steps"] else ""
        if record.get("infinite_losses"):
            skipped += f"  infinite losses {record['infinite_losses']}"
        numbers = f"loss {record['loss']:.4f}  lr {record['lr']:.2e}{skipped}"
        step, now, first = record["step"], time.perf_counter(), self.first
        if first is None:
            self.first = step, now
            steps = step - self.started_at
            speed = (
                f"first {'step' if steps == 1 else f'{steps} steps'} in {now - self.started:.1f} s, compiling included"
            )
        else:
            speed = f"{record['positions_per_second']:,.0f} {self.unit}/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, shown=f"{numbers}  {speed}")
            return
        if now - self.last_line < _LINE_EVERY and first is not None and step != self.steps:
            return
        self.last_line = now
        left = f"  {_clock((now - first[1]) / (step - first[0]) * (self.steps - step))} left" if first else ""
        print(f"{self.name}  step {step}/{self.steps}  {numbers}  {speed}{left}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        super().close()


def build_metrics_processor(
    job_config: JobConfig, parallel_dims: ParallelDims, model_args: Any = None, tag: str | None = None
) -> RunMetrics:
    """Build the metrics of a run, as a TrainSpec wants them built."""
    return RunMetrics(job_config, parallel_dims, tag)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
