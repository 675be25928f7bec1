"""Trainings in processes of their own, on one GPU or several, for benchmarks that compare them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

_START = """
import json, os, sys
from lt25.launch import plan
from lt25.training.processes import run
launch = plan(json.loads(sys.argv[1]))
command = [sys.executable, *sys.argv[3:], "--job.config_file", sys.argv[2]]
sys.exit(run(launch, command, {**os.environ, **launch.environment()}))
"""


# Those that run now: each is the leader of a group of its own, which a terminal's Ctrl-C does not reach.
_running: set[int] = set()


class Failed(Exception):
    """A training that ended with an error or not in time; its message is one line."""


def stop() -> None:
    """End all trainings that run now, and what they have started."""
    for group in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def train(
    job: Path,
    gpus: int,
    parallelism: Mapping[str, int],
    limit: float,
    devices: Iterable[int] | None = None,
    program: Iterable[str] = ("-m", "lt25.training"),
    begin: Callable[[], float] | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Run a job.

    Args:
        job: the job's file; it runs in that folder.
        gpus: how many.
        parallelism: degrees, as in the job.
        limit: seconds.
        devices: the numbers of the GPUs; None for the first.
        program: arguments of Python, before those of the trainer.
        begin: waits until the training may begin and returns the limit from then on. The processes have imported what they need
            meanwhile, if the program waits for a file ``begin`` beside the job.

    Returns:
        The records of the run's metrics, one for each logged step, and what it printed.

    Raises:
        Failed: if it did not end well, or not within the limit.
    """
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    visible = {} if devices is None else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}
    process = subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(dict(parallelism)), job.name, *program],
        cwd=job.parent,
        env={**os.environ, **visible, "NGPU": str(gpus), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _running.add(process.pid)
    try:
        if begin is not None:
            limit = begin()
            (job.parent / "begin").touch()
        limit = max(limit, 0)
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # What this process has started ends with it.
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        last = " ".join(said.split())[-300:]
        raise Failed(f"stopped after {limit:.0f} s: {last}" if limit else "left out: no time left") from None
    finally:
        _running.discard(process.pid)
    if process.returncode:
        wrong = [line for line in said.splitlines() if "rror" in line] or said.splitlines() or ["no message"]
        short = next((line for line in wrong if "out of memory" in line), " / ".join(wrong[:3]))
        raise Failed(short[:600])
    lines = next(job.parent.rglob("metrics.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines], said
