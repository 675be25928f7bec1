"""What can be said of a training before torch is imported, which takes seconds."""

import contextlib
import json
from pathlib import Path
from typing import Any

from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import load_record
from lt25.launch import Launch, plan, shards
from lt25.models import families, meshes
from lt25.progress import say
from lt25.training import run as runs
from lt25.training.job import job_of, read_job


def check_devices(experiment: Experiment) -> Launch:
    """Compare the degrees of parallelism and the global batch with the processes that training would have.

    Returns:
        What it would be started on.

    Raises:
        UserError: if they do not fit.
    """
    parallelism, training = experiment.job["parallelism"], experiment.job["training"]
    start = plan(parallelism, where=str(experiment.path))
    settled = {**parallelism, "data_parallel_shard_degree": shards(parallelism, start.world_size)}
    families.check(experiment.model, experiment.task, settled, start.device, str(experiment.path))
    if training["float8"] and start.device == "cpu":
        raise UserError(
            f"{experiment.path}: training.float8: found {training['float8']}, but there is no GPU here, and a CPU has no such "
            "products: remove the key"
        )
    if training["batch_seconds"] == "auto" and start.device == "cpu":
        raise UserError(
            f"{experiment.path}: training.batch_seconds: found auto, but there is no GPU here, whose memory is measured: use a "
            "number of seconds"
        )
    if experiment.model.get("norm") == "batch" and start.world_size > 1:
        raise UserError(
            f"{experiment.path}: model.norm: found batch, which one process's batch decides, but {start.world_size} would train: "
            "use layer, or NGPU=1"
        )
    mode = experiment.job["activation_checkpoint"]["mode"]
    if experiment.model.get("norm") == "batch" and mode != "none":
        raise UserError(
            f"{experiment.path}: activation_checkpoint.mode: found {mode}, but what is computed twice would count twice in the "
            "averages of model.norm batch: use none, or model.norm layer"
        )
    readers = start.world_size // (parallelism["tensor_parallel_degree"] * parallelism["pipeline_parallel_degree"])
    readers //= parallelism["context_parallel_degree"]
    local, total = training["local_batch_size"], training["global_batch_size"]
    if total > 0 and total % (local * readers):
        raise UserError(
            f"{experiment.path}: training.global_batch_size: {total} is no multiple of training.local_batch_size, {local}, "
            f"times the {readers} processes that read data: change one"
        )
    if reason := meshes.too_few(parallelism, max(total // (local * readers), 1)):
        raise UserError(f"{experiment.path}: {reason}")
    return start


def settle(file: Path, launch: Launch, fresh: bool, wait: bool, rung: int = 0) -> bool:
    """Return whether a job has nothing left to train, after saying so.

    Args:
        file: the job file.
        launch: on what it would be started.
        fresh: whether it is to be trained from the start, whatever there is.
        wait: whether to wait for another trainer of the same run.
        rung: the step to train up to, which is noted then; 0: the last.

    Raises:
        UserError: if another trainer has the run and is not waited for, or ``checkpoint.load_step`` is not there or damaged.
    """
    job = read_job(file)
    job["lt25"]["fresh"] = fresh
    run, step = runs.open_run(job, job, launch.world_size), job["checkpoint"]["load_step"]
    waiting = say if wait else None
    if launch.nodes > 1:
        if fresh or step != -1 or not runs.arrived(run):
            # The first process of all nodes takes the run, maybe before this node is here, and looks for itself.
            return False
        # All nodes find that nothing is left, and take turns.
        waiting = _nothing
    with runs.lock(run, waiting):
        if fresh:
            return False
        if step == -1:
            name = job["lt25"]["experiment"]
            trained = runs.already_trained(run, name)
            if trained and rung:
                say(f"{name}: {runs.note_rung(run, rung)}")
            return trained
        if wrong := runs.no_such_step(run, step):
            raise UserError(wrong)
        return False


def _nothing(line: str) -> None:
    """Say nothing."""


def is_trained(experiment: Experiment) -> bool:
    """Whether what ``train.json`` tells of is the run that the experiment decides on."""
    return _is_of(experiment, experiment.results_dir / "train.json")


def is_at(experiment: Experiment, rung: int) -> bool:
    """Whether what is noted of a rung is of the run that the experiment decides on."""
    return _is_of(experiment, runs.rung_file(experiment.results_dir, rung))


def _is_of(experiment: Experiment, record: Path) -> bool:
    return (found := _identities(experiment, record)) is not None and found[0] == found[1]


def changed(experiment: Experiment) -> str | None:
    """Say what decides on the training and is another now than ``train.json`` says.

    Returns:
        A few words, or None if nothing is, there is no such record, or it cannot be known.
    """
    if not (experiment.results_dir / "train.json").is_file():
        return None
    if not (experiment.processed_dir / "stats.json").is_file():
        return "no data is prepared as the experiment says now"
    found = _identities(experiment, experiment.results_dir / "train.json")
    return runs.difference(*found) if found else None


def _identities(experiment: Experiment, record: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the identity of the run that a record tells of, and of the one that the experiment decides on.

    The record is ``train.json``, or that of a rung. Both have the number of steps too; None where one is not known.
    """
    try:
        with contextlib.chdir(experiment.root):
            trained = load_record(record)
            decided = experiment.decided()
            identity = runs.identity_of({**job_of(experiment), **experiment.job}, 1)
            known, steps = trained["identity"], trained["path"][-1]["steps"]
    except (UserError, OSError, LookupError, TypeError):
        return None
    # The model's configuration may not have been written anew, and the batch may depend on how many processes train.
    identity["model"] = {**experiment.model, **decided}
    if experiment.job["training"]["global_batch_size"] <= 0:
        identity["global_batch_size"] = known.get("global_batch_size")
    now = {**identity, "training.steps": experiment.job["training"]["steps"]}
    return {**known, "training.steps": steps}, json.loads(json.dumps(now))
