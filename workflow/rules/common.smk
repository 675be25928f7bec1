# Loads and validates the configuration; the helpers that the rules' inputs need.

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lt25.config.sections import decides_by_validation
from lt25.experiment import Experiment, load_config, load_experiment
from lt25.errors import UserError
from lt25.launch import gpus

# `.venv/bin/snakemake` works without an activated environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]))


def stop(message):
    """End with one line, as the command line does."""
    sys.exit(f"lt25: error: {message}")


# An invalid file is in the way of nothing that does not need it: it is said, and refused where it is asked for.
EXPERIMENTS: dict[str, Experiment] = {}
INVALID: dict[str, str] = {}
for path in sorted(Path("config/experiments").glob("*.yaml")):
    try:
        EXPERIMENTS[path.stem] = load_experiment(path)
    except UserError as error:
        INVALID[path.stem] = str(error)
try:
    SETTINGS = load_config()
    # Complains of an NGPU that makes no sense before anything runs.
    gpus({})
except UserError as error:
    stop(error)
# While this file is read, Snakemake has not told its targets yet: they are in the command.
for argument in sys.argv[1:]:
    if (name := re.match(r"(?:\./)?results/([^/]+)/", argument)) and name[1] in INVALID:
        stop(INVALID[name[1]])
for name in SETTINGS["experiments"]:
    if name not in EXPERIMENTS:
        stop(INVALID.get(name, f"config/config.yaml: experiments: no such file: config/experiments/{name}.yaml"))
for message in INVALID.values():
    print(f"lt25: warning: left out: {message}", file=sys.stderr)
SHOWN: list[Experiment] = [EXPERIMENTS[name] for name in SETTINGS["experiments"]]


wildcard_constraints:
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    dataset=r"[\w.-]+",
    preparation=r"[a-z]+-[0-9a-f]{8}",
    step=r"\d+",


def stats_file(experiment):
    return os.path.relpath(experiment.processed_dir / "stats.json", experiment.root)


def preparing(wildcards):
    """The first experiment that needs this prepared data: all that do prepare it in the same way."""
    for experiment in EXPERIMENTS.values():
        if (experiment.dataset.name, experiment.preparation) == (wildcards.dataset, wildcards.preparation):
            return experiment
    raise WorkflowError(f"data/processed/{wildcards.dataset}/{wildcards.preparation}: no experiment needs this data")


def starting_model(wildcards):
    """The exported model that an experiment starts from, if it names one."""
    start = EXPERIMENTS[wildcards.experiment].init_from
    return [f"results/{start}/hf/config.json"] if start else []


def curve(experiment):
    """What tells that the kept steps before the last are evaluated, which with the final numbers make the learning curve."""
    # Where validation decides, nobody knows beforehand which steps there will be.
    unknown = decides_by_validation(experiment.job)
    if not SETTINGS["learning_curves"] or unknown or not experiment.kept_steps[:-1]:
        return []
    return [f"results/{experiment.name}/evaluation/curve.done"]
