"""The environment's commands as processes that are forked from one which has imported what they need: a second instead of ten.

`commands` gives a folder of programs under the commands' names, to be put first in PATH: whoever calls them, a test, Snakemake or
DVC, gets the real command with its own arguments, folder, environment, streams, umask and status, in a process of its own. A
signal that a program gets is sent to the command and to what that has started. Differently from real ones, a program and its
command are two processes with two numbers: tests that kill one of several, or look for a process, start what is installed.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests import tiny

PRELOADED = (
    "tests.started",
    "lt25.cli",
    "jsonschema",
    "matplotlib.backends.backend_svg",
    "pyarrow.dataset",
    "sklearn.metrics",
    "snakemake.cli",
    "snakemake.report",
    "dvc.cli.parser",
    "dvc.repo",
    "dvc.analytics",
    "dvc.data_cloud",
    "ruamel.yaml",
    "scmrepo.git",
    "smart_open",
)
COMMANDS = ("lt25", "snakemake", "dvc")
# What `python -m` forks too: as these the commands start one another.
MODULES = ("lt25.cli", "lt25.training", "snakemake", "dvc")

# Read as modules are imported. Where one differs from what was found then, the real command is started: so are the processes of
# a training that has several, by RANK.
AT_IMPORT = (
    "PYTHON",
    "LD_",
    "HOME",
    "XDG_",
    "HF_H",
    "HF_D",
    "HF_E",
    "TRANSFORMERS_",
    "TORCH",
    "TRITON_",
    "CUDA_",
    "NUMBA_",
    "LT25_",
    "RANK",
)

# It imports next to nothing, so that calling it takes no time.
PROGRAM = """#!{python} -SE
import json, os, signal, socket, sys
command, arguments = {command!r}, sys.argv[1:]
found = {{name: value for name, value in os.environ.items() if name.startswith({at_import!r})}}
if found != {found!r} or not command and (arguments[:1] != ["-m"] or arguments[1] not in {modules!r}):
    os.execv({python!r}, [{python!r}, *command, *arguments])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    umask = os.umask(0)
    asked = dict(arguments=command + arguments, folder=os.getcwd(), environment=dict(os.environ), umask=umask)
    server.sendall(json.dumps(asked).encode() + b"\\n")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
    status = int(server.recv(9) or 255)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@cache
def commands() -> Path:
    """Start the process that all are forked from, which ends with this one; return the folder of programs."""
    folder = Path(tempfile.mkdtemp(prefix="commands-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, environment = str(folder / "address"), tiny.environment()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.workflow.forked", str(listener.fileno())],
            cwd=tiny.REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(server.communicate)
    found = {name: value for name, value in environment.items() if name.startswith(AT_IMPORT)}
    shared = {"python": sys.executable, "address": address, "found": found, "at_import": AT_IMPORT, "modules": MODULES}
    programs = {name: [str(Path(sys.executable).with_name(name))] for name in COMMANDS}
    for name, command in {**programs, "python": []}.items():
        (folder / name).write_text(PROGRAM.format(command=command, **shared))
        (folder / name).chmod(0o755)
    return folder


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Fork a process for each command that is asked for, until the process of the tests is gone; return in each, as that one."""
    for module in PRELOADED:
        importlib.import_module(module)
    # Threads are not forked, and a lock that one of them holds would never be free again; jemalloc, of pyarrow, sees to its own.
    threads = {task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")} - {"jemalloc_bg_thd"}
    assert len(threads) == 1, f"a module has started threads: {threads}"
    # As in `tests.started`, for what came after it.
    gc.collect()
    gc.freeze()
    # Where the others find the programs, and so one another.
    sys.executable = str(Path(listener.getsockname()).with_name("python"))
    while True:
        ready, _, _ = select.select([0, listener], [], [])
        # Those that have ended are waited for, so that their time counts as the tests'.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if 0 in ready:
            os._exit(0)
        asked, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _answer(asked)
        asked.close()


def _answer(asked: socket.socket) -> dict[str, Any]:
    """Start one command, in which this returns; hand signals on to it and send its status."""
    _, streams, _, _ = socket.recv_fds(asked, 1, 3)
    text = asked.makefile("rb", buffering=0).readline()
    command = os.fork()
    if command == 0:
        os.setpgid(0, 0)
        asked.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return json.loads(text)
    with contextlib.suppress(OSError):
        os.setpgid(command, command)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    end = os.pidfd_open(command)
    while end not in select.select([asked, end], [], [])[0]:
        # Nothing comes from a program that has been killed.
        for number in asked.recv(16) or [signal.SIGKILL]:
            os.killpg(command, number)
    with contextlib.suppress(OSError):
        asked.sendall(str(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])).encode())
    os._exit(0)


def _be(arguments: list[str], folder: str, environment: dict[str, str], umask: int) -> None:
    """Be a command, as Python would be with these arguments."""
    import numpy
    import torch

    from lt25.ops.backends.numba_common import _start_threads

    os.environ.clear()
    os.environ.update(environment)
    os.umask(umask)
    os.chdir(folder)
    tempfile.tempdir = None
    numpy.random.seed()
    _start_threads()
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], folder
            warnings.filterwarnings("ignore", ".*found in sys.modules after import", RuntimeWarning)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        _end(ended.code)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        _end(1)
    _end(None)


def _end(code: object) -> NoReturn:
    """End this process as Python does, but for taking apart all that was imported, which takes a second."""
    status = code if isinstance(code, int) else int(code is not None)
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = 120
    os._exit(status & 255)


if __name__ == "__main__":
    _be(**_serve(socket.socket(fileno=int(sys.argv[1]))))
