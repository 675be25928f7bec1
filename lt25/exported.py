"""Exported models by name: of an experiment, or any folder of a model."""

import os
from pathlib import Path
from typing import Any

from lt25 import files, plugins
from lt25.errors import UserError
from lt25.experiment import Experiment, load_experiment, plugin_names, project_root
from lt25.models.families import FAMILIES
from lt25.tasks import TASKS

_DOES = {
    "language_modeling": "a language model",
    "classification": "a classifier",
    "speech_recognition": "a speech recogniser",
}


def exported_model(name: str, task: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an exported model and its config, after comparing it with its record if it has one.

    Args:
        name: an experiment, or a folder.
        task: what the model is to be for.

    Raises:
        UserError: if there is none, or it is for something else.
    """
    folder = _folder(name, task)
    config = files.read_json(folder / "config.json", "name the folder of an exported model")
    if (folder / "export.json").exists():
        files.believe(folder / "export.json", f"lt25 export {name}")
    if (model_type := str(config.get("model_type"))) not in FAMILIES:
        raise UserError(
            f"{folder / 'config.json'}: model_type: found {model_type}, expected one of {', '.join(FAMILIES)}: for a model "
            f"of your own be in the project whose config/config.yaml has it in `plugins`"
        )
    architecture, wanted = str((config.get("architectures") or ["none"])[0]), TASKS[task].auto_model
    # The classes of a family that has one kind of model alone may be called anything.
    is_known = tuple(FAMILIES[model_type].heads) == (wanted,)
    if not is_known and not architecture.endswith(suffix := wanted.removeprefix("AutoModel")):
        raise UserError(f"{folder}: found {architecture}, expected {_DOES[task]} (...{suffix}): name another model")
    return folder, config


def experiment_of(name: str) -> Experiment | None:
    """Return the experiment that a name means, or None if it is that of a folder."""
    return None if _is_folder(name) else load_experiment(name)


def _is_folder(name: str) -> bool:
    return os.sep in name or (Path(name).expanduser() / "config.json").is_file()


def _folder(name: str, task: str) -> Path:
    if _is_folder(name):
        given = Path(name).expanduser()
        if not (given / "config.json").is_file():
            raise UserError(
                f"{name}: no config.json, so no exported model here: name a folder that `lt25 export` has made"
            )
        # Models of a project's own families are known in the project only.
        if any((folder / "config" / "experiments").is_dir() for folder in (Path.cwd(), *Path.cwd().parents)):
            plugins.load(project_root(), plugin_names(project_root()))
        return given
    experiment = load_experiment(name)
    if experiment.task != task:
        raise UserError(f"{name}: does {experiment.task}: expected an experiment of {task}")
    if not (experiment.results_dir / "hf" / "config.json").is_file():
        raise UserError(f"{experiment.results_dir / 'hf'}: no config.json: run `{experiment.commands('export')}` first")
    return experiment.results_dir / "hf"
