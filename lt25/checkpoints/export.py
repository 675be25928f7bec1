"""``lt25 export``: a checkpoint becomes a Hugging Face folder that needs nothing else to be used."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lt25.checkpoints.card import model_card
from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import publish, read_json, temporary, write_json, write_text
from lt25.importing import without_compiler, without_garbage

# What the prepared data has that a user of the model needs beside the weights.
_ASSETS = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
)


def export(experiment: Experiment, steps: Sequence[int] = ()) -> None:
    """Export an experiment's checkpoint to ``hf/``, or those of given steps to ``hf/step-N/``.

    A folder has safetensors, ``config.json``, the tokenizer or feature extractor, a model card, and ``export.json``, which
    says what it was made from. All is checked before torch is imported, but for the checkpoints' own files.

    Args:
        experiment: a trained experiment.
        steps: steps whose checkpoints are kept; none: the last one or, with ``checkpoint.keep: best``, the best.

    Raises:
        UserError: if the experiment is not trained, or a step's checkpoint is not kept or is damaged.
    """
    trained = read_json(experiment.results_dir / "train.json", f"run `lt25 train {experiment.arguments}` first")
    stats = read_json(experiment.processed_dir / "stats.json", f"run `lt25 prepare {experiment.arguments}` first")
    final = (trained.get("best") or {"step": trained["steps"]})["step"]
    folder = experiment.results_dir / "hf"
    wanted = {folder / f"step-{step}": step for step in steps} or {folder: final}
    for step in wanted.values():
        if step not in trained["checkpoints"]:
            there = ", ".join(map(str, trained["checkpoints"])) or "none"
            raise UserError(f"{experiment.name}: no checkpoint of step {step} is kept: there are {there}")
    for target, step in wanted.items():
        _export_step(experiment, trained, stats, step, target)


def _export_step(
    experiment: Experiment, trained: dict[str, Any], stats: dict[str, Any], step: int, folder: Path
) -> None:
    # They take seconds to import, which a mistake of the user's should not wait for.
    with without_garbage(), without_compiler():
        import torch
        from transformers.utils.logging import disable_progress_bar

        from lt25.checkpoints.convert import read_weights
        from lt25.models.auto import auto_class, read_config

    weights = read_weights(experiment.results_dir / trained["run_dir"] / "checkpoints" / f"step-{step}")
    config = read_config(experiment.results_dir / "model")
    with torch.device("meta"):
        model = auto_class(experiment.task).from_config(config)
    model.load_state_dict(weights, assign=True)

    record = {
        "experiment": experiment.name,
        "task": experiment.task,
        "step": step,
        "fingerprint": f"{trained['fingerprint']}-{step}",
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
        write_text(partial / "README.md", model_card(experiment, trained, stats, step))
        _replace_files(partial, folder)


def _replace_files(partial: Path, folder: Path) -> None:
    """Move a finished folder into place, keeping the exports of other steps that stand in the old one."""
    folder.mkdir(parents=True, exist_ok=True)
    # config.json goes first and comes last: without it nothing takes the folder for a model.
    for old in sorted(folder.iterdir(), key=lambda file: file.name != "config.json"):
        if old.is_file():
            old.unlink()
    for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
        publish(file, folder / file.name)
