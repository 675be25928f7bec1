"""A project with the repository's rules and tiny data of its own, under the names of the demonstration's experiments."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from tests import tiny
from tests.data import make
from tests.workflow.forked import commands

EXPERIMENTS = {"digits": "classification", "spoken-digits": "speech_recognition", "stdlib-lm": "language_modeling"}
NOTHING = "Nothing to be done"

SECRETS = {
    "WANDB_API_KEY": "planted00wandb00" * 2 + "planted0",
    "HF_TOKEN": "hf_planted00hub00planted00hub00",
    "AWS_SECRET_ACCESS_KEY": "planted00s300planted00s300",
}
"""What nothing that is written may repeat."""

WORDS = ("one", "two", "three", "four")


def project(root: Path) -> Path:
    """Make ``root`` a project whose three experiments take seconds."""
    shutil.copy(tiny.REPOSITORY / ".dvcignore", root)
    shutil.copytree(tiny.REPOSITORY / "workflow", root / "workflow")
    shutil.copy(tiny.REPOSITORY / "Snakefile", root)
    # Where snakemake looks for profiles, beside the Snakefile.
    (root / "profiles").symlink_to("workflow/profiles")
    (root / "config" / "experiments").mkdir(parents=True)
    (root / "config" / "datasets").mkdir()
    (root / "config" / "config.yaml").write_text(yaml.safe_dump({"experiments": list(EXPERIMENTS)}))

    rng = np.random.default_rng(0)
    make.image_folder(root / "images", 60)
    texts = [" ".join(rng.choice(WORDS, 2)) for _ in range(40)]
    make.audio_folder(root / "audio", texts)
    for number in range(40):
        text = "".join(f"def {rng.choice(WORDS)}({rng.choice(WORDS)}): return {rng.integers(9)}\n" for _ in range(20))
        make.write(root / "text" / f"module{number}.py", text)
    for name, task, folder in (
        ("digits", "classification", "images"),
        ("spoken-digits", "speech_recognition", "audio"),
        ("stdlib", "language_modeling", "text"),
    ):
        dataset = {
            "title": f"Tiny {name}",
            "licence": "none",
            "tasks": [task],
            "origin": {"path": folder},
            "columns": make.ROLES[task],
            "splits": make.HELD_OUT,
        }
        (root / "config" / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(dataset))
    for name, task in EXPERIMENTS.items():
        write_experiment(root, name, task)
    return root


def write_experiment(root: Path, name: str, task: str, **changes) -> None:
    """Write an experiment file of 6 steps with a checkpoint every 2; keyword arguments update its sections."""
    experiment = {
        "task": task,
        "dataset": tiny.DATASETS[task],
        "prepare": {"language_modeling": {"vocab_size": 280}, "speech_recognition": {"n_mels": 40}}.get(task, {}),
        "model": tiny.MODEL,
        "training": {"steps": 6, "local_batch_size": 4, "mixed_precision_param": "float32"}
        | ({"seq_len": 16} if task == "language_modeling" else {}),
        "optimizer": {"lr": 1e-2},
        "lr_scheduler": {"warmup_steps": 2},
        "checkpoint": {"interval": 2},
        "evaluation": {"new_tokens": 4} if task == "language_modeling" else {},
    }
    for section, values in changes.items():
        experiment[section] = {**experiment.get(section, {}), **values} if isinstance(values, dict) else values
    (root / "config" / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(experiment))


def repository(root: Path) -> Path:
    """Make a project with an experiment one of git and DVC, with everything committed."""
    (root / ".gitignore").write_text("/data\n/results\n.snakemake\n")
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("lt25", "dvc")):
        done = run(root, *command)
        assert done.returncode == 0, done.stdout
    commit(root, "experiments")
    return root


def commit(root: Path, message: str) -> None:
    """Commit everything that git does not ignore."""
    run(root, "git", "add", "--all")
    done = run(root, "git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", message)
    assert done.returncode == 0, done.stdout


def hand_on(root: Path, clone: Path, **extra: str) -> Path:
    """Share a repository's results as its owner does, and fetch them as a colleague does, who has nothing to do then."""
    pushed = run(root, "lt25", "push", **extra)
    assert pushed.returncode == 0 and pushed.stdout.startswith("pushed; "), pushed.stdout
    commit(root, "results")
    run(root, "git", "clone", "--quiet", str(root), str(clone))
    pulled = run(clone, "lt25", "pull", **extra)
    assert pulled.returncode == 0, pulled.stdout
    assert pulled.stdout == "pulled: everything that config/config.yaml names is there and up to date\n"
    planned = snakemake(clone, "--dry-run")
    assert NOTHING in planned.stdout, planned.stdout
    assert json.loads(run(clone, "dvc", "status", "--json", **extra).stdout) == {}
    return clone


def run(root: Path, *command: str, **extra: str) -> subprocess.CompletedProcess:
    """Run a command of the environment that runs the tests, in the project; its output is in ``stdout``."""
    path = f"{commands()}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        [shutil.which(command[0], path=path) or command[0], *command[1:]],
        cwd=root,
        env=tiny.environment(PATH=path, **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=1800,
    )


def plant(root: Path) -> None:
    """Put a secret where DVC keeps those of a remote, apart from what git is given."""
    secret = SECRETS["AWS_SECRET_ACCESS_KEY"]
    (root / ".dvc" / "config.local").write_text(
        f"['remote \"private\"']\n    url = s3://lt25\n    secret_access_key = {secret}\n"
    )


def holders(folder: Path) -> list[Path]:
    """Return the files below a folder that hold a planted secret, but for the one that it was put into."""
    secrets = [secret.encode() for secret in SECRETS.values()]
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "config.local")
    return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]


def snakemake(root: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess:
    """Run snakemake as the docs print it."""
    return run(root, "snakemake", *arguments, **extra)
