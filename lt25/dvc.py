"""``lt25 dvc``: the stages of DVC, written from the experiments that config/config.yaml names.

Each stage lets Snakemake run rules of its own alone, and takes what the stage before left as given. Prepared data and exported
models are versioned; the headline numbers are DVC's metrics, and training curves its plots.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lt25.experiment import Experiment, load_config, load_experiment, project_root
from lt25.files import write_text
from lt25.tasks import TASKS

FILE = "dvc.yaml"

_HEAD = """\
# Written by `lt25 dvc` from config/config.yaml: run it again when an experiment is added there or takes another dataset, and
# after an upgrade of lt25: DVC prepares again if data is prepared otherwise now.
"""


def write_stages() -> str:
    """Write the project's ``dvc.yaml``; return its name.

    Raises:
        UserError: if config/config.yaml or an experiment that it names is not valid.
    """
    write_text(project_root() / FILE, stages([load_experiment(name) for name in load_config()["experiments"]]))
    return FILE


def stages(experiments: Sequence[Experiment]) -> str:
    """Return the text of a ``dvc.yaml``: a stage for each dataset, two for each experiment, and one for the report."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(experiment.dataset.name for experiment in experiments):
        sharing = [experiment for experiment in experiments if experiment.dataset.name == name]
        origin = sharing[0].dataset.origin
        # In the command, so that a version that prepares otherwise has DVC prepare again.
        versions = sorted({f"{one.task} {TASKS[one.task].preparation_version}" for one in sharing})
        found[f"prepare-{_slug(name)}"] = _stage(
            f"download and prepare the data of {name}",
            ("download_dataset", "prepare_data", "configure_job"),
            [f"results/{experiment.name}/job.toml" for experiment in sharing],
            remark=f"as in {', '.join(versions)}",
            deps=[
                f"config/datasets/{name}.yaml",
                *dict.fromkeys(f"config/datasets/{one.name}.yaml" for each in sharing for one in each.further),
                *(str(experiment.path) for experiment in sharing),
                *([str(Path(origin["path"]).expanduser())] if "path" in origin else []),
            ],
            outs=[{f"data/processed/{name}": {"persist": True}}],
        )
    for experiment in experiments:
        name, data = experiment.name, f"data/processed/{experiment.dataset.name}"
        base = {file for file in experiment.origins.values() if file.endswith(".json")}
        start = [f"results/{experiment.parent}/hf"] if experiment.parent else []
        results = f"results/{name}/evaluation"
        found[f"model-{_slug(name)}"] = _stage(
            f"train and export {name}",
            ("configure_job", "train_model", "export_model"),
            [f"results/{name}/hf/config.json"],
            deps=[str(experiment.path), *sorted(base), data, *start],
            outs=[{f"results/{name}/hf": {"persist": True}}],
        )
        found[f"evaluate-{_slug(name)}"] = {
            **_stage(
                f"evaluate {name}",
                ("evaluate_model",),
                [f"{results}/metrics.json"],
                deps=[str(experiment.path), data, f"results/{name}/hf"],
                outs=[{f"{results}/metrics.json": {"persist": True, "cache": False}}],
            ),
            "metrics": [{f"{results}/headline.json": {"persist": True, "cache": False}}],
            "plots": [{f"{results}/curve.csv": {"persist": True, "cache": False, "x": "step", "y": "loss"}}],
        }
    found["report"] = _stage(
        "write the report",
        ("evaluate_curve", "write_report"),
        ["results/report.html"],
        deps=[f"results/{experiment.name}/evaluation/metrics.json" for experiment in experiments],
        outs=[{"results/report.html": {"persist": True, "cache": False}}],
    )
    return _HEAD + yaml.safe_dump({"stages": found}, sort_keys=False, width=10**6, allow_unicode=True)


def _stage(
    desc: str, rules: Sequence[str], targets: Sequence[str], deps: list[str], outs: list[Any], remark: str = ""
) -> dict[str, Any]:
    command = f"snakemake --allowed-rules {' '.join(rules)} -- {shlex.join(targets)}"
    command += f"  # {remark}" if remark else ""
    return {"desc": desc, "cmd": command, "deps": list(dict.fromkeys(deps)), "outs": outs}


def _slug(name: str) -> str:
    """Return a name in which only what DVC admits in a stage's name is left."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)
