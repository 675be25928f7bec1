"""Commands that are forked are as those that are installed: in what they see of their caller, and in how they end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.workflow import chain, forked

# What a command sees; a Snakefile is a program that runs in it.
SEES = """
import json, multiprocessing, os, resource, signal, sys, threading
import torch

signals = {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGCHLD", "SIGHUP", "SIGTERM", "SIGUSR1")}
seen = {
    "environment": {key: value for key, value in os.environ.items() if key != "PATH"},
    "folder": os.getcwd(),
    "arguments": sys.argv,
    "path": [entry for entry in sys.path if entry],
    "umask": os.umask(0),
    "streams": [sys.stdin.read(), os.isatty(1), os.fstat(2).st_ino == os.fstat(1).st_ino],
    "descriptors": len(os.listdir("/proc/self/fd")),
    "threads": [torch.get_num_threads(), threading.active_count()],
    "signals": signals,
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    "sum": torch.ones(1 << 20).sum().item(),
}
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""

ENDS = {
    "0": "sys.exit(0)",
    "3": "sys.exit(3)",
    "-15": "os.kill(os.getpid(), 15)",
    "-9": "os.kill(os.getpid(), 9)",
    "-11": "os.kill(os.getpid(), 11)",
}


def write(root: Path, program: str) -> list[str]:
    """Write a Snakefile; return the arguments of a command that runs it."""
    (root / "Snakefile").write_text(f"import os, sys, time\n{program}\n")
    return ["--cores", "1", "--quiet", "all", "--", "nothing"]


def test_a_forked_command_sees_what_a_real_one_does(tmp_path):
    seen = []
    for folder in (forked.commands(), Path(sys.executable).parent):
        command = [str(folder / "snakemake"), *write(tmp_path, SEES)]
        environment = tiny.environment(OMP_NUM_THREADS="2", SAID="a\nb", PATH=f"{folder}:/usr/bin:/bin")
        subprocess.run(
            command, cwd=tmp_path, env=environment, input="asked\n", text=True, umask=0o27, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
        seen.append(json.loads((tmp_path / "seen.json").read_text()))
        (tmp_path / "seen.json").unlink()
    assert seen[0] == seen[1]
    assert seen[0]["umask"] == 0o27 and seen[0]["streams"][0] == "asked\n" and seen[0]["threads"][0] == 2


@pytest.mark.parametrize("status", ENDS)
def test_a_forked_command_ends_as_it_would(tmp_path, status):
    done = chain.run(tmp_path, "snakemake", *write(tmp_path, ENDS[status]))
    assert done.returncode == int(status), done.stdout


def test_what_it_prints_last_is_there_and_a_thread_that_it_started_is_waited_for(tmp_path):
    program = (
        "import threading\nthreading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()\nsys.exit('last')"
    )
    done = chain.run(tmp_path, "snakemake", *write(tmp_path, program))
    assert (done.returncode, sorted(done.stdout.split())) == (1, ["last", "late"]), done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_to_the_program_reaches_the_command_and_what_it_has_started(tmp_path, number):
    program = """
import signal, subprocess
signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
child = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL))
with open("started", "w") as file:
    file.write(f"{os.getpid()} {child.pid}\\n")
while True:
    time.sleep(0.01)
"""
    command = [str(forked.commands() / "snakemake"), *write(tmp_path, program)]
    process = subprocess.Popen(command, cwd=tmp_path, env=tiny.environment())
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").is_file() or not (tmp_path / "started").read_text().endswith("\n"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == (7 if number == signal.SIGUSR1 else -number)
    for pid in (tmp_path / "started").read_text().split():
        while (status := Path(f"/proc/{pid}/status")).is_file() and "State:\tZ" not in status.read_text():
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.01)


def test_where_importing_would_find_something_else_the_real_command_is_started(tmp_path):
    arguments = write(tmp_path, "print(sys.executable)\nsys.exit(0)")
    assert str(forked.commands()) in chain.run(tmp_path, "snakemake", *arguments).stdout
    assert sys.executable in chain.run(tmp_path, "snakemake", *arguments, RANK="0").stdout
