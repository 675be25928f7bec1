"""A whole training step: this package's model beside the same network of flash-linear-attention's modules.

    python benchmarks/step.py [--json FILE] [--markdown] [--profile] [--only asr] [--networks lt25,fla] [--seconds 230]
    python benchmarks/step.py --check
    python benchmarks/step.py --device cpu --small

Two networks are trained on synthetic data that is on the device already: a speech recogniser (log-mel frames, CTC) and a
classifier of images read pixel by pixel. A step is forward and backward in bfloat16 autocast, clipping of the gradients and
AdamW. For each, in a process of its own: median milliseconds of a step, timed by CUDA events over many steps, as plain calls
("eager"), replayed as a CUDA graph ("graph") and through torch.compile ("compile"); peak memory; with ``--profile`` the
kernels that take longest. Then the trainer itself, started as a user starts it, with empty and with full kernel caches:
seconds from the start of the process to the end of the first step, and milliseconds of a step later on, data loading
included. Whatever does not fit into ``--seconds`` is left out and named. ``--check`` trains small networks of all tasks
with and without CUDA graphs and compares their losses.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """A network and its batch; labels 0 means one class a sequence, otherwise characters to each."""

    hidden: int
    layers: int
    batch: int
    steps: int
    channels: int
    classes: int
    labels: int = 0


CASES = {
    "asr": Case(hidden=256, layers=6, batch=32, steps=1500, channels=80, classes=39, labels=150),
    "mnist": Case(hidden=64, layers=4, batch=128, steps=784, channels=1, classes=10),
}
SMALL = {
    "asr": Case(hidden=32, layers=2, batch=4, steps=60, channels=8, classes=9, labels=5),
    "mnist": Case(hidden=16, layers=2, batch=8, steps=49, channels=1, classes=10),
}
MODES = ("eager", "graph", "compile")
# The kernel caches that the trainer finds, in this order.
TRAINERS = ("empty", "full")
CLIP, WARMUP, MEASURED = 1.0, 12, 100


def build_lt25(case: Case) -> Any:
    """The package's model: batch -> loss."""
    from torch import nn

    from lt25.models import HGRNConfig, HGRNForCTC, HGRNForSequenceClassification
    from lt25.ops import ctc_loss

    size = {"hidden_size": case.hidden, "num_hidden_layers": case.layers, "input_size": case.channels}

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hf = (
                HGRNForCTC(HGRNConfig(**size, vocab_size=case.classes, pad_token_id=0))
                if case.labels
                else HGRNForSequenceClassification(HGRNConfig(**size, num_labels=case.classes))
            )

        def forward(self, features, labels, mask=None):
            if case.labels:
                output = self.hf(features, attention_mask=mask)
                return ctc_loss(output.logits, output.logit_lengths, labels) / labels.numel()
            return nn.functional.cross_entropy(self.hf(features).logits.float(), labels)

    return Network()


def build_fla(case: Case) -> Any:
    """The same network of flash-linear-attention's blocks with torch's CTC: batch -> loss. Reads no mask."""
    from fla.models import HGRNConfig, HGRNModel
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Linear(case.channels, case.hidden)
            self.model = HGRNModel(
                HGRNConfig(hidden_size=case.hidden, num_hidden_layers=case.layers, vocab_size=1, use_cache=False)
            )
            self.head = nn.Linear(case.hidden, case.classes)

        def forward(self, features, labels, mask=None):
            hidden = self.model(inputs_embeds=self.inputs(features), use_cache=False).last_hidden_state
            if not case.labels:
                return nn.functional.cross_entropy(self.head(hidden.mean(1)).float(), labels)
            log_probs = self.head(hidden).float().log_softmax(-1).transpose(0, 1)
            frames = labels.new_full((case.batch,), case.steps)
            return (
                nn.functional.ctc_loss(
                    log_probs, labels, frames, labels.new_full((case.batch,), case.labels), reduction="sum"
                )
                / labels.numel()
            )

    return Network()


NETWORKS = {"lt25": build_lt25, "fla": build_fla}


class Step:
    """One training step of a network on one batch that stays on the device; ours as the trainer takes it."""

    def __init__(self, case: Case, network: str, device: str, mode: str) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.torch, self.device = torch, device
        self.model = NETWORKS[network](case).to(device).train()
        features = torch.randn(case.batch, case.steps, case.channels, device=device)
        shape = (case.batch, case.labels) if case.labels else (case.batch,)
        self.batch = {"features": features, "labels": torch.randint(1, case.classes, shape, device=device)}
        if case.labels:
            self.batch["mask"] = torch.ones(case.batch, case.steps, dtype=torch.int64, device=device)
        self.forward, self.low_precision = self.model, nullcontext()
        self.optimize = self._optimizer(network)
        self.update = self.once
        if network == "lt25" and device == "cuda":
            from lt25.compiling import compile_ahead
            from lt25.training.precision import LowPrecision

            if mode != "compile":
                self.low_precision = LowPrecision(self.model, torch.bfloat16)
            compile_ahead(lambda: self.gradients(self.batch))
        if mode == "compile":
            self.forward = torch.compile(self.model)
        if mode == "graph":
            from lt25.cuda_graphs import CUDAGraphWrapper

            self.update = CUDAGraphWrapper(self.once)

    def _optimizer(self, network: str) -> Callable[[Any], None]:
        options = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
        if network == "lt25":
            from lt25.training import torchtitan  # noqa: F401 must come before any other import of torchtitan
            from lt25.training.steps import FiniteOptimizers

            return FiniteOptimizers([self.model], "AdamW", options).step
        optimizer = self.torch.optim.AdamW(
            self.model.parameters(), fused=True, capturable=self.device == "cuda", **options
        )
        return lambda norm: optimizer.step()

    def gradients(self, batch: dict[str, Any]) -> Any:
        self.model.zero_grad()
        with self.low_precision:
            with self.torch.autocast(self.device, self.torch.bfloat16):
                loss = self.forward(**batch)
            loss.backward()
        return loss.detach()

    def once(self, batches: list[dict[str, Any]]) -> tuple[Any, ...]:
        loss = self.gradients(batches[0])
        norm = self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        self.optimize(norm)
        return (loss, norm)

    def run(self) -> Any:
        return self.update([self.batch])[0]


def measure(step: Step, count: int) -> tuple[float, float]:
    """Median and mean milliseconds of a step: the median of each step's own time, the mean of all of them in a row."""
    torch = step.torch
    if step.device == "cpu":
        times = []
        for _ in range(count):
            before = time.perf_counter()
            step.run()
            times.append((time.perf_counter() - before) * 1e3)
        return statistics.median(times), statistics.mean(times)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        step.run()
        mark.record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
    return statistics.median(times), marks[0].elapsed_time(marks[-1]) / count


def profile(step: Step, count: int = 5) -> list[dict[str, Any]]:
    """The 60 kernels (operators on a CPU) that take longest: name, milliseconds and launches a step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    kinds = [ProfilerActivity.CUDA, ProfilerActivity.CPU] if step.device == "cuda" else [ProfilerActivity.CPU]
    with record(activities=kinds) as seen:
        for _ in range(count):
            step.run()
        if step.device == "cuda":
            step.torch.cuda.synchronize()
    kernels: dict[str, list[float]] = {}
    for event in seen.key_averages():
        spent = event.self_device_time_total if step.device == "cuda" else event.self_cpu_time_total
        on_device = step.device == "cpu" or str(event.device_type).endswith("CUDA")
        if spent > 0 and on_device:
            entry = kernels.setdefault(event.key, [0.0, 0])
            entry[0] += spent
            entry[1] += event.count
    total = sum(spent for spent, _ in kernels.values())
    top = sorted(kernels.items(), key=lambda item: -item[1][0])[:60]
    rows = [{"name": name, "ms": spent / count / 1e3, "launches": n / count} for name, (spent, n) in top]
    launches = sum(n for _, n in kernels.values()) / count
    return [{"name": "all", "ms": total / count / 1e3, "launches": launches}, *rows]


def one_process(case: Case, network: str, device: str, modes: list[str], profiled: bool, out: Path) -> None:
    """Measure a network in each mode, writing a line of JSON to `out` for each; what fails says why in its line."""
    import torch

    if network == "fla":
        from lt25.compiling import time_briefly

        time_briefly()
    count = MEASURED if device == "cuda" else 5
    for mode in modes:
        row: dict[str, Any] = {"network": network, "mode": mode}
        try:
            started = time.perf_counter()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            step = Step(case, network, device, mode)
            for _ in range(WARMUP if device == "cuda" else 2):
                loss = step.run()
            row["loss"] = loss.item()
            row["ready_s"] = time.perf_counter() - started
            row["median_ms"], row["mean_ms"] = measure(step, count)
            if device == "cuda":
                row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            if profiled and mode != "compile":
                row["kernels"] = profile(step)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        with out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        step = loss = None
        if device == "cuda":
            torch.cuda.empty_cache()


def write_project(folder: Path, case: Case, steps: int, variant: "Variant") -> Path:
    """Write prepared data and a job file of a network; return the path of the job file."""
    import torch

    torch.manual_seed(0)
    examples = 4 * case.batch
    lengths = torch.full((examples,), case.steps)
    if variant.ragged:
        lengths = torch.randint(case.steps // 2, case.steps + 1, (examples,))
    tensors = {"input_offsets": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])}
    size: dict[str, Any] = {"hidden_size": case.hidden, "num_hidden_layers": case.layers}
    if variant.task == "language_modeling":
        tensors["inputs"] = torch.randint(1, case.classes, (int(lengths.sum()),), dtype=torch.int32)
        size |= {"vocab_size": case.classes, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    else:
        tensors["inputs"] = torch.randn(int(lengths.sum()), case.channels)
        tensors["inputs"][: variant.bad] = float("nan")
        size["input_size"] = case.channels
    if variant.task == "classification":
        tensors["labels"] = torch.randint(1, case.classes, (examples,))
        size["num_labels"] = case.classes
    elif variant.task == "speech_recognition":
        tensors["labels"] = torch.randint(1, case.classes, (examples * case.labels,), dtype=torch.int32)
        tensors["label_offsets"] = torch.arange(examples + 1) * case.labels
        size |= {"vocab_size": case.classes, "pad_token_id": 0}
    training = {"steps": steps, "local_batch_size": case.batch, "seq_len": case.steps}
    settings = {**variant.settings, "training": {**training, **variant.settings.get("training", {})}}
    return write_job(folder, variant.task, tensors, {"model_type": "lt25_hgrn", **size, **variant.model}, settings)


def write_job(
    folder: Path, task: str, tensors: dict[str, Any], model: dict[str, Any], settings: dict[str, dict[str, Any]]
) -> Path:
    """Write prepared data, a model's configuration and a job file that trains it without checkpoints.

    Args:
        folder: where.
        task: the task's name.
        tensors: of the training split.
        model: the content of config.json.
        settings: sections of the job, ``training`` with steps, batch and window among them.

    Returns:
        The path of the job file.
    """
    from safetensors.torch import save_file

    from lt25.files import write_record
    from lt25.training.job import job_text

    data = folder / "data"
    data.mkdir(parents=True)
    shard = data / "train-00000-of-00001.safetensors"
    save_file(tensors, shard)
    stats = {"task": task, "fingerprint": "synthetic", "model": {}, "splits": {"train": {}, "validation": {}}}
    write_record(data / "stats.json", stats, [shard])
    written = json.dumps(model)
    (folder / "config.json").write_text(written)
    job: dict[str, dict] = {
        "job": {"dump_folder": "results", "custom_config_module": "lt25.training.job_config"},
        "model": {"name": task, "flavor": "experiment", "hf_assets_path": "data"},
        "lt25": {
            "experiment": "step",
            "arguments": "step",
            "model_config": "config.json",
            "data": "data",
            "init_from": "",
            "augment": "{}",
            "probabilities": [1.0],
        },
        "training": {"global_batch_size": -1},
        "parallelism": {f"{kind}_parallel_degree": 1 for kind in ("tensor", "context", "pipeline")},
        "lr_scheduler": {"warmup_steps": 1},
        "activation_checkpoint": {"mode": "none"},
        "checkpoint": {"enable": False},
        "metrics": {"log_freq": max(settings["training"]["steps"] // 3, 1)},
        "debug": {"seed": 0},
    }
    for section, values in settings.items():
        job.setdefault(section, {}).update(values)
    (folder / "job.toml").write_text(job_text(job, written))
    return folder / "job.toml"


@dataclass(frozen=True)
class Variant:
    """What the trainer is given besides the size: ``bad`` is how many input steps are NaN."""

    task: str
    settings: dict[str, dict]
    model: dict[str, Any] = field(default_factory=dict)
    ragged: bool = False
    bad: int = 0


class Trained:
    """A trainer in a fresh process with the kernel caches of a directory."""

    def __init__(self, case: Case, variant: Variant, steps: int, caches: Path, device: str) -> None:
        self.case, self.steps, self.folder = case, steps, tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        job = write_project(folder, case, steps, variant)
        environment = {
            **os.environ,
            **_caches(caches),
            "PYTHONPATH": _path(),
        }
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.log = (folder / "stderr").open("w+")
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lt25.training", "--job.config_file", job.name],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True, bufsize=1,
        )  # fmt: skip
        os.set_blocking(self.process.stdout.fileno(), False)
        self.history: list[dict[str, Any]] = []

    def wait(self, limit: float) -> dict[str, Any]:
        """Wait for its end.

        Returns:
            first_step_s: seconds from the start of the process to its report of the first step; step_ms: milliseconds of a
            step in the last third of the run, waiting for data and all else included; or error.
        """
        row: dict[str, Any] = {}
        end = time.perf_counter() + limit
        while self.process.poll() is None and time.perf_counter() < end:
            line = self.process.stdout.readline()
            if f"step 1/{self.steps}" in line:
                row["first_step_s"] = time.perf_counter() - self.started
            if not line:
                time.sleep(0.005)
        if self.process.poll() is None:
            self.process.kill()
            row["error"] = f"stopped after {limit:.0f} s"
        self.process.wait()
        if self.process.returncode > 0:
            self.log.seek(0)
            row["error"] = (self.log.read().strip().splitlines() or ["no message"])[-1][:300]
        elif self.process.returncode == 0:
            lines = next(Path(self.folder.name).rglob("metrics.jsonl")).read_text().splitlines()
            self.history = [json.loads(line) for line in lines]
            row["step_ms"] = self.case.batch / self.history[-1]["samples_per_second"] * 1e3
        self.log.close()
        self.folder.cleanup()
        return row


def check(device: str, report: "Report") -> None:
    """Train small networks of all tasks with plain and with replayed steps; report by how much their losses differ.

    Each step has a seed of its own, by which both draw the same dropout.
    """
    variants = {
        "speech, both ways": Variant(
            "speech_recognition", {}, {"dropout": 0.1, "bidirectional": True, "subsampling": 2}, ragged=True
        ),
        "series, accumulated": Variant(
            "classification", {}, {"dropout": 0.1, "use_short_conv": True, "pooling": "last"}, ragged=True
        ),
        "series with a NaN": Variant("classification", {}, {"dropout": 0.1}, bad=1),
        "text, packed": Variant("language_modeling", {}, {"dropout": 0.1}, ragged=True),
    }
    case = Case(hidden=64, layers=2, batch=8, steps=200, channels=8, classes=20, labels=10)
    for name, variant in variants.items():
        started, row = time.perf_counter(), {"check": name}
        try:
            row.update(_compare(case, variant, 2 if "accumulated" in name else 1, device))
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        report.add({**row, "seconds": time.perf_counter() - started})


def _compare(case: Case, variant: Variant, accumulation: int, device: str) -> dict[str, Any]:
    import torch

    from lt25.compiling import compile_ahead
    from lt25.cuda_graphs import CUDAGraphWrapper
    from lt25.data.loader import StepBatches
    from lt25.data.order import Reading, Share
    from lt25.data.prepared import PreparedSplit
    from lt25.tasks import TASKS
    from lt25.training import spec
    from lt25.training.prefetch import to_cuda
    from lt25.training.steps import FiniteOptimizers

    losses, taken, recorded = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder), case, 24, variant)
        split, text = PreparedSplit(Path(folder) / "data", "train"), (Path(folder) / "config.json").read_text()
    loss_of = TASKS[variant.task].module("loss").loss
    for replayed in (False, True):
        torch.manual_seed(0)
        model = spec.TaskModel(spec.ModelArgs(task=variant.task, config=text)).to(device).train()
        options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
        optimizers = FiniteOptimizers([model], "AdamW", options)
        batches = StepBatches(
            split, variant.task, Reading(Share(case.batch, accumulation), seed=0, seq_len=case.steps), few_shapes=True,
            prefetch=(lambda read: to_cuda(read, torch.device("cuda", 0))) if device == "cuda" else iter,
        )  # fmt: skip

        def gradients(micro_batches, model=model, optimizers=optimizers):
            optimizers.zero_grad()
            loss = 0.0
            for batch in micro_batches:
                inputs = {key: tensor for key, tensor in batch.items() if key != "input"}
                part = loss_of(model(batch["input"], **inputs), batch["labels"]) / batch["labels"].numel()
                part.backward()
                loss = loss + part.detach()
            return loss

        def update(micro_batches, model=model, optimizers=optimizers, gradients=gradients):
            loss = gradients(micro_batches)
            optimizers.step(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=True))
            return (loss,)

        step = CUDAGraphWrapper(update) if replayed and device == "cuda" else update
        stream, seen = iter(batches), []
        for n in range(24):
            taken_now = [next(stream) for _ in range(accumulation)]
            micro_batches = [{**inputs, "labels": labels} for inputs, labels in taken_now]
            if n == 0 and device == "cuda":
                compile_ahead(lambda micro_batches=micro_batches, gradients=gradients: gradients(micro_batches))
            torch.manual_seed(n)
            seen.append(step(micro_batches)[0].item())
        stream.close()
        losses.append(seen)
        taken.append(int(optimizers.taken))
        recorded = len(step.recorded) if isinstance(step, CUDAGraphWrapper) else 0
    differences = [abs(a - b) for a, b in zip(*losses, strict=True) if a == a or b == b]
    return {
        "recorded": recorded,
        "taken": f"{taken[0]} and {taken[1]}",
        "last_loss": losses[0][-1],
        "largest_difference": max(differences),
    }


class Report:
    """Rows as they are measured: printed at once, and kept in a file if there is one."""

    def __init__(self, file: Path | None, seconds: float, about: dict[str, Any]) -> None:
        self.file, self.end = file, time.perf_counter() + seconds
        self.rows: list[dict[str, Any]] = []
        self.about = about
        print("  ".join(f"{key} {value}" for key, value in about.items()), flush=True)

    def left(self) -> float:
        return self.end - time.perf_counter()

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        kernels = row.get("kernels", [])
        print("  ".join(f"{key} {value}" for key, value in shown.items() if key != "kernels"), flush=True)
        for kernel in kernels:
            print(f"    {kernel['ms']:9.4f} ms {kernel['launches']:7.1f} x  {kernel['name'][:110]}", flush=True)
        if self.file:
            self.file.write_text(json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n")

    def markdown(self) -> str:
        """Return the steps and the trainer's times as two tables."""
        lines = [
            "| network | modules | mode | median ms | mean ms | peak GiB |",
            "| --- | --- | --- | ---: | ---: | ---: |",
        ]
        for row in self.rows:
            if "median_ms" in row:
                peak = f"{row['peak_gib']:.2f}" if "peak_gib" in row else ""
                cells = (
                    row["case"],
                    row["network"],
                    row["mode"],
                    f"{row['median_ms']:.3f}",
                    f"{row['mean_ms']:.3f}",
                    peak,
                )
                lines.append(f"| {' | '.join(cells)} |")
        lines += [
            "",
            "| network | kernel caches | first step s | step ms |",
            "| --- | --- | ---: | ---: |",
        ]
        for row in self.rows:
            if "step_ms" in row:
                cells = (
                    row["case"],
                    row["caches"],
                    f"{row['first_step_s']:.1f}",
                    f"{row['step_ms']:.3f}",
                )
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def about(device: str) -> dict[str, Any]:
    """Return hardware, versions and date."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}


def steps_of(
    name: str, network: str, modes: list[str], caches: Path, options: argparse.Namespace, report: Report
) -> None:
    """Measure a network in a process of its own and report it."""
    if report.left() < 10:
        report.add({"case": name, "network": network, "left out": "no time left"})
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows"
        command = [sys.executable, __file__, "--one", network, str(out), "--device", options.device, "--only", name]
        command += ["--modes", ",".join(modes), *(["--small"] if options.small else [])]
        command += ["--profile"] if options.profile else []
        environment = {**os.environ, **_caches(caches), "TRITON_CACHE_AUTOTUNING": "1", "PYTHONPATH": _path()}
        try:
            done = subprocess.run(command, timeout=report.left(), capture_output=True, text=True, env=environment)
            wrong = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None
        except subprocess.TimeoutExpired:
            wrong = "out of time"
        for line in out.read_text().splitlines() if out.exists() else []:
            report.add({"case": name, **json.loads(line)})
        if wrong:
            report.add({"case": name, "network": network, "error": wrong})


def _caches(folder: Path) -> dict[str, str]:
    return {"TRITON_CACHE_DIR": str(folder / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def _path() -> str:
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="miniature networks")
    parser.add_argument("--only", choices=list(CASES), help="one of the two")
    parser.add_argument("--networks", default="lt25,fla")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--profile", action="store_true", help="name the kernels that take longest")
    parser.add_argument("--check", action="store_true", help="only compare training with and without CUDA graphs")
    parser.add_argument("--no-trainer", action="store_true", help="leave out the trainer's start and steps")
    parser.add_argument("--seconds", type=float, default=230, help="time for everything")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print tables in the end")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases, modes = SMALL if options.small else CASES, options.modes.split(",")
    names = [options.only] if options.only else list(cases)
    if options.one:
        one_process(cases[names[0]], options.one[0], options.device, modes, options.profile, Path(options.one[1]))
        return

    report = Report(options.json, options.seconds, about(options.device))
    networks = options.networks.split(",")
    if options.device == "cpu":
        modes = [mode for mode in modes if mode in ("eager", "check")]
    if options.check:
        sys.path.insert(0, str(REPOSITORY))
        check(options.device, report)
        return
    with tempfile.TemporaryDirectory() as folder:
        # The trainers come first: the networks then reuse the kernels that these compiled.
        caches = {name: Path(folder) / name for name in names}
        for name in names if "lt25" in networks and not options.no_trainer else []:
            for state in TRAINERS:
                row = {"case": name, "caches": state}
                if report.left() < 15:
                    report.add({**row, "left out": "no time left"})
                    continue
                precision = {"mixed_precision_param": "float32" if options.small else "bfloat16"}
                variant = Variant(
                    "speech_recognition" if cases[name].labels else "classification",
                    {"training": precision},
                )
                run = Trained(cases[name], variant, 9 if options.small else 300, caches[name], options.device)
                report.add({**row, **run.wait(report.left())})
        runs = [("lt25", [mode for mode in modes if mode != "compile"])]
        runs += [("fla", [mode for mode in modes if mode in ("eager", "graph")])] if options.device == "cuda" else []
        runs += [("lt25", ["compile"])] if "compile" in modes else []
        for network, some in runs:
            for name in names if network in networks else []:
                steps_of(name, network, some, caches[name], options, report)
    if options.markdown:
        print(report.markdown())


if __name__ == "__main__":
    main()
