"""``lt25 export``: a checkpoint becomes a Hugging Face folder that needs nothing else to be used."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lt25.checkpoints.card import model_card
from lt25.checkpoints.code import check_own, write_code
from lt25.checkpoints.whole import damage, discard
from lt25.data.transcripts import carry
from lt25.errors import UserError
from lt25.experiment import Experiment, exported_step, exported_steps, model_fingerprint
from lt25.files import believe, publish, read_record, set_aside, temporary, write_record, write_text
from lt25.importing import without_compiler, without_garbage
from lt25.progress import say

# What the prepared data has that a user of the model needs beside the weights.
_ASSETS = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
)


def export(experiment: Experiment, steps: Sequence[int] = (), with_code: bool = False) -> None:
    """Export an experiment's checkpoint, or the mean of several, to ``hf/``, or those of given steps to ``hf/step-N/``.

    A folder has safetensors, ``config.json``, the tokenizer or feature extractor, a model card, and its record,
    ``export.json``, which says what it was made from. All that can be is checked before torch is imported.

    Args:
        experiment: a trained experiment.
        steps: steps whose checkpoints are kept; none: the last one, with ``checkpoint.keep: best`` the best, or with
            ``checkpoint.average`` the mean of the last ones.
        with_code: whether the modelling code goes beside the weights (`lt25.checkpoints.code`).

    Raises:
        UserError: if the experiment is not trained, a step's checkpoint is not kept or is damaged, or the code that is
            asked for is another package's.
    """
    if with_code:
        check_own(experiment.model["model_type"])
    train, marker = experiment.commands("train"), experiment.results_dir / "train.json"
    trained = read_record(marker, train)
    run_dir, current = experiment.results_dir / trained["run_dir"], experiment.results_dir / "checkpoints"
    if current.is_symlink() and current.resolve().parent != run_dir.resolve():
        of, now = trained["fingerprint"], current.resolve().parent.name
        raise set_aside(marker, f"{marker}: of the run {of}, and the current one is {now}", train)
    stats = believe(experiment.processed_dir / "stats.json", experiment.commands("prepare"), _ASSETS)
    final = exported_step(trained)
    folder = experiment.results_dir / "hf"
    wanted = {folder / f"step-{step}": [step] for step in steps}
    wanted = wanted or {folder: exported_steps(trained, experiment.job["checkpoint"])}
    needed = list(dict.fromkeys(step for steps in wanted.values() for step in steps))
    checkpoints = run_dir / "checkpoints"
    # A needed checkpoint that is gone is made anew by training; others may have been removed to make room.
    kept = [one for one in trained["checkpoints"] if one == final or (checkpoints / f"step-{one}").is_dir()]
    if missing := [step for step in needed if step not in kept]:
        if not experiment.job["checkpoint"]["enable"]:
            raise UserError(
                f"{experiment.path}: checkpoint.enable: false, so there is nothing to export: set it to true"
            )
        there = ", ".join(map(str, kept)) or "none"
        again = f": run `{train}`" if missing[0] == final else ""
        raise UserError(f"{experiment.name}: no checkpoint of step {missing[0]} is kept: there are {there}{again}")
    if trained["identity"]["data"] != stats["fingerprint"]:
        raise UserError(
            f"{marker}: of the data {trained['identity']['data']}, and {experiment.processed_dir} holds {stats['fingerprint']}: "
            f"run `{train}`"
        )
    for step in needed:
        checkpoint = checkpoints / f"step-{step}"
        if wrong := damage(checkpoint, trained):
            discard(checkpoint)
            raise set_aside(marker, f"{checkpoint}: {wrong}", train)
    for target, of in wanted.items():
        _export_steps(experiment, trained, stats, of, target, with_code)
        what = f"the mean of steps {', '.join(map(str, of))}" if of[1:] else f"step {of[0]}"
        say(f"{experiment.name}: {what} is exported to {target.relative_to(experiment.root)}")


def _export_steps(
    experiment: Experiment,
    trained: Mapping[str, Any],
    stats: Mapping[str, Any],
    steps: Sequence[int],
    folder: Path,
    with_code: bool,
) -> None:
    # They take seconds to import, which a mistake of the user's should not wait for.
    with without_garbage(), without_compiler():
        import torch
        from transformers.utils.logging import disable_progress_bar

        from lt25.checkpoints.convert import mean_weights
        from lt25.models.auto import auto_class, make_config

    checkpoints = experiment.results_dir / trained["run_dir"] / "checkpoints"
    weights = mean_weights([checkpoints / f"step-{step}" for step in steps])
    with torch.device("meta"):
        model = auto_class(experiment.task).from_config(make_config(trained["identity"]["model"]))
    model.load_state_dict(weights, assign=True)
    # A checkpoint has tied weights under both names; the folder has them once.
    model.tie_weights()

    record = {
        "experiment": experiment.name,
        "task": experiment.task,
        "step": steps[-1],
        **({"averaged": list(steps)} if len(steps) > 1 else {}),
        "fingerprint": model_fingerprint(trained, steps),
        "dataset": experiment.dataset.name,
        "data": stats["fingerprint"],
        "parameters": trained["parameters"],
    }
    disable_progress_bar()
    with temporary(folder) as partial:
        model.save_pretrained(partial)
        for name in _ASSETS:
            if name in stats["files"]:
                shutil.copy(experiment.processed_dir / name, partial / name)
        if experiment.task == "speech_recognition":
            carry(partial, experiment.prepare)
        if with_code:
            write_code(partial, experiment.task)
        write_text(partial / "README.md", model_card(experiment, trained, stats, steps, with_code))
        write_record(partial / "export.json", record, sorted(partial.iterdir()))
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
