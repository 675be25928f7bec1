"""Train: ``torchrun --nproc_per_node 1 -m lt25.training --job.config_file results/digits/job.toml [--section.key value ...]``.

The arguments are torchtitan's. Without torchrun, ``python -m lt25.training`` trains in one process.
"""

import contextlib
import logging
import os
import platform
import re
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from lt25.compiling import keep_kernels
from lt25.importing import without_garbage
from lt25.training.processes import stop_at_once, stop_no_more
from lt25.training.startup import open_gpu

# isort: off
if __name__ == "__main__":
    stop_at_once()
keep_kernels()
with without_garbage():
    from lt25.training.device import DEVICE_TYPE, device_name, machine

    if DEVICE_TYPE == "cuda":
        open_gpu()
    from lt25.training.torchtitan import quiet  # must come before any other import of torchtitan

    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException
    from torchtitan.config import ConfigManager

    from lt25 import plugins
    from lt25.checkpoints.whole import kept_steps
    from lt25.data import documents
    from lt25.data.shards import believe
    from lt25.errors import UserError
    from lt25.files import disk_fault
    from lt25.memory import keep_freed_memory
    from lt25.source import revision
    from lt25.training import run as runs
    from lt25.training import spec
    from lt25.training.job import read_job
    from lt25.training.job_config import Job
    from lt25.training.parallelize import choose_data_parallel
    from lt25.training.stopping import TIME_IS_UP
    from lt25.training.trainer import Trainer
# isort: on

keep_freed_memory()

_VERSIONS = ("lt25", "torch", "torchtitan", "transformers", "flash-linear-attention")


def main(arguments: list[str] | None = None) -> int:
    """Run one rank of a job; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _alone_without_torchrun()
    rank = int(os.environ["RANK"])
    _log_to(None)
    threading.excepthook = _tell_of_thread
    try:
        return _train(arguments, rank)
    except UserError as error:
        if rank == 0:
            print(f"lt25: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if rank == 0:
            print("lt25: stopped: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except (Exception, CheckpointException) as error:
        if fault := disk_fault(error):
            if rank == 0:
                print(f"lt25: error: {fault}; the same command goes on from the last checkpoint", file=sys.stderr)
            return 2
        if _is_lost_connection(error):
            print(f"lt25: process {rank} {_of_connection(str(error).splitlines()[0])}", file=sys.stderr)
            return 1
        if (fault := plugins.fault(error)) is None:
            raise
        print(f"lt25: error: {fault}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _tell_of_thread(ended: threading.ExceptHookArgs) -> None:
    """Print what has ended a thread, but for a fault of the disk: whoever waits for the thread says that."""
    if not disk_fault(ended.exc_value):
        threading.__excepthook__(ended)


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process has ended or does not answer; of what ends there the launcher tells."""
    several = int(os.environ["WORLD_SIZE"]) > 1
    return several and (isinstance(error, dist.DistError) or re.search(r"\bgloo/transport\b", str(error)) is not None)


def _of_connection(reason: str) -> str:
    """Say what has become of a process's connection to the others, of which an error gives the reason."""
    if dist.is_initialized():
        return f"has lost its connection to another one ({reason})"
    return (
        f"has not met the others at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({reason}): MASTER_ADDR is the first "
        "node, whose MASTER_PORT nothing else may have, both the same on every node"
    )


def _train(arguments: list[str], rank: int) -> int:
    file, config, written = _read_jobs(arguments)
    plugins.load(Path.cwd(), config.lt25.plugins)
    processes, code = int(os.environ["WORLD_SIZE"]), revision(Path.cwd()) if rank == 0 else None
    run = runs.open_run(config.to_dict(), written.to_dict(), processes)
    config.job.dump_folder = str(run.directory)
    config.checkpoint.folder = "checkpoints"
    if config.lt25.init_from:
        config.checkpoint.initial_load_path = config.lt25.init_from
        config.checkpoint.initial_load_in_hf = config.checkpoint.initial_load_model_only = True
    config.validation.enable = config.validation.freq > 0
    if os.environ.get("WANDB_PROJECT"):
        config.metrics.enable_wandb = True
    runs.name_run(config.lt25.experiment, run.fingerprint)

    name = config.lt25.experiment
    with runs.lock(run) if rank == 0 else contextlib.nullcontext():
        if config.checkpoint.load_step == -1 and not config.lt25.fresh:
            if rank == 0 and runs.already_trained(run, name):
                if config.lt25.rung:
                    print(f"{name}: {runs.note_rung(run, config.lt25.rung)}", flush=True)
                return 0
            if rank > 0 and runs.arrived(run):
                return 0
        if rank == 0:
            # What cannot be trained is said before anything is moved.
            validated = ["validation"] if config.validation.enable else []
            believe(Path(config.lt25.data), ["train", *validated], f"lt25 prepare {config.lt25.arguments}", tables=())
            documents.believe(Path(config.lt25.data))
            if config.lt25.fresh and (former := runs.start_afresh(run)):
                print(f"{name}: training from the start; the former run is {former}", flush=True)
            for line in runs.enter(run, machine(processes)):
                print(f"{name}: {line}", flush=True)
            _log_to(run.directory / "trainer.log")
        spec.register()
        chosen = choose_data_parallel(config, processes, lambda: spec.count_parameters(config))
        if chosen and rank == 0:
            print(f"{name}: {chosen}", flush=True)
        trainer = Trainer(config, run)
        try:
            stopped = trainer.train()
        finally:
            trainer.close()
        stop_no_more()
        if rank == 0 and stopped:
            saved = "checkpoint saved; " if trainer.step else ""
            limit = "by the time limit " if stopped == TIME_IS_UP else ""
            print(
                f"lt25: stopped {limit}at step {trainer.step}: {saved}the same command goes on from there",
                file=sys.stderr,
            )
        elif rank == 0:
            if config.lt25.rung:
                print(f"{name}: {runs.note_rung(run, config.lt25.rung)}", flush=True)
            if trainer.paused:
                return 0
            if trainer.step < config.training.steps:
                print(f"{name}: {_without_improvement(config, trainer)}", flush=True)
            runs.finish(run, _record(config, run, trainer, code), _is_wanted(run, file, processes))
    return stopped


def _is_wanted(run: runs.Run, file: Path, processes: int) -> bool:
    """Whether the job file, which may have been written anew meanwhile, still asks for this run."""
    try:
        now = read_job(file)
        steps = now["training"]["steps"]
        return steps == run.path[-1]["steps"] and runs.identity_of(now, processes) == run.identity
    except UserError:
        return False


def _without_improvement(config: Job, trainer: Trainer) -> str:
    """Say why a training has ended before its last step."""
    best = trainer.validator.best if trainer.validator else None
    found = f"{best['metric']} better than the {best['value']:.4f} of step {best['step']}" if best else "improvement"
    return f"{config.validation.patience} validations without {found}: ended at step {trainer.step}"


def _record(config: Job, run: runs.Run, trainer: Trainer, code: dict[str, Any] | None) -> dict[str, Any]:
    records = trainer.metrics_processor.records
    if not records:
        raise UserError(
            f"{run.directory}: nothing was trained and there is no history: remove the directory, run again"
        )
    last, steady = records[-1], records[1:] or records

    def mean(key: str) -> float:
        return sum(record[key] for record in steady) / len(steady)

    return {
        "experiment": config.lt25.experiment,
        "task": config.model.name,
        "steps": trainer.step,
        "loss": last["loss"],
        "fingerprint": run.fingerprint,
        "identity": run.identity,
        "path": run.path,
        "init_from": run.identity["init_from"],
        "run_dir": os.path.relpath(run.directory, run.results_dir),
        "checkpoints": kept_steps(run.checkpoints),
        **({"best": trainer.validator.best} if config.checkpoint.keep == "best" and trainer.validator else {}),
        **({"batch_seconds": seconds} if (seconds := config.training.batch_seconds) else {}),
        "parameters": cast(Any, trainer.model_args).parameters,
        "seconds": last["seconds"],
        "samples_per_second": mean("samples_per_second"),
        "positions_per_second": mean("positions_per_second"),
        "skipped_steps": int(trainer.optimizers.skipped),
        **({"infinite_losses": last["infinite_losses"]} if "infinite_losses" in last else {}),
        "memory_gib": max(record["memory_gib"] for record in records),
        "device": device_name(),
        "world_size": dist.get_world_size(),
        "code": code,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
    }


def _read_jobs(arguments: list[str]) -> tuple[Path, Job, Job]:
    """Return the job file, the job with its command-line overrides, and the job as its file has it.

    Raises:
        UserError: if no job file is named, or it is not there or not as it was written.
    """
    files = [
        i
        for i, argument in enumerate(arguments)
        if argument.split("=")[0] in ("--job.config_file", "--job.config-file")
    ]
    if not files:
        raise UserError("--job.config_file: missing: name a job file, results/<experiment>/job.toml")
    at = files[0]
    named = arguments[at : at + (1 if "=" in arguments[at] else 2)]
    # The folder of an experiment's variant has "=" in its name.
    file = Path(named[1] if len(named) == 2 else named[0].split("=", 1)[1])
    if not file.is_file():
        raise UserError(f"{file}: no such job file: `lt25 configure <experiment>` writes it")
    read_job(file)
    config = ConfigManager().parse_args(arguments)
    return file, config, config if arguments == named else ConfigManager().parse_args(named)


def _alone_without_torchrun() -> None:
    if "RANK" in os.environ:
        return
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    # Whichever is free when torch binds it: one that is looked for here may be taken by another training until then.
    os.environ.setdefault("MASTER_PORT", "0")


def _log_to(file: Path | None) -> None:
    """Send torchtitan's log to a file, and to the terminal only what a user should know."""
    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler: logging.Handler = logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    if file is None:
        handler.setLevel(logging.WARNING)
        quiet(handler)
        form = logging.Formatter("lt25: %(levelname)s: %(message)s")
    handler.setFormatter(form)
    logger.addHandler(handler)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    sys.exit(main())
