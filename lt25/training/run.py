"""A run directory: one fingerprint, one trainer at a time.

``results/<experiment>/runs/<fingerprint>/`` belongs to everything that shapes the weights: model, data, optimizer, schedule,
batch, seed, what training starts from. Another value of any of these is another directory, so that a trainer never goes on
from a run of other hyperparameters; more ``training.steps`` are the same run, continued.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lt25.checkpoints.whole import kept_steps
from lt25.errors import UserError
from lt25.experiment import digest
from lt25.files import read_json, whole_file, write_json

# Keys of the shaping sections that change the speed, the layout or the record of a run, and not where it arrives.
_SHAPELESS = {
    "training": {
        "steps",
        "local_batch_size",
        "global_batch_size",
        "gc_freq",
        "gc_debug",
        "dataloader",
        "enable_cpu_offload",
        "cuda_graphs",
    },
    "optimizer": {"implementation", "early_step_in_backward"},
}


@dataclass(frozen=True)
class Run:
    """A run directory and whether it is the experiment's own, which the chain goes on from, or one tried by hand."""

    results_dir: Path
    directory: Path
    fingerprint: str
    shape: dict[str, Any]
    own: bool

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def marker(self) -> Path:
        return self.directory / "train.json"


def shape_of(job: Mapping[str, Any], data_parallel: int) -> dict[str, Any]:
    """Return everything in a resolved job that decides where training arrives.

    Args:
        job: a job file's sections, as plain dictionaries.
        data_parallel: how many ranks share a step's examples.

    Raises:
        UserError: if the data or the model to start from is not there.
    """
    sections = {
        name: {key: value for key, value in job[name].items() if key not in _SHAPELESS.get(name, ())}
        for name in ("training", "optimizer", "lr_scheduler")
    }
    local, total = job["training"]["local_batch_size"], job["training"]["global_batch_size"]
    lt25 = job["lt25"]
    data = read_json(Path(lt25["data"]) / "stats.json", "run `lt25 prepare` first")
    start = None
    if lt25["init_from"]:
        start = read_json(Path(lt25["init_from"]) / "export.json", "export that experiment first")["fingerprint"]
    return {
        **sections,
        "global_batch_size": total if total > 0 else local * data_parallel,
        "seed": job["debug"]["seed"],
        "model": read_json(Path(lt25["model_config"]), "run `lt25 configure` first"),
        "data": data["fingerprint"],
        "init_from": start,
        # Left out where there is none, so that such a run's fingerprint does not depend on what could be augmented.
        **({"augment": augment} if (augment := json.loads(lt25["augment"])) else {}),
    }


def open_run(job: Mapping[str, Any], written: Mapping[str, Any], data_parallel: int) -> Run:
    """Find or found the directory of a run.

    Args:
        job: the resolved job, command-line overrides included.
        written: the job as its file has it.
        data_parallel: how many ranks share a step's examples.
    """
    shape, steps = shape_of(job, data_parallel), job["training"]["steps"]
    own = shape == shape_of(written, data_parallel) and steps == written["training"]["steps"]
    fingerprint = digest(shape if own else [shape, "by hand"])[:12]
    results_dir = Path(job["job"]["dump_folder"])
    directory = results_dir / "runs" / fingerprint
    if max(kept_steps(directory / "checkpoints"), default=0) > steps:
        # A shorter run has a schedule of its own, so it is not a part of the longer one.
        fingerprint = f"{fingerprint}-to-{steps}"
        directory = results_dir / "runs" / fingerprint
    return Run(results_dir, directory, fingerprint, shape, own)


def lock(run: Run) -> FileLock:
    """Take the run directory for this process; the system gives it back when the process ends, however it ends.

    Raises:
        UserError: if another trainer has it.
    """
    run.directory.mkdir(parents=True, exist_ok=True)
    holder, taken = run.directory / "lock.json", FileLock(run.directory / "lock")
    try:
        taken.acquire(timeout=0)
    except Timeout:
        who = json.loads(holder.read_text()) if holder.is_file() else {}
        raise UserError(
            f"{run.directory}: another trainer is writing here (process {who.get('pid')} on {who.get('host')}): "
            f"wait until it ends, or stop it"
        ) from None
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname()})
    return taken


def announce(run: Run) -> list[str]:
    """Record a run's shape, make it the experiment's current one if it is its own, and say what differs from the former."""
    link, said = run.results_dir / "checkpoints", []
    former = link.resolve().parent if link.is_symlink() else None
    fresh = not (run.directory / "run.json").is_file()
    write_json(run.directory / "run.json", run.shape)
    if not run.own:
        said.append(f"overridden by hand: training in {run.directory}, apart from the experiment's own run")
        return said
    if former is not None and former.name != run.directory.name:
        said.append(f"{_difference(former, run)}: {'starting afresh' if fresh else 'going back to'} in {run.directory}")
    with whole_file(link) as partial:
        partial.symlink_to(Path("runs") / run.directory.name / "checkpoints")
    return said


def finish(run: Run, record: Mapping[str, Any]) -> None:
    """Write the run's ``train.json``, and the experiment's if the run is its own."""
    write_json(run.marker, record)
    if run.own:
        write_json(run.results_dir / "train.json", record)


def _difference(former: Path, run: Run) -> str:
    try:
        before = _flat(json.loads((former / "run.json").read_text()))
    except (OSError, ValueError):
        return "the former run is unreadable"
    after = _flat(run.shape)
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if not changed:
        return "fewer training.steps than the former run"
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed from {before.get(changed[0])} to {after.get(changed[0])}{more}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: item for key, part in value.items() for name, item in _flat(part, f"{prefix}.{key}".strip(".")).items()
    }
