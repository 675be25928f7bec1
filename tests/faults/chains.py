"""Tiny chains of the three tasks, and lt25's commands as processes that are forked from one which has imported everything."""

import json
import multiprocessing
import os
import shutil
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.workflow import chain

EXPERIMENTS = chain.EXPERIMENTS

# A process's status can be read once, and starting one reads that of all others: where threads did so at the same time, the later
# would be told 255.
_status = threading.Lock()

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "lt25.training.__main__",
        "lt25.checkpoints.convert",
        "lt25.evaluation.run",
        "lt25.report.page",
        "lt25.data.prepare",
        *(f"lt25.{stage}.{task}" for stage in ("data", "evaluation", "report") for task in EXPERIMENTS.values()),
    ]
)


def _command(root: Path, arguments: list[str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(tiny.environment())
    os.chdir(root)
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(opened, descriptor)
    torch.set_num_threads(1)
    from lt25 import cli
    from lt25.training.__main__ import main

    def start_trainer(_: str, command: list[str], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        sys.exit(main(command[3:]))

    os.execve = start_trainer
    sys.exit(cli.main(arguments))


def lt25(root: Path, *arguments: str) -> SimpleNamespace:
    """Run a command in a project; return its ``returncode`` and what it printed, ``output``."""
    output = root / "output.txt"
    process = _forks.Process(target=_command, args=(root, list(arguments), output))
    with _status:
        process.start()
    wait([process.sentinel], timeout=300)
    with _status:
        if process.exitcode is None:
            process.kill()
            process.join()
    return SimpleNamespace(returncode=process.exitcode, output=output.read_text(errors="replace"))


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
