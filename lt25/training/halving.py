"""Successive halving: the worse settings of a sweep stop at its rungs, and the others go on from their checkpoints.

``halving: {rungs: [200, 600], eta: 3}`` trains every run up to step 200, along the schedule of its whole length. One in three
settings goes on, by the mean of its seeds' validation losses there; of these one in three goes on from step 600 to the end. What
a run found at a rung is in ``results/<run>/rungs/step-200.json``, and who goes on in ``results/<sweep>/rungs/step-200.json``.
"""

import json
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import read_record, write_record
from lt25.sweeps import SEED
from lt25.training.ahead import is_at
from lt25.training.run import rung_file


def check_rung(experiment: Experiment, step: int) -> None:
    """Complain of a step that is no rung of an experiment's sweep."""
    rungs = experiment.halving["rungs"] if experiment.halving else []
    if step not in rungs:
        there = ", ".join(map(str, rungs)) or "none: add the section halving"
        raise UserError(f"{experiment.path}: --rung {step}: no such step in halving.rungs: there are {there}")


def choice_file(run: Experiment, step: int) -> Path:
    """Return where it is written which runs of a sweep go on from a rung; ``run`` is any of them."""
    return rung_file(run.root / "results" / run.path.stem, step)


def candidates(runs: Sequence[Experiment], step: int) -> list[Experiment]:
    """Return those of a sweep's runs that have gone on from the rungs before a step, all for the first.

    Raises:
        UserError: if it is not chosen yet, or was chosen by another section ``halving`` or among other runs than there are now.
    """
    left = list(runs)
    for rung in runs[0].halving["rungs"] if runs[0].halving else []:
        if rung < step:
            chosen = _chosen(left, rung)
            left = [run for run in left if run.name in chosen]
    return left


def _chosen(runs: Sequence[Experiment], step: int) -> set[str]:
    sweep, file = runs[0].path.stem, choice_file(runs[0], step)
    choice = read_record(file, f"snakemake results/{sweep}/report.html")
    losses = {run.name: loss_at(run, step) for run in runs}
    among = {name: choice.get("losses", {}).get(name) for name in losses}
    # As text, in which a loss that is not a number equals itself.
    found, now = {"halving": choice.get("halving"), **among}, {"halving": runs[0].halving, **losses}
    if json.dumps(found, sort_keys=True) != json.dumps(now, sort_keys=True):
        raise UserError(
            f"{file}: is of other runs or another section halving than {runs[0].path} has now: "
            f"run `lt25 halve {sweep} --rung {step}` again"
        )
    return set(choice["go_on"])


def finalists(runs: Sequence[Experiment]) -> list[Experiment]:
    """Return those of a sweep's runs that are trained to the end; raises UserError as `candidates`."""
    return candidates(runs, runs[0].job["training"]["steps"])


def stopped(runs: Sequence[Experiment]) -> dict[int, list[tuple[Experiment, float]]]:
    """Return the runs that have stopped at each rung, each with its validation loss there; raises UserError as `candidates`."""
    found, rungs = {}, runs[0].halving["rungs"] if runs[0].halving else []
    for rung, after in pairwise([*rungs, runs[0].job["training"]["steps"]]):
        going_on = {run.name for run in candidates(runs, after)}
        found[rung] = [(run, loss_at(run, rung)) for run in candidates(runs, rung) if run.name not in going_on]
    return found


def loss_at(run: Experiment, step: int) -> float:
    """Return the validation loss of a run at a rung.

    Raises:
        UserError: if it is not noted there, or is that of what the experiment decided on before it was changed.
    """
    file, command = rung_file(run.results_dir, step), f"lt25 train {run.arguments} --rung {step}"
    loss = read_record(file, command)["validation"]["loss"]
    if not is_at(run, step):
        raise UserError(f"{file}: is of another training than {run.path} decides on now: run `{command}` first")
    return loss


def halve(runs: Sequence[Experiment], step: int) -> str:
    """Choose which settings of a sweep go on from a rung, each with all its seeds, and write it down.

    Args:
        runs: all of the sweep.
        step: the rung.

    Returns:
        A line for the user.

    Raises:
        UserError: if the step is no rung, or a run that should have come there has not.
    """
    check_rung(runs[0], step)
    left = candidates(runs, step)
    losses = {run.name: loss_at(run, step) for run in left}
    settings: dict[str, list[Experiment]] = {}
    for run in left:
        values = [run.overrides[key] for key in run.swept if key != SEED]
        settings.setdefault(json.dumps(values, default=str), []).append(run)

    def loss(setting: str) -> float:
        mean = statistics.fmean(losses[run.name] for run in settings[setting])
        return mean if math.isfinite(mean) else math.inf

    number = max(len(settings) // runs[0].halving["eta"], 1) if runs[0].halving else len(settings)
    # Of two with the same loss the one that the file names first.
    best = sorted(settings, key=loss)[:number]
    going_on = [run.name for setting in best for run in settings[setting]]
    choice = {"step": step, "halving": runs[0].halving, "losses": losses, "go_on": going_on}
    write_record(choice_file(runs[0], step), choice)
    return (
        f"{runs[0].path.stem}: {number} of {len(settings)} settings, {len(going_on)} runs, go on from step {step}: "
        f"{', '.join(going_on[:3])}{', ...' if len(going_on) > 3 else ''}"
    )
