"""The processes of a training on this node: started together, told together to stop, and ended together.

They have the variables that ``torchrun`` gives. Nothing here imports torch.
"""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import NoReturn

from lt25.errors import UserError
from lt25.launch import MEETING, Launch

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 124}
"""Signal -> the exit status of a training that it stops. Slurm sends SIGUSR1 ahead of its limit with ``--signal=USR1@120``."""

PATIENCE = 10
"""Seconds that the others have to end by themselves after a process that failed: they mostly say the same in the end."""

_GOES_ON = "the same command goes on from the last checkpoint"
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def run(launch: Launch, command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command once for each process of this node, and wait for all.

    Signals that stop a training are passed on to every process. Whatever becomes of this process, none of the others is left.

    Args:
        launch: on how many processes and nodes.
        command: the command, the same for each.
        environment: of the processes, without what tells them apart.

    Returns:
        The exit status of the first process that failed, as a shell gives it; 0 if none did.

    Raises:
        UserError: if the other nodes do not come.
    """
    host, port = launch.address if launch.address and launch.nodes > 1 else ("127.0.0.1", free_port())
    # Where another node is missing, torch would wait for less long, and say so in tens of lines.
    node = _meet(launch, host, port) if launch.nodes > 1 else 0
    shared = {"WORLD_SIZE": launch.world_size, "LOCAL_WORLD_SIZE": launch.processes, "GROUP_RANK": node}
    shared |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    processes: list[subprocess.Popen[bytes]] = []
    passed_on: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.append(number)
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in STATUS}
    end_with_this = _end_with(os.getpid())
    try:
        for local in range(launch.processes):
            own = {**shared, "RANK": node * launch.processes + local, "LOCAL_RANK": local}
            variables = {**environment, **{name: str(value) for name, value in own.items()}}
            # In a session of its own, so that Ctrl-C on a terminal reaches it once, through this process.
            process = subprocess.Popen(command, env=variables, start_new_session=True, preexec_fn=end_with_this)
            processes.append(process)
            if passed_on:
                process.send_signal(passed_on[-1])
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at_once() -> None:
    """Until training has its own way to stop, end on a signal with one line and the status that training would have.

    Who starts the processes of a training, and each of them when it begins, calls this.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":
            _say(f"stopped: {_GOES_ON}")
        os._exit(STATUS[signal.Signals(number)])

    for number in STATUS:
        signal.signal(number, stop)


def stop_no_more() -> None:
    """From here on ignore signals: the training is over, and its status stays what it is."""
    for number in STATUS:
        signal.signal(number, signal.SIG_IGN)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes; after a failure the others are killed, if they do not end by themselves."""
    failed, deadline = 0, float("inf")
    running = dict(enumerate(processes))
    while running:
        for rank in [rank for rank, process in running.items() if process.poll() is not None]:
            status = running.pop(rank).returncode
            if status and not failed:
                failed = status if status > 0 else STATUS.get(signal.Signals(-status), 128 - status)
                if status < 0:
                    _say(f"process {rank} of this node was ended by {signal.Signals(-status).name}: {_GOES_ON}")
                # Those that have agreed to stop are left to save what they have.
                if status < 0 or failed not in STATUS.values():
                    deadline = time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            for process in running.values():
                process.kill()
        time.sleep(0.05)
    return failed


def _say(line: str) -> None:
    print(f"lt25: {line}", file=sys.stderr, flush=True)


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child does first: it asks to be killed when its parent ends, in whatever way."""
    # Loaded here, since a child should do little before its program runs.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)

    return ask


def free_port() -> int:
    """Return a port of this node that nobody listens at.

    It lies below those that Linux gives to connections, one of which could take it before the first process listens there.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _meet(launch: Launch, host: str, port: int) -> int:
    """Wait until all nodes are there, and return this node's number.

    The node with NODE_RANK 0, or without that variable the one that has the address, is the first. It numbers the others in the
    order in which they come, of which those with a NODE_RANK keep that.

    Raises:
        UserError: if not all come in time.
    """
    deadline = time.monotonic() + MEETING
    if launch.node_rank:
        _ask(host, port, deadline)
        return launch.node_rank
    try:
        if launch.node_rank is None:
            with socket.socket() as probe:
                probe.bind((host, 0))
        server = socket.create_server(("", port))
    except OSError as error:
        if launch.node_rank == 0:
            raise UserError(f"MASTER_PORT: {port} cannot be had on this node ({error.strerror}): use another") from None
        # Another node has the address, or another process of this machine has the port.
        return _ask(host, port, deadline)
    with server:
        others = []
        try:
            for number in range(1, launch.nodes):
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                other, _ = server.accept()
                other.sendall(f"{number}\n".encode())
                others.append(other)
            # They close first, so that the port is free at once for the trainer.
            for other in others:
                other.settimeout(PATIENCE)
                other.recv(1)
        except TimeoutError:
            raise UserError(
                f"NNODE: {launch.nodes} nodes were to come, and {len(others) + 1} did: start the same command on each"
            ) from None
        finally:
            for other in others:
                other.close()
    return 0


def _ask(host: str, port: int, deadline: float) -> int:
    """Return the number that the first node gives this one."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=PATIENCE) as there:
                there.settimeout(max(deadline - time.monotonic(), 0.01))
                if answer := there.makefile().readline().strip():
                    return int(answer)
        except (OSError, ValueError):
            pass
        time.sleep(0.5)
    raise UserError(
        f"MASTER_ADDR: no node answers at {host}:{port}: start the same command on the first node, whose MASTER_ADDR and "
        "MASTER_PORT are the same on every node"
    )
