"""Several processes of a training: what each is told, and that all end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from lt25.errors import UserError
from lt25.launch import Launch
from lt25.training import processes
from lt25.training.processes import STATUS
from tests import tiny

# Stands for a trainer: it says that it is there, and ends a little after a signal, as one that saves a checkpoint does.
TRAINER = """
import os, signal, sys, time
from pathlib import Path
rank = int(os.environ["RANK"])
for number, status in ((2, 130), (15, 143), (10, 124)):
    signal.signal(number, lambda *_, status=status: (time.sleep(0.2 * rank), Path(f"ended-{rank}").touch(), os._exit(status)))
Path(f"pid-{rank}.part").write_text(str(os.getpid()))
os.rename(f"pid-{rank}.part", f"pid-{rank}")
if "fail" in sys.argv and rank == 0:
    sys.exit(3)
time.sleep(60)
"""
LAUNCHER = """
import os, sys
sys.argv[0] = "lt25"  # so that importing lt25 leaves torch alone
from lt25.launch import Launch
from lt25.training.processes import run
sys.exit(run(Launch(2), [sys.executable, "trainer.py", *sys.argv[1:]], os.environ))
"""


@pytest.fixture
def launcher(tmp_path):
    """A function that starts a launcher of two processes, which are there; all of them end with the test."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    started = []

    def start(*arguments):
        command = [sys.executable, "-c", LAUNCHER, *arguments]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=tiny.environment(), stderr=subprocess.PIPE, text=True)
        )
        wait_for(lambda: all((tmp_path / f"pid-{rank}").exists() for rank in (0, 1)))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def wait_for(seen, seconds=60):
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def are_gone(folder):
    pids = [int((folder / f"pid-{rank}").read_text()) for rank in (0, 1)]
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.parametrize("number", list(STATUS))
def test_a_signal_to_the_first_process_stops_all_and_each_has_time_to_save(launcher, tmp_path, number):
    started = launcher()
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (STATUS[number], "")
    assert (tmp_path / "ended-0").exists() and (tmp_path / "ended-1").exists()
    assert are_gone(tmp_path)


def test_a_killed_launcher_leaves_nothing_running(launcher, tmp_path):
    launcher().kill()
    wait_for(lambda: are_gone(tmp_path))


def test_when_one_process_fails_the_others_are_ended(launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules[__name__],
        "LAUNCHER",
        LAUNCHER.replace("sys.exit", "run.__globals__.update(PATIENCE=0.2)\nsys.exit"),
    )
    started = launcher("fail")
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (3, "")
    assert are_gone(tmp_path)


def test_a_process_that_the_system_ends_is_named_in_one_line(launcher, tmp_path):
    started = launcher()
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    said = started.stderr.readline()
    assert (
        said == "lt25: process 1 of this node was ended by SIGKILL: the same command goes on from the last checkpoint\n"
    )
    os.kill(int((tmp_path / "pid-0").read_text()), signal.SIGTERM)
    assert (started.wait(timeout=60), started.stderr.read()) == (137, "")


def test_each_process_knows_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = (
        "import os; open(os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in ('LOCAL_RANK', 'WORLD_SIZE')))"
    )
    command = [sys.executable, "-c", script]
    assert processes.run(Launch(2), command, os.environ) == 0
    monkeypatch.setattr(processes, "_meet", lambda launch, host, port: launch.node_rank)
    assert processes.run(Launch(1, 3, node_rank=2, address=("localhost", 123)), command, os.environ) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "0 2", "1": "1 2", "2": "0 3"}


@pytest.mark.parametrize("given", [(None, None, None), (2, 1, 0)])
def test_nodes_meet_and_agree_on_their_numbers_or_have_them(monkeypatch, given):
    port = processes.free_port()
    three = [Launch(1, 3, node_rank=rank, address=("localhost", port)) for rank in given]
    with ThreadPoolExecutor(3) as nodes:
        found = list(nodes.map(lambda launch: processes._meet(launch, "localhost", port), three))
    assert sorted(found) == [0, 1, 2] and (given[0] is None or found == list(given))
    monkeypatch.setattr(processes, "MEETING", 0.2)
    with pytest.raises(UserError, match="NNODE: 3 nodes were to come, and 1 did: start the same command on each"):
        processes._meet(three[2], "localhost", port)


def test_an_address_at_which_nobody_is_and_a_port_that_is_taken_are_one_line(monkeypatch):
    monkeypatch.setattr(processes, "MEETING", 0.2)
    port = processes.free_port()
    with pytest.raises(UserError, match=rf"^MASTER_ADDR: no node answers at localhost:{port}: start the same command"):
        processes._meet(Launch(1, 2, node_rank=1, address=("localhost", port)), "localhost", port)
    with (
        socket.create_server(("", port)),
        pytest.raises(UserError, match=f"^MASTER_PORT: {port} cannot be had on this node"),
    ):
        processes._meet(Launch(1, 2, node_rank=0, address=("localhost", port)), "localhost", port)
