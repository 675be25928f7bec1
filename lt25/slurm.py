"""A training in a batch job of Slurm: it becomes a step of the job, on each of its nodes, and requeues the job when time is up.

``lt25 train`` in a batch script starts ``srun lt25 train``, once on each node. Slurm sends its signals to steps and spares the
batch script, so that the trainers save a checkpoint and stop, while the script lives on to have the job requeued. The job comes
back as it was submitted, and training goes on from the checkpoint.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from lt25.errors import UserError
from lt25.launch import MEETING

TIME_IS_UP, TERMINATED = 124, 143

# Jobs that share a node meet at different ports.
PORTS = range(20_000, 30_000)

# Seconds in which Slurm ends a job that it has requeued or preempts: a partition's GraceTime may be long.
END = 3600


def batch_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the number of the Slurm job whose batch script runs this process; None elsewhere, and inside a step."""
    return None if "SLURM_STEP_ID" in environment else environment.get("SLURM_JOB_ID")


def meeting(job: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that say where the job's nodes meet: at this one, the first; what is set already stays."""
    port = PORTS[int(job) % len(PORTS)]
    return {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(port)} | {
        name: value for name, value in environment.items() if name in ("MASTER_ADDR", "MASTER_PORT") and value
    }


def step(nodes: int, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs ``lt25`` once on each of the job's nodes, with all processors and GPUs that it has there."""
    # The geometry is said in full: the executor of Snakemake takes Slurm's variables out of the environment. A node that stops
    # first does not have the others killed, which may still be saving; those that hang are ended after ten minutes.
    geometry = f"--nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpu-bind=none --input=none"
    ends = f"--kill-on-bad-exit=0 --wait={MEETING}"
    return ["srun", *geometry.split(), *ends.split(), sys.executable, "-m", "lt25.cli", *arguments]


def run(job: str, nodes: int, arguments: Sequence[str]) -> int:
    """Run ``lt25`` as a step of a job and see to what comes after it; return the exit status.

    Args:
        job: the job's number.
        nodes: how many nodes it has.
        arguments: lt25's own, ``["train", "digits"]``.

    Raises:
        UserError: if time is up and Slurm does not requeue the job.
    """
    status = subprocess.call(step(nodes, arguments), env={**os.environ, **meeting(job)})
    if status == TIME_IS_UP:
        _requeue(job, arguments)
    if status in (TIME_IS_UP, TERMINATED):
        # A job that ended by itself now would count as failed. One that is preempted is requeued by Slurm.
        time.sleep(END)
    return status


def _requeue(job: str, arguments: Sequence[str]) -> None:
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"scontrol ended with {done.returncode}"
        raise UserError(
            f"Slurm job {job}: its time is up, and it is not requeued ({reason}): the checkpoint is saved, "
            f"`lt25 {shlex.join(arguments)}` goes on from it"
        )
    print(f"lt25: Slurm job {job}: its time is up; it is requeued and goes on from the checkpoint", flush=True)
