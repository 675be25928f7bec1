# Loads and validates the configuration; the helpers that the rules' inputs need.

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lt25.experiment import Experiment, load_config, load_experiment
from lt25.errors import UserError

# `.venv/bin/snakemake` works without an activated environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]))


def load(loader, *arguments):
    try:
        return loader(*arguments)
    except UserError as error:
        sys.exit(f"lt25: error: {error}")


EXPERIMENTS: dict[str, Experiment] = {
    path.stem: load(load_experiment, path) for path in sorted(Path("config/experiments").glob("*.yaml"))
}
SETTINGS = load(load_config)
for name in SETTINGS["experiments"]:
    if name not in EXPERIMENTS:
        raise WorkflowError(f"config/config.yaml: experiments: {name}: no such file: config/experiments/{name}.yaml")
SHOWN: list[Experiment] = [EXPERIMENTS[name] for name in SETTINGS["experiments"]]


wildcard_constraints:
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    dataset=r"[\w.-]+",
    recipe=r"[a-z]+-[0-9a-f]{8}",
    step=r"\d+",


def stats_file(experiment):
    return os.path.relpath(experiment.processed_dir / "stats.json", experiment.root)


def preparing(wildcards):
    """The first experiment that asks for a recipe: all that do ask for the same thing."""
    for experiment in EXPERIMENTS.values():
        if (experiment.dataset.name, experiment.recipe) == (wildcards.dataset, wildcards.recipe):
            return experiment
    raise WorkflowError(f"data/processed/{wildcards.dataset}/{wildcards.recipe}: no experiment asks for this recipe")


def starting_model(wildcards):
    """The exported model that an experiment starts from, if it names one."""
    start = EXPERIMENTS[wildcards.experiment].init_from
    return [f"results/{start}/hf/config.json"] if start else []


def curve(experiment):
    """The metrics of the kept steps before the last, which with the final ones make the learning curve."""
    if not SETTINGS.get("learning_curves", False):
        return []
    return [f"results/{experiment.name}/evaluation/step-{step}/metrics.json" for step in experiment.kept_steps[:-1]]
