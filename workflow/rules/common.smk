# Loads and validates the configuration; the helpers that the rules' inputs need.

import fcntl
import json
import os
import re
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lt25.data.acquire import changes
from lt25.data.sounds import contents
from lt25.experiment import Experiment, check_shown, exported_steps, has_curve, load_config, load_experiments, sweep_of
from lt25.errors import UserError
from lt25.launch import gpus
from lt25.tasks import TASKS
from lt25.training.ahead import is_at, is_trained
from lt25.training.job import is_configured

# `.venv/bin/snakemake` works without an activated environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]))


def stop(message):
    """End with one line, as the command line does."""
    sys.exit(f"lt25: error: {message}")


def free_locks():
    """Remove Snakemake's locks on files if no snakemake is alive that may hold them: a killed one leaves them behind."""
    alive = (Path(".snakemake") / "alive").open("w")
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for lock in Path(".snakemake/locks").glob("*.lock"):
            lock.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    # Held as long as this process lives, however it ends.
    fcntl.flock(alive, fcntl.LOCK_SH)
    return alive


if workflow.is_main_process:
    Path(".snakemake").mkdir(exist_ok=True)
    try:
        ALIVE = free_locks()
    except OSError:
        # A file system that knows no such locks: `snakemake --unlock` is there.
        pass

# An invalid file is in the way of nothing that does not need it: it is said, and refused where it is asked for.
EXPERIMENTS: dict[str, Experiment] = {}
INVALID: dict[str, str] = {}


# Sweeps by name, whose runs are many and are loaded when one asks for them; then with the runs.
SWEEPS: dict[str, list[Experiment]] = {}
# Of prepared data, the first experiment that needs it: all that do prepare it in the same way.
PREPARING: dict[tuple[str, str], Experiment] = {}


def enter(name):
    """Load an experiment, the variant of one or all runs of a sweep, and return the names that their results have."""
    try:
        runs = load_experiments(name)
    except UserError as error:
        INVALID[name] = str(error)
        return [name]
    for run in runs:
        EXPERIMENTS[run.name] = run
        PREPARING.setdefault((run.dataset.name, run.preparation), run)
    if name in SWEEPS:
        SWEEPS[name] = runs
    return [run.name for run in runs]


try:
    SETTINGS = load_config()
    # Complains of an NGPU that makes no sense before anything runs.
    gpus({})
except UserError as error:
    stop(error)
for path in sorted(Path("config/experiments").glob("*.yaml")):
    try:
        is_sweep = bool(sweep_of(path))
    except UserError as error:
        INVALID[path.stem] = str(error)
        continue
    if is_sweep:
        SWEEPS[path.stem] = []
    else:
        enter(path.stem)
NAMES = [run for name in SETTINGS["experiments"] for run in (enter(name) if "@" in name or name in SWEEPS else [name])]
NAMES = list(dict.fromkeys(NAMES))
# While this file is read, Snakemake has not told its targets yet: they are in the command, as files, or on a cluster as a rule and
# its wildcards.
TARGET = re.compile(r"(?:\./)?results/([^/]+)/(hf|evaluation)?|\w+:(?:experiment|sweep)=([^,]+)")
EXPORTED = list(NAMES)
for argument in sys.argv[1:]:
    if asked := TARGET.match(argument):
        name = asked[1] or asked[3]
        runs = enter(name) if "@" in name or not SWEEPS.get(name, True) else [name]
        if name in INVALID:
            stop(INVALID[name])
        if "@" in name and name not in EXPERIMENTS:
            stop(f"{name}: no run is called so: name one of {len(runs)}, such as {runs[0]}")
        EXPORTED += [name] if asked[2] else []
for name in NAMES:
    if name not in EXPERIMENTS:
        stop(INVALID.get(name, f"config/config.yaml: experiments: no such file: config/experiments/{name}.yaml"))
for name in EXPORTED:
    if name in EXPERIMENTS and not EXPERIMENTS[name].job["checkpoint"]["enable"]:
        stop(
            f"{EXPERIMENTS[name].path}: checkpoint.enable: false, so there is nothing to export and to evaluate: "
            "set it to true, or leave the experiment out of config/config.yaml"
        )
for message in INVALID.values():
    print(f"lt25: warning: left out: {message}", file=sys.stderr)
SHOWN: list[Experiment] = [EXPERIMENTS[name] for name in NAMES]
try:
    check_shown(SHOWN, SETTINGS["experiments"])
except UserError as error:
    stop(error)


wildcard_constraints:
    # Snakemake searches this text for each file: a sweep's runs are too many to be listed.
    experiment="|".join(
        [re.escape(name) for name, run in EXPERIMENTS.items() if not run.swept]
        + [rf"{re.escape(name)}@[^/]+" for name in {run.path.stem for run in EXPERIMENTS.values() if run.swept}]
    ),
    sweep="|".join(map(re.escape, SWEEPS)) or "no sweep",
    dataset=r"[\w.-]+",
    preparation=r"[a-z]+-[0-9a-f]{8}",
    step=r"\d+",


def stats_file(experiment):
    return os.path.relpath(experiment.processed_dir / "stats.json", experiment.root)


def preparing(wildcards):
    """The first experiment that needs this prepared data."""
    wanted = wildcards.dataset, wildcards.preparation
    # A job on a cluster is told the data alone, which may be of a sweep that nobody has asked for by name.
    for name in [] if wanted in PREPARING else [name for name, runs in SWEEPS.items() if not runs]:
        enter(name)
    if wanted not in PREPARING:
        raise WorkflowError(f"data/processed/{'/'.join(wanted)}: no experiment needs this data")
    return PREPARING[wanted]


def changed_source(wildcards):
    """A file that says what has changed of a dataset's origin or in its folder, newer than SOURCE.json if anything has.

    The files of a user's folder themselves are too many to be inputs, and files that are new are none yet.
    """
    datasets = (dataset for one in EXPERIMENTS.values() for dataset in one.datasets)
    dataset = next((dataset for dataset in datasets if dataset.name == wildcards.dataset), None)
    if dataset is None:
        return []
    note = Path(".snakemake/changed") / dataset.name
    if workflow.is_main_process or not note.is_file():
        changed = changes(dataset, Path("data/raw").absolute() / dataset.name)
        note.parent.mkdir(parents=True, exist_ok=True)
        # The time, because Snakemake leaves alone what a newer file with the content of before is an input of.
        note.write_text("\n".join([*changed, str(time.time_ns())]) if changed else "")
        if not changed:
            os.utime(note, (0, 0))
    return str(note)


def experiment_file(wildcards):
    """An experiment's file, whose date counts only if it decides something that the job file does not say yet."""
    experiment = EXPERIMENTS[wildcards.experiment]
    return ancient(str(experiment.path)) if is_configured(experiment) else str(experiment.path)


def job_files(wildcards):
    """An experiment's job, whose date counts only if it decides on another model than the one that is trained."""
    files = [f"results/{wildcards.experiment}/job.toml", f"results/{wildcards.experiment}/model/config.json"]
    experiment, rung = EXPERIMENTS[wildcards.experiment], wildcards.get("step")
    is_done = is_at(experiment, int(rung)) if rung else is_trained(experiment)
    return [ancient(file) for file in files] if is_done else files


def dated_job(experiment, is_the_same):
    """An experiment's job, whose date counts only if what there is was made by other settings than it has now.

    Snakemake does not look for changed params behind a job that runs, as `configure_job` does, though nothing is trained by it.
    """
    file = f"results/{experiment.name}/job.toml"
    try:
        return ancient(file) if is_the_same() else file
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Missing or damaged, which has it made anew or is said elsewhere.
        return ancient(file)


def exported_job(wildcards):
    """The job of an experiment, for what exports the checkpoints that it decides on."""
    experiment = EXPERIMENTS[wildcards.experiment]

    def is_the_same():
        trained = json.loads((experiment.results_dir / "train.json").read_text())
        exported = json.loads((experiment.results_dir / "hf" / "export.json").read_text())
        return exported.get("averaged", [exported["step"]]) == exported_steps(trained, experiment.job["checkpoint"])

    return dated_job(experiment, is_the_same)


def evaluated_job(record):
    """The job of an experiment, for what writes a record by the experiment's options of evaluation."""

    def job(wildcards):
        experiment = EXPERIMENTS[wildcards.experiment]

        def is_the_same():
            found = json.loads(Path(record.format(**wildcards)).read_text())
            return all(one["options"] == experiment.evaluation for one in found.get("steps", [found]))

        return dated_job(experiment, is_the_same)

    return job


def going_on(sweep, step=None):
    """The names of a sweep's runs that are trained up to a rung, or to the end."""
    names = [run.name for run in SWEEPS[sweep]]
    if earlier := [rung for rung in rungs(sweep) if step is None or rung < step]:
        file = f"results/{sweep}/rungs/step-{earlier[-1]}.json"
        # A job on a cluster is told its target alone, when what it needs is there.
        if workflow.is_main_process:
            file = checkpoints.choose_runs.get(sweep=sweep, step=earlier[-1]).output[0]
        chosen = set(json.loads(Path(file).read_text())["go_on"])
        names = [name for name in names if name in chosen]
    return names


def rungs(sweep):
    """The steps at which a sweep's worse settings stop; none for most."""
    return (SWEEPS[sweep][0].halving or {}).get("rungs", [])


def choices(sweep):
    """What tells which of a sweep's runs went on from each rung."""
    return [f"results/{sweep}/rungs/step-{rung}.json" for rung in rungs(sweep)]


def augmentation(wildcards):
    """What an experiment does to training examples, with a hash of what is in a folder of sounds in the place of its name."""
    experiment = EXPERIMENTS[wildcards.experiment]
    try:
        return experiment.augment | contents(experiment.augment, TASKS[experiment.task].augment_folders)
    except UserError as error:
        raise WorkflowError(f"{experiment.path}: {error}") from None


def starting_model(wildcards):
    """The exported model that an experiment starts from, if it names one; a model from elsewhere comes with the job file."""
    start = EXPERIMENTS[wildcards.experiment].parent
    return [f"results/{start}/hf/{file}" for file in ("config.json", "export.json")] if start else []


def curve(experiment):
    """What tells that the kept steps before the last are evaluated, which with the final numbers make the learning curve."""
    steps = f"results/{experiment.name}/evaluation/steps.json"
    return [steps] if has_curve(experiment, SETTINGS["learning_curves"]) else []


def set_aside_outdated(sweep):
    """Rename a sweep's page if it was written by another section `halving`, so that it is written anew.

    Snakemake leaves a page alone while it is not known which files it depends on: while it is not chosen who goes on from a rung.
    """
    page = Path(f"results/{sweep}/report.html")
    if page.exists() and not all(Path(file).exists() for file in choices(sweep)):
        page.replace(page.with_suffix(".html.outdated"))


if workflow.is_main_process:
    for sweep, runs in SWEEPS.items():
        if runs and runs[0].halving:
            set_aside_outdated(sweep)
