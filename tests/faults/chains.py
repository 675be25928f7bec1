"""Tiny chains of the three tasks, and lt25's commands as processes that are forked from one which has imported everything."""

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pandas as pd
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.workflow import chain

EXPERIMENTS = chain.EXPERIMENTS

# A process's status can be read once, and starting one reads that of all others: where threads did so at the same time, the later
# would be told 255.
_status = threading.Lock()


class _Rank:
    """Stands for the `subprocess.Popen` of a rank, which is forked in place of started: what it needs is imported."""

    def __init__(self, command: list[str], env: dict[str, str], preexec_fn: Callable[[], None], **_: object) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            preexec_fn()
            _be_trainer(command, env)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be_trainer(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Be the trainer that a command would start, to its end."""
    from lt25.training.__main__ import main
    from lt25.training.processes import stop_at_once

    os.environ.clear()
    os.environ.update(environment)
    stop_at_once()
    status = 1
    try:
        status = main(command[3:])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(
    root: Path, arguments: list[str], output: Path, extra: dict[str, str], before: Callable[[], None] | None
) -> None:
    os.environ.clear()
    os.environ.update(tiny.environment(**extra))
    os.chdir(root)
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(opened, descriptor)
    torch.set_num_threads(1)
    from lt25 import cli
    from lt25.training import processes

    os.execve = lambda _, command, environment: _be_trainer(command, environment)
    processes.subprocess = SimpleNamespace(Popen=_Rank)
    # A forked process ignores what its parent ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if before:
        before()
    sys.exit(cli.main(arguments))


class Command:
    """A command of lt25's that runs in a project.

    Args:
        root: the project.
        arguments: of the command line.
        output: where what it prints goes.
        before: is called first in its process.
        extra: variables of its environment.

    Attributes:
        process: its process.
    """

    def __init__(
        self,
        root: Path,
        *arguments: str,
        output: Path | None = None,
        before: Callable[[], None] | None = None,
        **extra: str,
    ) -> None:
        self.output = output or root / "output.txt"
        self.process = tiny.forked(_command, root, list(arguments), self.output, extra, before)
        with _status:
            self.process.start()

    def ended(self, seconds: float) -> bool:
        """Wait for its end, so long at most; return whether it has ended."""
        return bool(wait([self.process.sentinel], timeout=seconds))

    def finish(self) -> SimpleNamespace:
        """Wait for its end, which comes after five minutes at the latest; return ``returncode`` and ``output``."""
        self.ended(300)
        with _status:
            if self.process.exitcode is None:
                self.process.kill()
                self.process.join()
        return SimpleNamespace(returncode=self.process.exitcode, output=self.output.read_text(errors="replace"))


def lt25(root: Path, *arguments: str, **options) -> SimpleNamespace:
    """Run a command in a project, see `Command`; return its ``returncode`` and what it printed, ``output``."""
    return Command(root, *arguments, **options).finish()


STAGES = ("download", "prepare", "configure", "train", "export", "evaluate", "report")


def stage(name: str, experiment: str) -> tuple[str, ...]:
    """Return the command of a stage."""
    return (name, tiny.DATASETS[EXPERIMENTS[experiment]] if name == "download" else experiment)


def build(root: Path, experiment: str) -> None:
    """Carry one experiment through all stages, undisturbed."""
    chain.project(root)
    (root / "config" / "config.yaml").write_text(f"experiments: [{experiment}]\n")
    task = EXPERIMENTS[experiment]
    chain.write_experiment(root, experiment, task, debug={"deterministic": True}, metrics={"log_freq": 1})
    for name in ("download", "prepare", "train", "export", "evaluate", "report"):
        done = lt25(root, *stage(name, experiment))
        assert done.returncode == 0, done.output
    done = lt25(root, "evaluate", experiment, "--export", "--kept")
    assert done.returncode == 0, done.output


def copy(root: Path, to: Path) -> Path:
    """Copy a project, links and dates included."""
    shutil.copytree(root, to, symlinks=True)
    return to


def outcome(root: Path, experiment: str) -> dict:
    """Return all that a chain arrived at, but for times: what two chains must agree in."""
    results = root / "results" / experiment
    found = {}
    for folder in sorted((root / "data" / "processed").glob("*/*")):
        for file in sorted(folder.iterdir()):
            # The training split's table is for people.
            if not file.name.endswith((".damaged", "stats.json", "train.parquet")):
                found[f"prepared/{file.name}"] = file.read_bytes()
        found["stats"] = _without(_json(folder / "stats.json"), "checksum")
    found["model"], found["job"] = _json(results / "model" / "config.json"), (results / "job.toml").read_text()
    trained = _json(results / "train.json")
    found["train"] = {key: trained[key] for key in ("steps", "loss", "fingerprint", "path", "checkpoints", "identity")}
    history = (results / "metrics.jsonl").read_text().splitlines()
    found["history"] = [(line["step"], line.get("loss"), line.get("validation")) for line in map(json.loads, history)]
    for name in ("", "step-2", "step-4"):
        folder = results / "hf" / name
        for file in sorted(folder.iterdir()):
            if file.suffix == ".safetensors":
                found[f"hf/{name}/{file.name}"] = {key: tensor.tolist() for key, tensor in load_file(file).items()}
            elif file.is_file() and not file.name.endswith((".damaged", "README.md", "export.json")):
                found[f"hf/{name}/{file.name}"] = file.read_bytes()
        evaluation = results / "evaluation" / name
        splits = _json(evaluation / "metrics.json")["splits"]
        found[f"metrics/{name}"] = {split: _without(values, "real_time_factor") for split, values in splits.items()}
        found[f"predictions/{name}"] = pd.read_parquet(evaluation / "predictions.parquet").to_dict("list")
    found["report"] = (root / "results" / "report.html").is_file()
    return found


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _without(values: dict, *keys: str) -> dict:
    return {key: value for key, value in values.items() if key not in keys}
