"""A run directory: one fingerprint, one trainer at a time.

``results/<experiment>/runs/<fingerprint>/`` belongs to everything that decides the weights. That is the run's identity: model,
data, optimizer, schedule, batch, seed, what training starts from; and its path: the segments in which it was trained. A run of 80
steps is one segment. A run of 40 steps that was continued to 80 has two, because the first went along a schedule of 40 steps;
so it has another directory, which begins with the checkpoints of the first run and leaves that as it was.
"""

import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lt25.checkpoints.whole import damage, kept_steps
from lt25.config.sections import training_identity
from lt25.errors import UserError
from lt25.experiment import digest
from lt25.files import read_json, whole_file, write_json, write_text

HISTORY = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        results_dir: the experiment's.
        identity: everything but the path that decides the weights, see `identity_of`.
        path: its segments, ``{"from": step, "steps": total}``: from which step on it went along a schedule of how many steps.
        own: whether it is the experiment's own, which the chain goes on from, or one with values overridden by hand.
        former: the directory of the run that its last segment continues, None if it starts from no steps.
    """

    results_dir: Path
    identity: dict[str, Any]
    path: list[dict[str, int]]
    own: bool
    former: Path | None = None

    @property
    def fingerprint(self) -> str:
        return digest([self.identity, self.path, *([] if self.own else ["by hand"])])[:12]

    @property
    def directory(self) -> Path:
        return self.results_dir / "runs" / self.fingerprint

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def marker(self) -> Path:
        return self.directory / "train.json"

    @property
    def record(self) -> Path:
        return self.directory / "run.json"

    @property
    def is_current(self) -> bool:
        """Whether the experiment's ``checkpoints`` are this run's."""
        return self.own and _current(self.results_dir) == self.directory.resolve()


def identity_of(job: Mapping[str, Any], data_parallel: int) -> dict[str, Any]:
    """Return everything in a resolved job that decides where training arrives, but for the number of steps.

    Args:
        job: a job file's sections, as plain dictionaries.
        data_parallel: how many ranks share a step's examples.

    Raises:
        UserError: if the data or the model to start from is not there.
    """
    local, total = job["training"]["local_batch_size"], job["training"]["global_batch_size"]
    lt25 = job["lt25"]
    data = read_json(Path(lt25["data"]) / "stats.json", "run `lt25 prepare` first")
    start = None
    if lt25["init_from"]:
        start = read_json(Path(lt25["init_from"]) / "export.json", "export that experiment first")["fingerprint"]
    return {
        **training_identity(job),
        "global_batch_size": total if total > 0 else local * data_parallel,
        "model": read_json(Path(lt25["model_config"]), "run `lt25 configure` first"),
        "data": data["fingerprint"],
        "init_from": start,
        # Left out where there is none, so that such a run's fingerprint does not depend on what could be augmented.
        **({"augment": augment} if (augment := json.loads(lt25["augment"])) else {}),
    }


def open_run(job: Mapping[str, Any], written: Mapping[str, Any], data_parallel: int) -> Run:
    """Find the run that a job goes on with, or the one that it founds; nothing is written.

    With the same identity, the experiment's current run goes on if its schedule has as many steps; otherwise a run that was
    started with this many is taken up again; otherwise the current run, if it is a shorter one, is continued.

    Args:
        job: the resolved job, command-line overrides included.
        written: the job as its file has it.
        data_parallel: how many ranks share a step's examples.
    """
    identity, steps = identity_of(job, data_parallel), job["training"]["steps"]
    own = identity == identity_of(written, data_parallel) and steps == written["training"]["steps"]
    results_dir = Path(job["job"]["dump_folder"])
    fresh = Run(results_dir, identity, [{"from": 0, "steps": steps}], own)
    current = _current(results_dir)
    before = _read(current / "run.json") if current else {}
    if current is None or not own or before.get("identity") != identity:
        return fresh
    path = before["path"]
    if path[-1]["steps"] == steps:
        return Run(results_dir, identity, path, own)
    if fresh.record.is_file() or path[-1]["steps"] > steps:
        return fresh
    whole = (step for step in reversed(kept_steps(current / "checkpoints")) if step > 0)
    newest = next((step for step in whole if damage(current / "checkpoints" / f"step-{step}") is None), None)
    if newest is None:
        return fresh
    return Run(results_dir, identity, [*path, {"from": newest, "steps": steps}], own, current)


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


def enter(run: Run) -> list[str]:
    """Prepare a run's directory and, if it is the experiment's own, make it the current one.

    Returns:
        Lines for the user: what differs from the run that was current before.
    """
    current, known = _current(run.results_dir), run.record.is_file()
    if run.former is not None and not known:
        _continue(run.former, run)
    write_json(run.record, {"identity": run.identity, "path": run.path})
    if not run.own:
        return [f"overridden by hand: training in {run.directory}, apart from the experiment's own run"]
    link = run.results_dir / "checkpoints"
    with whole_file(link) as partial:
        partial.symlink_to(Path("runs") / run.directory.name / "checkpoints")
    if current is None or current == run.directory.resolve():
        return []
    if run.former is not None:
        return [
            f"continuing the run of {run.path[-2]['steps']} steps from step {run.path[-1]['from']} in {run.directory}"
        ]
    return [f"{_difference(current, run)}: {'going back to' if known else 'starting afresh in'} {run.directory}"]


def finish(run: Run, record: Mapping[str, Any]) -> None:
    """Write the run's ``train.json``, and the experiment's if the run is the current one."""
    write_json(run.marker, record)
    if run.is_current:
        write_json(run.results_dir / "train.json", record)


def _continue(former: Path, run: Run) -> None:
    """Give a run the checkpoints and the history of the one that it continues; these stay where they are."""
    start, partial = run.path[-1]["from"], run.directory / ".checkpoints"
    shutil.rmtree(partial, ignore_errors=True)
    for step in kept_steps(former / "checkpoints"):
        if step <= start:
            name = f"step-{step}"
            shutil.copytree(former / "checkpoints" / name, partial / name, copy_function=_link)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    partial.rename(run.checkpoints)
    if (former / HISTORY).is_file():
        write_text(run.directory / HISTORY, (former / HISTORY).read_text(encoding="utf-8"))


def _link(source: str, target: str) -> None:
    # A checkpoint's files are never changed, so both runs can have the same ones.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _current(results_dir: Path) -> Path | None:
    """Return the directory of an experiment's current run."""
    link = results_dir / "checkpoints"
    return link.resolve().parent if link.is_symlink() else None


def _read(record: Path) -> dict[str, Any]:
    """Return what a ``run.json`` says, nothing if it is not readable or was written by an older lt25."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if found.keys() >= {"identity", "path"} else {}


def _difference(former: Path, run: Run) -> str:
    found = _read(former / "run.json")
    if not found:
        return "the former run is unreadable"
    before, after = _flat(found["identity"]), _flat(run.identity)
    before["training.steps"], after["training.steps"] = found["path"][-1]["steps"], run.path[-1]["steps"]
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed from {before.get(changed[0])} to {after.get(changed[0])}{more}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: item for key, part in value.items() for name, item in _flat(part, f"{prefix}.{key}".strip(".")).items()
    }
