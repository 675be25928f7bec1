"""From an experiment and its prepared data to a job file that torchtitan runs.

``results/<experiment>/job.toml`` is complete: ``torchrun -m lt25.training --job.config_file`` needs nothing else.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from lt25.checkpoints.foreign import bring
from lt25.config.overrides import note
from lt25.config.sections import JOB
from lt25.data.sounds import contents
from lt25.errors import UserError
from lt25.experiment import DEFAULT, Experiment, digest, load_experiment, plugin_names
from lt25.files import write_text
from lt25.models.starts import compare
from lt25.tasks import TASKS


def write_job(experiment: Experiment) -> Path:
    """Write ``job.toml`` and the model's ``model/config.json`` into the experiment's results directory.

    What it changes of the model that it starts from is printed.

    Returns:
        The path of the job file.

    Raises:
        UserError: if the data is not prepared, the experiment sets a field of the model that the data decides, or the model to
            start from cannot be had or computes something else.
    """
    changes = []
    if experiment.parent:
        parent, where = load_experiment(experiment.parent), f"{experiment.path}: init_from"
        changes = compare(parent.model, experiment.model, experiment.named, where, experiment.parent)
    elif experiment.init_from:
        changes = bring(experiment)
    for line in changes:
        print(line, flush=True)
    for path, text in _texts(experiment).items():
        # A file that says the same keeps its date, by which Snakemake tells whether anything must be done again.
        if not _says(path, text):
            write_text(path, text)
    note(experiment.decisive, experiment.results_dir)
    return experiment.job_file


def is_configured(experiment: Experiment) -> bool:
    """Whether the job file and the model's configuration say what the experiment decides."""
    try:
        return all(_says(path, text) for path, text in _texts(experiment).items())
    except UserError:
        return False


def _texts(experiment: Experiment) -> dict[Path, str]:
    """Return what the files of a job say."""
    decided = experiment.decided()
    if clash := sorted(key for key in decided if experiment.origins.get(f"model.{key}", DEFAULT) != DEFAULT):
        key = clash[0]
        raise UserError(f"{experiment.path}: model.{key}: the data decides it ({decided[key]}): remove the key")
    model = json.dumps({**experiment.model, **decided}, indent=2, sort_keys=True) + "\n"
    return {_model_config(experiment): model, experiment.job_file: job_text(job_of(experiment), model)}


def job_text(job: Mapping[str, Any], model: str) -> str:
    """Return the text of a job file: its sections, with a digest of them and of the text of the model's configuration."""
    return tomli_w.dumps({**job, "lt25": {**job["lt25"], "digest": _digest(job, model)}})


def read_job(path: Path) -> dict[str, Any]:
    """Read a job file, after comparing it and the model's configuration with what was written.

    Returns:
        Its sections; a key of an experiment's sections that it does not name is None.

    Raises:
        UserError: if it is not there, or one of the two files has changed since.
    """
    again = f"run `lt25 configure {path.parent.name.split('@')[0]}`"
    try:
        job = tomllib.loads(path.read_text(encoding="utf-8"))
        lt25 = dict(job["lt25"])
        again = f"run `lt25 configure {lt25['arguments']}`"
        written, model = lt25.pop("digest"), Path(lt25["model_config"]).read_text(encoding="utf-8")
        changed = written != _digest({**job, "lt25": lt25}, model)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: not there: {again}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}): {again}") from None
    if changed:
        raise UserError(
            f"{path}: it or {lt25['model_config']} has changed since it was written: {again}, and set values in the "
            f"experiment's file or on the command line"
        )
    return {**job, **{name: _with_none(job.get(name, {}), section) for name, section in JOB.items()}}


def _digest(job: Mapping[str, Any], model: str) -> str:
    """Return a job's ``lt25.digest``.

    Args:
        job: its sections, without that key.
        model: text of the model's ``config.json``.
    """
    return digest([job, model])[:16]


def _with_none(values: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with None for those keys of a section that TOML, which has no None, leaves out."""
    whole = {name: None for name, key in section.items() if key.keys is None}
    inner = {
        name: _with_none(values.get(name) or {}, key.keys) for name, key in section.items() if key.keys is not None
    }
    return {**whole, **values, **inner}


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _model_config(experiment: Experiment) -> Path:
    return experiment.results_dir / "model" / "config.json"


def job_of(experiment: Experiment) -> dict[str, Any]:
    """Return the sections of an experiment's job file, but for its digest.

    Raises:
        UserError: if a folder of sounds that ``augment`` names is not there, or has none in it.
    """
    augment = {key: value for key, value in experiment.augment.items() if value is not None}
    sounds = contents(augment, TASKS[experiment.task].augment_folders, experiment.root)
    sections = {
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
            "arguments": experiment.arguments,
            "model_config": _shown(_model_config(experiment), experiment),
            "data": _shown(experiment.processed_dir, experiment),
            "init_from": experiment.start or "",
            "augment": json.dumps(augment),
            "sounds": json.dumps(sounds) if sounds else None,
            "probabilities": list(experiment.probabilities),
            "plugins": plugin_names(experiment.root),
        },
        **experiment.job,
    }
    return _drop_none(sections)


def _shown(path: Path, experiment: Experiment) -> str:
    return os.path.relpath(path, experiment.root)


def _drop_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_none(item) for key, item in value.items() if item is not None}
    return value
