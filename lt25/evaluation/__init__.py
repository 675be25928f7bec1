"""Measuring an exported model: `evaluate` writes metrics.json, predictions.parquet and plots.

The definitions of every number are in docs/evaluation.md.
"""

from pathlib import Path
from typing import Any

from lt25 import files
from lt25.config.sections import SPLITS
from lt25.data.shards import believe
from lt25.errors import UserError
from lt25.evaluation import decoder, harness
from lt25.experiment import Experiment, exported_steps, model_fingerprint
from lt25.importing import without_compiler, without_garbage
from lt25.models import starts

__all__ = ["believe_model", "evaluate", "require"]


def evaluate(experiment: Experiment, model_dir: Path, out_dir: Path, intermediate: bool = False) -> dict:
    """Evaluate the exported model in `model_dir` on the experiment's prepared data; see `lt25.evaluation.run.run`."""
    require(experiment, model_dir)
    exported = believe_model(experiment, model_dir)
    names = splits_of(experiment, intermediate)
    # Baselines learn from the training split, and not from its table.
    read = names if intermediate else {*names, "train"}
    tables = {*names, "train"} if decoder.reads_training_texts(experiment.evaluation.get("decoder")) else names
    believe(experiment.processed_dir, read, experiment.commands("prepare"), tables=tables)
    _compare(experiment, Path(model_dir))
    # torch and transformers take seconds to import, which a mistake of the user's should not wait for
    with without_garbage(), without_compiler():
        from lt25.evaluation.run import run

    return run(experiment, model_dir, out_dir, names, intermediate, exported)


def splits_of(experiment: Experiment, intermediate: bool) -> list[str]:
    """Return the splits to measure a model on: for a checkpoint on the way none that may not be looked at before the end.

    The dataset's further test splits go with ``test``.
    """
    names = experiment.evaluation["splits"]
    if intermediate:
        return [name for name in names if name != "test"] or ["validation"]
    return [*names, *(name for name in experiment.splits if name not in SPLITS)] if "test" in names else names


def believe_model(experiment: Experiment, model_dir: Path) -> dict[str, Any]:
    """Compare an exported model's files with its record, and the record with the experiment's current run.

    Returns:
        What ``export.json`` holds; nothing for a model that lt25 has not exported, which lies elsewhere.

    Raises:
        UserError: if a file is not as it was written, or the model is not of the run that ``train.json`` tells of.
    """
    results, record = experiment.results_dir, Path(model_dir) / "export.json"
    if not record.exists() and not record.is_relative_to(results):
        return {}
    step = record.parent.name.removeprefix("step-") if record.parent.name.startswith("step-") else None
    export = f"lt25 export {experiment.arguments}{f' --step {step}' if step else ''}"
    found = files.believe(record, export)
    if (results / "train.json").exists() and record.is_relative_to(results):
        trained = files.read_record(results / "train.json", f"lt25 train {experiment.arguments}")
        steps = [int(step)] if step else exported_steps(trained, experiment.job["checkpoint"])
        wanted = model_fingerprint(trained, steps)
        if found["fingerprint"] != wanted:
            complaint = f"{model_dir}: exported from {found['fingerprint']}, and what was trained is {wanted}"
            raise files.set_aside(record, complaint, export)
    return found


def _compare(experiment: Experiment, model_dir: Path) -> None:
    """Refuse data whose tokens, classes or steps are not those of the model: its numbers would mean something else.

    Raises:
        UserError: if they differ, as after a change of ``prepare``.
    """
    there = files.read_json(model_dir / "config.json", experiment.commands("export"))
    here = {**there, **experiment.decided()}
    # An embedding may have more rows than there are tokens.
    if there.get("vocab_size", 0) > here.get("vocab_size", 0):
        here["vocab_size"] = there["vocab_size"]
    differ = starts.differing(model_dir, there, experiment.processed_dir, here)
    if differ is None and there.get("input_size") != here.get("input_size"):
        differ = f"inputs, {there.get('input_size')} numbers a step there and {here['input_size']} here,"
    if differ:
        again = " && ".join(f"lt25 {stage} {experiment.arguments}" for stage in ("train", "export"))
        raise UserError(f"{model_dir}: its {differ} differ from those of {experiment.processed_dir}: run `{again}`")


def require(experiment: Experiment, model_dir: Path) -> None:
    """Refuse to evaluate where there is nothing to evaluate, or nothing to evaluate it on.

    Raises:
        UserError: if the folder holds no exported model, the experiment's data is not prepared, or tasks of lm-eval are asked
            for that cannot be run.
    """
    if not (Path(model_dir) / "config.json").exists():
        step = Path(model_dir).name.removeprefix("step-")
        export = f"{experiment.commands('export')}{f' --step {step}' if step.isdecimal() else ''}"
        raise UserError(f"{model_dir}: no config.json, so no exported model here: run `{export}` first")
    if not experiment.processed_dir.is_dir():
        raise UserError(f"{experiment.processed_dir}: not there: run `{experiment.commands('prepare')}` first")
    harness.require(experiment.evaluation.get("lm_eval", ()), experiment.root)
    if options := decoder.settled(experiment).get("decoder"):
        decoder.require(options)
