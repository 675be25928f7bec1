"""Tiny chains of the three tasks."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from safetensors.torch import load_file

from tests import tiny
from tests.workflow import chain

EXPERIMENTS = chain.EXPERIMENTS


def lt25(root: Path, *arguments: str) -> SimpleNamespace:
    """Run a command in a project; return its ``returncode`` and what it printed, ``output``."""
    done = chain.run(root, "lt25", *arguments)
    return SimpleNamespace(returncode=done.returncode, output=done.stdout)


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
