"""``lt25 export``: a checkpoint becomes a Hugging Face folder that needs nothing else to be used."""

import shutil
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from lt25.checkpoints.card import model_card
from lt25.checkpoints.convert import read_weights
from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import publish, read_json, temporary, write_json, write_text
from lt25.models.auto import auto_class, read_config

# What the prepared data has that a user of the model needs beside the weights.
_ASSETS = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
)


def export(experiment: Experiment, step: int | None = None) -> Path:
    """Export an experiment's checkpoint to ``hf/``, or that of a given step to ``hf/step-N/``.

    Without a step it is the last one or, with ``checkpoint.keep: best``, the best.

    The folder has safetensors, ``config.json``, the tokenizer or feature extractor, a model card, and ``export.json``, which
    says what it was made from.

    Raises:
        UserError: if the experiment is not trained, or the step's checkpoint is not kept or is damaged.
    """
    trained = read_json(experiment.results_dir / "train.json", f"run `lt25 train {experiment.arguments}` first")
    number = step
    if step is None:
        number = (trained.get("best") or {"step": trained["steps"]})["step"]
    if number not in trained["checkpoints"]:
        there = ", ".join(map(str, trained["checkpoints"])) or "none"
        raise UserError(f"{experiment.name}: no checkpoint of step {number} is kept: there are {there}")
    weights = read_weights(experiment.results_dir / trained["run_dir"] / "checkpoints" / f"step-{number}")

    config = read_config(experiment.results_dir / "model")
    with torch.device("meta"):
        model = auto_class(experiment.task).from_config(config)
    model.load_state_dict(weights, assign=True)

    folder = experiment.results_dir / "hf"
    folder = folder if step is None else folder / f"step-{step}"
    stats = read_json(experiment.processed_dir / "stats.json", f"run `lt25 prepare {experiment.arguments}` first")
    record = {
        "experiment": experiment.name,
        "task": experiment.task,
        "step": number,
        "fingerprint": f"{trained['fingerprint']}-{number}",
        "dataset": experiment.dataset.name,
        "data": stats["fingerprint"],
        "parameters": trained["parameters"],
    }
    disable_progress_bar()
    with temporary(folder) as partial:
        model.save_pretrained(partial)
        for name in _ASSETS:
            if (asset := experiment.processed_dir / name).is_file():
                shutil.copy(asset, partial / name)
        write_json(partial / "export.json", record)
        write_text(partial / "README.md", model_card(experiment, trained, stats, number))
        _replace_files(partial, folder)
    return folder


def _replace_files(partial: Path, folder: Path) -> None:
    """Move a finished folder into place, keeping the exports of other steps that stand in the old one."""
    folder.mkdir(parents=True, exist_ok=True)
    # config.json goes first and comes last: without it nothing takes the folder for a model.
    for old in sorted(folder.iterdir(), key=lambda file: file.name != "config.json"):
        if old.is_file():
            old.unlink()
    for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
        publish(file, folder / file.name)
