"""On what a job is started: how many processes, nodes and GPUs, and in which environment.

The command line, the rules and their GPUs all ask here. Nothing here imports torch, so that mistakes are answered at once.
"""

import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lt25.errors import UserError

Environment = Mapping[str, str]
Parallelism = Mapping[str, Any]

# Of torchtitan's degrees of parallelism those whose product is the number of processes; -1 shards over whatever is left.
DEGREES = {
    "data_parallel_shard_degree": -1,
    "data_parallel_replicate_degree": 1,
    "context_parallel_degree": 1,
    "tensor_parallel_degree": 1,
    "pipeline_parallel_degree": 1,
}
PORT = 29500
# Threads of a process that trains on a GPU, at most.
GPU_THREADS = 8

# Processes that a core may have where there is no GPU: a few show that an experiment works, thousands end the machine.
MOST_ON_A_CORE = 8

# Seconds that a node waits for the others.
MEETING = 600

# How many threads a process has, for the libraries that read it when they are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

# How often a thread of OpenMP looks for new work before it sleeps. Without a limit for this it looks for milliseconds, in which
# the processor is of no use to anybody else: benchmarks/threads.py measures both.
WAITING = {"OMP_WAIT_POLICY": "passive"}

_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")


@dataclass(frozen=True)
class Launch:
    """What a job is started on.

    Attributes:
        processes: on this node; one for each GPU.
        nodes: how many nodes take part, each with as many processes.
        device: "cuda" or "cpu".
        node_rank: this node's number, or None to let the nodes agree on it.
        address: host and port where several nodes meet.
    """

    processes: int
    nodes: int = 1
    device: str = "cpu"
    node_rank: int | None = None
    address: tuple[str, int] | None = None

    @property
    def world_size(self) -> int:
        return self.processes * self.nodes

    def environment(self, environment: Environment = os.environ) -> dict[str, str]:
        """Return the variables to add to the environment of the command: how many threads each process has.

        Each of several gets its part of the cores. One that trains on a GPU has few even if it is alone, because others may train
        beside it: with a thread for each core, 12 of them on one machine waited for threads most of the time.
        """
        if "OMP_NUM_THREADS" in environment or (self.processes == 1 and self.device == "cpu"):
            return {}
        threads = max(len(os.sched_getaffinity(0)) // self.processes, 1)
        # Beside a GPU the threads only make batches: 16 in each process were no faster than 8 on two GPUs.
        return {"OMP_NUM_THREADS": str(min(threads, GPU_THREADS) if self.device == "cuda" else threads)}

    def meeting(self) -> str | None:
        """Return a line that says what the processes of several nodes wait for before they start; None for one node.

        Raises:
            UserError: if no such host is known here.
        """
        if self.nodes == 1 or self.address is None:
            return None
        host, port = self.address
        try:
            socket.getaddrinfo(host, port)
        except OSError as error:
            raise UserError(
                f"MASTER_ADDR: found {host}, which is no host that is known here ({error.strerror})"
            ) from None
        others = "the other node" if self.nodes == 2 else f"{self.nodes - 1} other nodes"
        return f"waiting at {host}:{port} for {others} to start the same command, at most {MEETING // 60} minutes"


def plan(parallelism: Parallelism, environment: Environment = os.environ, where: str = "") -> Launch:
    """Decide on what a job is started.

    Args:
        parallelism: the experiment's section of that name.
        environment: NGPU, NNODE, NODE_RANK, MASTER_ADDR, MASTER_PORT and CUDA_VISIBLE_DEVICES are read.
        where: the experiment's file, to begin a message about its degrees with.

    Raises:
        UserError: if a variable has no sense, asks for more GPUs than are visible or more processes than the cores bear, or does
            not fit the degrees of parallelism.
    """
    nodes = _number(environment, "NNODE", 1) or 1
    rank = _number(environment, "NODE_RANK", 0, nodes - 1)
    port = _number(environment, "MASTER_PORT", 1, 65535) or PORT
    host = environment.get("MASTER_ADDR")
    if nodes > 1 and not host:
        raise UserError(f"MASTER_ADDR: missing, but NNODE is {nodes}: set it to the host name of the first node")
    visible = visible_gpus(environment)
    processes = _number(environment, "NGPU", 1) or _wanted(parallelism, visible * nodes) // nodes or 1
    cores = len(os.sched_getaffinity(0))
    if not visible and processes > MOST_ON_A_CORE * cores:
        raise UserError(
            f"NGPU: asks for {processes} processes on the {cores} cores of this node: ask for {MOST_ON_A_CORE * cores} at most"
        )
    if visible and processes > visible:
        source = "NGPU" if environment.get("NGPU") else f"{where}: parallelism" if where else "parallelism"
        raise UserError(f"{source}: asks for {processes} GPUs on this node, but {visible} are visible: ask for fewer")
    _check_degrees(parallelism, processes * nodes, f"{where}: " if where else "")
    return Launch(processes, nodes, "cuda" if visible else "cpu", rank, (host, port) if host else None)


def gpus(parallelism: Parallelism, environment: Environment = os.environ) -> int:
    """Return how many GPUs a rule reserves for a training on one node.

    They are the product of the experiment's degrees of parallelism. Where these leave it open, they are NGPU, or what is visible
    here, and where nothing is, as many as the other degrees need: the job may be sent to a node that has them.

    Raises:
        UserError: if NGPU or CUDA_VISIBLE_DEVICES has no sense.
    """
    number = _number(environment, "NGPU", 1) or visible_gpus(environment)
    return _wanted(parallelism, number)


def shards(parallelism: Parallelism, processes: int) -> int:
    """Return the degree of sharding that a job has with so many processes, of which `plan` has found that its degrees fit.

    Args:
        parallelism: the experiment's section of that name, where it may be -1, whatever the other degrees leave.
        processes: on all nodes together.
    """
    degree = _degrees(parallelism)["data_parallel_shard_degree"]
    return processes // abs(math.prod(_degrees(parallelism).values())) if degree == -1 else degree


def waiting(environment: Environment = os.environ) -> dict[str, str]:
    """Return the variables to add to a process's environment so that its threads leave the processor to others as they wait.

    They are none if the environment has a policy of its own.

    Raises:
        UserError: if the environment has numbers of threads that are none, of which each library would make something else.
    """
    for name in THREADS:
        for level in environment.get(name, "").split(","):
            _number({name: level}, name, 1)
    own = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & environment.keys()
    return {} if own else WAITING


def visible_gpus(environment: Environment = os.environ) -> int:
    """Return the number of GPUs that CUDA_VISIBLE_DEVICES names, or without it of those that nvidia-smi lists.

    Raises:
        UserError: if it names what cannot be a GPU, one twice, or a number that this machine does not have.
    """
    if (named := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return _installed_gpus()
    names = [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    where = f"CUDA_VISIBLE_DEVICES: found {named!r}"
    if not all(_GPU.fullmatch(name) for name in names) or len(set(names)) < len(names):
        raise UserError(
            f"{where}, expected numbers of GPUs, each once: 0,1; or their names, GPU-...; or nothing for none"
        )
    installed = _installed_gpus() if names else 0
    if installed and (beyond := [name for name in names if name.isdigit() and int(name) >= installed]):
        raise UserError(f"{where}, but there is no GPU {beyond[0]}: this machine has 0 to {installed - 1}")
    return len(names)


@cache
def _installed_gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def _number(environment: Environment, name: str, least: int, most: int | None = None) -> int | None:
    """Return a variable's number, or None if it is empty or not set."""
    if not (text := environment.get(name, "").strip()):
        return None
    if text.isascii() and text.isdigit() and least <= int(text) <= (math.inf if most is None else most):
        return int(text)
    bound = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise UserError(f"{name}: found {text!r}, expected a whole number {bound}")


def _degrees(parallelism: Parallelism) -> dict[str, int]:
    return {name: parallelism.get(name, default) for name, default in DEGREES.items()}


def _wanted(parallelism: Parallelism, available: int) -> int:
    """Return the number of processes that the degrees fix; if they leave it open, the available ones or the fewest possible."""
    product = math.prod(_degrees(parallelism).values())
    return product if product > 0 else available or -product


def _check_degrees(parallelism: Parallelism, processes: int, where: str) -> None:
    degrees = _degrees(parallelism)
    product = math.prod(degrees.values())
    is_open = product < 0
    if (processes % product) if is_open else (processes != product):
        said = ", ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1) or "no parallelism"
        raise UserError(
            f"{where}parallelism: {said} takes {'a multiple of ' if is_open else ''}{abs(product)} processes, and there are "
            f"{processes}: set NGPU and NNODE, or change a degree"
        )
