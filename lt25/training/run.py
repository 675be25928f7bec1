"""A run directory: one fingerprint, one trainer at a time.

``results/<experiment>/runs/<fingerprint>/`` belongs to everything that decides the weights. That is the run's identity: model,
data, optimizer, schedule, batch, seed, what training starts from; and its path: the segments in which it was trained. A run of 80
steps is one segment. A run of 40 steps that was continued to 80 has two, because the first went along a schedule of 40 steps;
so it has another directory, which begins with the checkpoints of the first run and leaves that as it was.
"""

import itertools
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lt25 import files
from lt25.checkpoints.whole import damage, kept_steps, manifest
from lt25.config.key import flat
from lt25.config.sections import training_identity
from lt25.errors import UserError
from lt25.experiment import digest
from lt25.files import load_record, read_record, whole_file, write_json, write_record

HISTORY = "metrics.jsonl"
"""The run's log, one line a logged step; each checkpoint holds what it was at its step, under the same name."""


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
    def facts(self) -> dict[str, Any]:
        """What its checkpoints carry of it."""
        return {"identity": self.identity, "path": self.path}


def identity_of(job: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """Return everything in a resolved job that decides where training arrives, but for the number of steps.

    Args:
        job: a job file's sections, as plain dictionaries.
        processes: how many ranks train.

    Raises:
        UserError: if the data or the model to start from is not there.
    """
    local, total = job["training"]["local_batch_size"], job["training"]["global_batch_size"]
    # Ranks that share a layer, a sequence or a model take the same examples.
    split = math.prod(job["parallelism"][f"{kind}_parallel_degree"] for kind in ("tensor", "context", "pipeline"))
    lt25 = job["lt25"]
    data = read_record(Path(lt25["data"]) / "stats.json", f"lt25 prepare {lt25['arguments']}")
    start = None
    if lt25["init_from"]:
        folder = Path(lt25["init_from"])
        exported = folder.parts[0] == "results"
        again = f"lt25 export {folder.parent.name}" if exported else f"lt25 configure {lt25['arguments']}"
        start = read_record(folder / "export.json", again)["fingerprint"]
    # What is in a folder decides, and not where it lies.
    sounds = json.loads(lt25.get("sounds", "{}"))
    return {
        **training_identity(job),
        "global_batch_size": total if total > 0 else local * (processes // split),
        # How many utterances a micro-batch has is then said by the most that it may have, too.
        **({"local_batch_size": local} if job["training"].get("batch_seconds") else {}),
        "model": files.read_json(Path(lt25["model_config"]), f"run `lt25 configure {lt25['arguments']}`"),
        "data": data["fingerprint"],
        "init_from": start,
        # Left out where there is none, so that such a run's fingerprint does not depend on what could be augmented.
        **({"probabilities": several} if len(several := lt25["probabilities"]) > 1 else {}),
        **({"augment": augment} if (augment := json.loads(lt25["augment"]) | sounds) else {}),
    }


def open_run(job: Mapping[str, Any], written: Mapping[str, Any], processes: int) -> Run:
    """Find the run that a job goes on with, or the one that it founds; nothing is written.

    With the same identity, the experiment's current run goes on if its schedule has as many steps; otherwise a run that was
    started with this many is taken up again; otherwise the current run, if it is a shorter one, is continued. With
    ``lt25.fresh`` none goes on: the run is the one that starts from no steps.

    Args:
        job: the resolved job, command-line overrides included.
        written: the job as its file has it.
        processes: how many ranks train.
    """
    identity, steps = identity_of(job, processes), job["training"]["steps"]
    own = identity == identity_of(written, processes) and steps == written["training"]["steps"]
    results_dir = Path(job["job"]["dump_folder"])
    fresh = Run(results_dir, identity, [{"from": 0, "steps": steps}], own)
    current = _current(results_dir)
    before = _facts_of(current) if current else {}
    if current is None or not own or job["lt25"].get("fresh") or before.get("identity") != identity:
        return fresh
    path = before["path"]
    if path[-1]["steps"] == steps:
        return Run(results_dir, identity, path, own)
    if fresh.record.is_file() or path[-1]["steps"] > steps:
        return fresh
    kept = (step for step in reversed(kept_steps(current / "checkpoints")) if step > 0)
    newest = next((step for step in kept if damage(current / "checkpoints" / f"step-{step}", before) is None), None)
    if newest is None:
        return fresh
    return Run(results_dir, identity, [*path, {"from": newest, "steps": steps}], own, current)


def lock(run: Run, waiting: Callable[[str], None] | None = None) -> FileLock:
    """Take the run directory for this process; the system gives it back when the process ends, however it ends.

    Args:
        run: a run.
        waiting: is told, in one line, which trainer has it, and then it is waited for; None: it is not waited for.

    Raises:
        UserError: if another trainer has it and is not waited for.
    """
    run.directory.mkdir(parents=True, exist_ok=True)
    holder, taken = run.directory / "lock.json", FileLock(run.directory / "lock")
    try:
        taken.acquire(timeout=0)
    except Timeout:
        who = _holder(holder)
        if waiting is None:
            raise UserError(
                f"{run.directory}: another trainer is writing here ({who}): stop it, or wait for it with `--wait`"
            ) from None
        waiting(f"{run.directory}: another trainer is writing here ({who}): waiting until it ends")
        taken.acquire()
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname()})
    return taken


def enter(run: Run, machine: Mapping[str, Any]) -> list[str]:
    """Prepare a run's directory and, if it is the experiment's own, make it the current one.

    Args:
        run: a run.
        machine: what it is trained on, as far as rounding depends on it: by name, a number or a text.

    Returns:
        Lines for the user: what differs from the run that was current before, and from the machine that it began on.
    """
    current, known = _current(run.results_dir), run.record.exists()
    if run.former is not None and not known:
        _continue(run.former, run)
    before = _load(run.record).get("machine", machine) if kept_steps(run.checkpoints) else machine
    write_record(run.record, {**run.facts, "machine": before})
    lines = [
        f"{name} {machine[name]}, but it began with {before[name]}: sums are rounded differently, so the weights will not be "
        f"those of an undisturbed run to the last bit"
        for name in machine
        if name in before and before[name] != machine[name]
    ]
    if not run.own:
        return [f"overridden by hand: training in {run.directory}, apart from the experiment's own run", *lines]
    link = run.results_dir / "checkpoints"
    with whole_file(link) as partial:
        partial.symlink_to(Path("runs") / run.directory.name / "checkpoints")
    if current is None or current == run.directory.resolve():
        return lines
    if run.former is not None:
        steps, start = run.path[-2]["steps"], run.path[-1]["from"]
        return [f"continuing the run of {steps} steps from step {start} in {run.directory}", *lines]
    return [
        f"{_difference(current, run)}: {'going back to' if known else 'starting afresh in'} {run.directory}",
        *lines,
    ]


def already_trained(run: Run, name: str) -> bool:
    """Say that a run has nothing left to train, and renew its records, if this is so; to be called with its lock taken.

    Args:
        run: a run.
        name: the experiment's.
    """
    record = arrived(run)
    if record is None:
        return False
    for line in enter(run, {}):
        print(f"{name}: {line}", flush=True)
    finish(run, record, is_wanted=True)
    print(f"{name}: already at step {record['steps']}: nothing to train", flush=True)
    return True


def arrived(run: Run) -> dict[str, Any] | None:
    """Return the record of a run that has nothing left to train; None for any other."""
    record = _marker(run)
    if not record or lost_steps(run):
        return None
    whole = (damage(run.checkpoints / f"step-{step}", run.facts) is None for step in needed_steps(run))
    return record if all(whole) else None


def needed_steps(run: Run) -> set[int]:
    """Return the steps whose checkpoints a run that has arrived cannot do without: the last, and the best if that is kept."""
    record = _marker(run)
    if not record:
        return set()
    return {record["steps"], *([record["best"]["step"]] if record.get("best") else [])}


def lost_steps(run: Run) -> list[int]:
    """Return the steps, ascending, whose checkpoints the run had when it arrived, and has to make again.

    They are missing now, and are needed or were found to be damaged. Others may have been removed to make room.
    """
    record, there = _marker(run), kept_steps(run.checkpoints)
    aside = (re.match(r"damaged-step-(\d+)", path.name) for path in run.directory.glob("damaged-step-*"))
    wanted = needed_steps(run) | {int(match[1]) for match in aside if match}
    return [step for step in record.get("checkpoints", []) if step in wanted and step not in there]


def no_such_step(run: Run, step: int) -> str | None:
    """Say why training cannot go on from the checkpoint of a step, ``checkpoint.load_step``, or return None if it can."""
    steps = kept_steps(run.checkpoints)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        return f"{run.checkpoints}: checkpoint.load_step: no checkpoint of step {step}: there are {there}"
    if wrong := damage(run.checkpoints / f"step-{step}", run.facts):
        others = ", ".join(str(other) for other in steps if other != step) or "none"
        return f"{run.checkpoints}/step-{step}: {wrong}: choose another checkpoint.load_step: there are {others}"
    return None


def finish(run: Run, record: Mapping[str, Any], is_wanted: bool) -> None:
    """Write the run's ``train.json``, and the experiment's with a copy of the history, which is shared when checkpoints are not.

    Args:
        run: a run that has arrived.
        record: what ``train.json`` says.
        is_wanted: whether the experiment still asks for this run. A trainer may outlive the command that started it, and the
            experiment be changed meanwhile; then its ``train.json`` is not for this run to write.
    """
    facts = {key: value for key, value in record.items() if key not in ("files", "checksum")}
    _restore_history(run, record)
    written = write_record(run.marker, facts, [run.directory / HISTORY])
    if run.own and is_wanted and _current(run.results_dir) == run.directory.resolve():
        files.write_text(run.results_dir / HISTORY, (run.directory / HISTORY).read_text(encoding="utf-8"))
        write_json(run.results_dir / "train.json", written)


def name_run(experiment: str, fingerprint: str) -> None:
    """Set the environment by which W&B knows a run again: the project, unless one is named, and the run's id."""
    os.environ.setdefault("WANDB_PROJECT", "lt25")
    # W&B takes 128 characters.
    os.environ.setdefault("WANDB_RUN_ID", f"{experiment}-{fingerprint}"[-128:])
    os.environ.setdefault("WANDB_RESUME", "allow")


def rung_file(results_dir: Path, step: int) -> Path:
    """Return where an experiment notes what validation found at a step that is a rung of its sweep."""
    return results_dir / "rungs" / f"step-{step}.json"


def note_rung(run: Run, step: int) -> str:
    """Note what validation found at a rung, as a record that says of which run it is; return a line for the user.

    Args:
        run: a run that has passed the step, or has ended before it for want of improvement.
        step: the rung.

    Raises:
        UserError: if the history has no validation up to there.
    """
    lines = (json.loads(line) for line in (run.directory / HISTORY).read_text(encoding="utf-8").splitlines())
    measured = [line for line in lines if "validation" in line and line["step"] <= step]
    if not measured:
        raise UserError(f"{run.directory / HISTORY}: no validation up to step {step}: set validation.freq")
    last = measured[-1]
    if run.own:
        write_record(rung_file(run.results_dir, step), {**run.facts, "step": last["step"], **last})
    return f"at step {last['step']}, for the rung of step {step}: validation loss {last['validation']['loss']:.4f}"


def start_afresh(run: Run) -> Path | None:
    """Move what there is of a run aside, so that it begins again; nothing is deleted.

    Returns:
        Where its directory is now, None if there was none.
    """
    former = None
    if run.directory.is_dir():
        former = next(
            place
            for number in itertools.count(1)
            if not (place := run.directory.with_name(f"{run.directory.name}-former-{number}")).exists()
        )
        run.directory.rename(former)
    if run.own:
        for left in ("checkpoints", "train.json", HISTORY):
            (run.results_dir / left).unlink(missing_ok=True)
    return former


def _restore_history(run: Run, record: Mapping[str, Any]) -> None:
    """Take the history from the last checkpoint, if it is not as the record has it."""
    kept = run.checkpoints / f"step-{record['steps']}" / HISTORY
    if kept.is_file() and ("files" not in record or files.damage(run.directory, record["files"])):
        files.write_text(run.directory / HISTORY, kept.read_text(encoding="utf-8"))


def _marker(run: Run) -> dict[str, Any]:
    """Return the run's own ``train.json``, nothing if there is none."""
    record = _load(run.marker)
    return record if record.get("fingerprint") == run.fingerprint else {}


def _holder(holder: Path) -> str:
    try:
        who = files.read_json(holder, "")
        return f"process {who['pid']} on {who['host']}"
    except (UserError, KeyError, TypeError):
        return "which one is not known"


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


def _load(record: Path) -> dict[str, Any]:
    """Return what a record of the run's says, nothing if it is not there or not as it was written."""
    try:
        return load_record(record)
    except (FileNotFoundError, UserError):
        return {}


def _facts_of(directory: Path) -> dict[str, Any]:
    """Return a run's ``identity`` and ``path``, from its newest checkpoint if its record is damaged; else nothing."""
    found = _load(directory / "run.json")
    for step in reversed(kept_steps(directory / "checkpoints")):
        if found:
            break
        found = (manifest(directory / "checkpoints" / f"step-{step}") or {}).get("run") or {}
    return found


def _difference(former: Path, run: Run) -> str:
    found = _facts_of(former)
    if not found:
        return "the former run is unreadable"
    before, after = (
        {**identity, "training.steps": path[-1]["steps"]}
        for identity, path in ((found["identity"], found["path"]), (run.identity, run.path))
    )
    return difference(before, after) or "nothing changed"


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Say what is another in two identities; None if nothing is."""
    one, other = flat(before), flat(after)
    changed = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    if not changed:
        return None
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed from {one.get(changed[0])} to {other.get(changed[0])}{more}"
