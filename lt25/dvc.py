"""DVC: ``lt25 dvc`` writes its stages from the experiments of config/config.yaml, ``lt25 push`` and ``lt25 pull`` share results.

Each stage lets Snakemake run rules of its own alone, and takes what the stage before left as given. Prepared data, exported
models and evaluations are versioned, and the records on which Snakemake decides what is to be done; step checkpoints are not.
The headline numbers are DVC's metrics, and training curves its plots.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lt25.errors import UserError
from lt25.experiment import Experiment, check_shown, has_curve, load_config, load_experiments, project_root
from lt25.files import write_text
from lt25.progress import say
from lt25.tasks import TASKS

FILE = "dvc.yaml"

_HEAD = """\
# Written by `lt25 dvc` from config/config.yaml: run it again when an experiment is added there or takes another dataset, and
# after an upgrade of lt25: DVC prepares again if data is prepared otherwise now.
"""

NOTHING = "Nothing to be done"


def write_stages() -> str:
    """Write the project's ``dvc.yaml``; return its name.

    Raises:
        UserError: if config/config.yaml or an experiment that it names is not valid, or a sweep that it names stops runs early.
    """
    settings = load_config()
    shown = {one.name: one for name in settings["experiments"] for one in load_experiments(name)}
    check_shown(shown.values(), settings["experiments"])
    text = stages([*shown.values()], settings["learning_curves"])
    file = project_root() / FILE
    if not file.is_file() or file.read_text() != text:
        write_text(file, text)
    return FILE


def push() -> None:
    """Record what Snakemake or DVC has built in ``dvc.lock``, and send it to DVC's remote.

    Raises:
        UserError: if something is still to be built, or DVC fails: there is no remote, or it is out of reach.
    """
    write_stages()
    if NOTHING not in (planned := _run("snakemake", "--dry-run")):
        rules = sorted({*re.findall(r"^(\w+) +\d+$", planned, re.MULTILINE)} - {"total", "all"})
        raise UserError(f"lt25 push: results are not up to date ({', '.join(rules)} to run): run `snakemake` first")
    _run("dvc", "commit", "--force", "--quiet")
    _transfer("push")
    say(f"pushed; share it by `git add {FILE} dvc.lock`, a commit and `git push`")


def pull() -> None:
    """Fetch what ``dvc.lock`` names from DVC's remote, and have Snakemake take it as built.

    Raises:
        UserError: if DVC fails, or ``dvc.lock`` is of other experiment files than there are.
    """
    _transfer("pull")
    # Files that were fetched are newer than what they are made from, in no order that means anything. Touching them says that
    # they are up to date, which only DVC knows.
    if changed := json.loads(_run("dvc", "status", "--json")):
        raise UserError(
            f"lt25 pull: fetched, but dvc.lock is of other files than there are ({', '.join(changed)}): "
            "undo the change and pull again, or run `snakemake`, which builds anew"
        )
    _run("snakemake", "--touch", "--forceall", "--cores", "1", "all")
    say("pulled: everything that config/config.yaml names is there and up to date")


def _transfer(direction: str) -> None:
    """Let DVC push or pull; what it says where a remote does not answer, or lacks a file, leaves that open."""
    try:
        _run("dvc", direction)
    except UserError as error:
        if "no remote specified" in str(error):
            raise UserError(
                f"lt25 {direction}: no remote specified: `dvc remote add --default store FOLDER` adds one, see docs/dvc.md"
            ) from None
        raise UserError(
            f"{error}: see that DVC's remote is within reach (`dvc remote list`) and was sent what dvc.lock names (`lt25 push`)"
        ) from None


def _run(*command: str) -> str:
    """Run a program of this environment in the project; return what it printed on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=project_root(), capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        errors = (
            [line for line in lines if re.match(r"(ERROR|lt25: error|\w*Error)", line)] or lines[-1:] or ["no word"]
        )
        said = errors[0].removeprefix("ERROR: ")
        # A line that only announces others.
        said += f" {lines[lines.index(errors[0]) + 1]}" if said.endswith(":") and errors[0] != lines[-1] else ""
        raise UserError(f"{' '.join(command[:2])}: {said}")
    return done.stdout + done.stderr if command[0] == "snakemake" else done.stdout


def stages(experiments: Sequence[Experiment], learning_curves: bool = True) -> str:
    """Return the text of a ``dvc.yaml``: stages for each dataset and each experiment, and one for the report.

    Args:
        experiments: what the report shows.
        learning_curves: whether the kept steps are evaluated too, as config/config.yaml says.
    """
    found: dict[str, Any] = {}
    for dataset in {one.name: one for experiment in experiments for one in experiment.datasets}.values():
        origin, source = dataset.origin, f"data/raw/{dataset.name}/SOURCE.json"
        found[f"acquire-{_slug(dataset.name)}"] = _stage(
            f"fetch the dataset {dataset.name}",
            ("download_dataset",),
            [source],
            deps=[
                f"config/datasets/{dataset.name}.yaml",
                *([str(Path(origin["path"]).expanduser())] if "path" in origin else []),
            ],
            outs=[source],
        )
    for name in dict.fromkeys(experiment.dataset.name for experiment in experiments):
        sharing = [experiment for experiment in experiments if experiment.dataset.name == name]
        # In the command, so that a version that prepares otherwise has DVC prepare again.
        versions = sorted({f"{one.task} {TASKS[one.task].preparation_version}" for one in sharing})
        jobs = [f"results/{experiment.name}/job.toml" for experiment in sharing]
        found[f"prepare-{_slug(name)}"] = _stage(
            f"prepare the data of {name} and write the jobs that train on it",
            ("prepare_data", "configure_job"),
            jobs,
            remark=f"as in {', '.join(versions)}",
            deps=[
                *(f"data/raw/{one.name}/SOURCE.json" for each in sharing for one in each.datasets),
                # They say which examples are held out.
                *(f"config/datasets/{one.name}.yaml" for each in sharing for one in each.datasets),
                *(str(experiment.path) for experiment in sharing),
                *sorted(file for each in sharing for file in set(each.origins.values()) if file.endswith(".json")),
                # The job has a hash of what is in a folder of sounds.
                *sorted({folder for each in sharing for folder in _sounds(each)}),
            ],
            outs=[f"data/processed/{name}", *jobs, *(f"results/{one.name}/model/config.json" for one in sharing)],
        )
    for experiment in experiments:
        name, data = experiment.name, f"data/processed/{experiment.dataset.name}"
        results = f"results/{name}"
        start = [f"results/{experiment.parent}/hf"] if experiment.parent else []
        found[f"train-{_slug(name)}"] = _stage(
            f"train {name}",
            ("train_model",),
            [f"{results}/train.json"],
            deps=[f"{results}/job.toml", f"{results}/model/config.json", data, *start],
            outs=[f"{results}/train.json", f"{results}/metrics.jsonl"],
        )
        found[f"export-{_slug(name)}"] = _stage(
            f"export {name}",
            ("export_model",),
            [f"{results}/hf/config.json"],
            # The job says of how many checkpoints.
            deps=[f"{results}/train.json", f"{results}/job.toml"],
            outs=[f"{results}/hf"],
        )
        curve = [f"{results}/evaluation/steps.json"] if has_curve(experiment, learning_curves) else []
        found[f"evaluate-{_slug(name)}"] = _stage(
            f"evaluate {name}",
            ("evaluate_model", *(["evaluate_curve"] if curve else [])),
            [f"{results}/evaluation/metrics.json", *curve],
            deps=[str(experiment.path), data, f"{results}/hf"],
            outs=[f"{results}/evaluation"],
        )
    found["report"] = _stage(
        "write the report",
        ("write_report",),
        ["results/report.html"],
        deps=[f"results/{experiment.name}/evaluation" for experiment in experiments],
        outs=["results/report.html"],
    )
    folders = [f"results/{experiment.name}/evaluation" for experiment in experiments]
    # Every experiment's own plot, and one of all losses together.
    curves = {f"{folder}/curve.csv": {"x": "step", "y": "loss"} for folder in folders}
    together = {"x": "step", "y": {f"{folder}/curve.csv": "loss" for folder in folders}}
    described = {
        "stages": found,
        "metrics": [f"{folder}/headline.json" for folder in folders],
        "plots": [{"training loss": together}, *({file: axes} for file, axes in curves.items())],
    }
    return _HEAD + yaml.safe_dump(described, sort_keys=False, width=10**6, allow_unicode=True)


def _sounds(experiment: Experiment) -> list[str]:
    named = (experiment.augment.get(key) for key in TASKS[experiment.task].augment_folders)
    return [str(Path(folder).expanduser()) for folder in named if folder]


def _stage(
    desc: str, rules: Sequence[str], targets: Sequence[str], deps: list[str], outs: list[str], remark: str = ""
) -> dict[str, Any]:
    command = f"snakemake --allowed-rules {' '.join(rules)} -- {shlex.join(targets)}"
    command += f"  # {remark}" if remark else ""
    # What is there is kept while a stage runs: Snakemake and lt25 see for themselves what of it is still good.
    kept = [{out: {"persist": True}} for out in outs]
    return {"desc": desc, "cmd": command, "deps": list(dict.fromkeys(deps)), "outs": kept}


def _slug(name: str) -> str:
    """Return a name in which only what DVC admits in a stage's name is left."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)
