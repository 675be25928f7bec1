"""From an experiment and its prepared data to a job file that torchtitan runs.

``results/<experiment>/job.toml`` is complete: ``torchrun -m lt25.training --job.config_file`` needs nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any

import tomli_w

from lt25.errors import UserError
from lt25.experiment import DEFAULT, Experiment, plugin_names
from lt25.files import write_text


def write_job(experiment: Experiment) -> Path:
    """Write ``job.toml`` and the model's ``model/config.json`` into the experiment's results directory.

    Returns:
        The path of the job file.

    Raises:
        UserError: if the data is not prepared, or the experiment sets a field of the model that the data decides.
    """
    stats_file = experiment.processed_dir / "stats.json"
    if not stats_file.is_file():
        raise UserError(f"{_shown(stats_file, experiment)}: not there: run `lt25 prepare {experiment.arguments}` first")
    decided = json.loads(stats_file.read_text())["model"]
    if clash := sorted(key for key in decided if experiment.origins.get(f"model.{key}", DEFAULT) != DEFAULT):
        key = clash[0]
        raise UserError(f"{experiment.path}: model.{key}: the data decides it ({decided[key]}): remove the key")

    config, job = experiment.results_dir / "model" / "config.json", experiment.results_dir / "job.toml"
    texts = {
        config: json.dumps({**experiment.model, **decided}, indent=2, sort_keys=True) + "\n",
        job: tomli_w.dumps(_drop_none(_job(experiment, config))),
    }
    for path, text in texts.items():
        # A file that says the same keeps its date, by which Snakemake tells whether anything must be done again.
        if not path.is_file() or path.read_text() != text:
            write_text(path, text)
    return job


def _job(experiment: Experiment, config: Path) -> dict[str, Any]:
    return {
        "job": {
            "description": f"lt25 experiment {experiment.name}",
            "dump_folder": _shown(experiment.results_dir, experiment),
            "custom_config_module": "lt25.training.job_config",
        },
        "model": {
            "name": experiment.task,
            "flavor": "experiment",
            "hf_assets_path": _shown(experiment.processed_dir, experiment),
        },
        "lt25": {
            "experiment": experiment.name,
            "model_config": _shown(config, experiment),
            "data": _shown(experiment.processed_dir, experiment),
            "init_from": f"results/{experiment.init_from}/hf" if experiment.init_from else "",
            "augment": json.dumps({key: value for key, value in experiment.augment.items() if value is not None}),
            "plugins": plugin_names(experiment.root),
        },
        **experiment.job,
    }


def _shown(path: Path, experiment: Experiment) -> str:
    return os.path.relpath(path, experiment.root)


def _drop_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_none(item) for key, item in value.items() if item is not None}
    return value
