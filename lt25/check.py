"""``lt25 check``: all that can be checked of an experiment without running anything.

What concerns its files and keys is checked whenever an experiment is loaded, by `lt25.experiment`; here come the data, the
model to start from and the devices.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lt25.checkpoints.foreign import named_folder
from lt25.checkpoints.whole import kept_steps
from lt25.config.files import read_model
from lt25.data import acquire, read
from lt25.data.folders import Folder
from lt25.data.sounds import Sounds
from lt25.errors import Mistakes, UserError
from lt25.evaluation import decoder, harness
from lt25.experiment import Experiment, load_config, load_experiment, load_experiments, project_root
from lt25.files import load_record
from lt25.launch import plan
from lt25.models import families
from lt25.models.starts import compare
from lt25.progress import track
from lt25.tasks import TASKS
from lt25.training.ahead import changed, check_devices

LABELS = 10_000
"""Rows of a split whose labels are compared with those that are listed."""

HUB = 5
"""Seconds that the Hub has to answer."""


def check(names: Iterable[str], overrides: Iterable[str] = ()) -> int:
    """Print for each experiment: ok, or a line for everything that is wrong; of the runs of a sweep, one for all that are alike.

    What is wrong with a file that nobody asked for, by its name or in config/config.yaml, is a warning.

    Args:
        names: of experiments, or paths; none: all of ``config/experiments/``.
        overrides: as for `load_experiment`.

    Returns:
        The exit status: 0, or 2 if anything is wrong that was asked for.

    Raises:
        UserError: if NGPU, NNODE and the like make no sense.
    """
    # What is wrong with the environment is no experiment's fault.
    plan({}).meeting()
    names = list(names)
    every = names or sorted(path.stem for path in (project_root() / "config" / "experiments").glob("*.yaml"))
    asked = names or (load_config()["experiments"] if (project_root() / "config" / "config.yaml").is_file() else every)
    status = 0
    for name in every:
        try:
            for said in check_runs(load_experiments(name, overrides)):
                print(said)
        except UserError as error:
            status = 2 if name in asked else status
            for line in error.lines:
                print(f"{'' if name in asked else 'warning: '}{Path(name).name.removesuffix('.yaml')}: {line}")
    return status


def check_runs(runs: Sequence[Experiment]) -> list[str]:
    """Check an experiment, or the runs of a sweep.

    Returns:
        "tiny: ok" and what `check_experiment` remarks; of several runs, how many have one and the same remark.

    Raises:
        UserError: if anything is wrong with any of them, each line once.
    """
    if len(runs) == 1:
        return [f"{runs[0].name}: ok{check_experiment(runs[0])}"]
    mistakes, remarks = Mistakes(), []
    for run in track(runs, f"checking {runs[0].path.stem}", len(runs)):
        with mistakes:
            remarks.append(check_experiment(run))
    mistakes.complain()
    return [
        f"{runs[0].path.stem}: {count} of {len(runs)} runs by {', '.join(runs[0].swept)}: ok{remark}"
        for remark, count in Counter(remarks).items()
    ]


def check_experiment(experiment: Experiment) -> str:
    """Check an experiment's devices, model and data, and the checkpoint that it goes on from.

    Returns:
        What could not be checked, and the stages that have not been run, for people; nothing if there is neither.

    Raises:
        UserError: if anything is wrong, a line each.
    """
    mistakes, remark = Mistakes(), ""
    with mistakes:
        check_devices(experiment)
        check_model(experiment)
        check_positions(experiment)
    with mistakes:
        check_load_step(experiment)
    with mistakes:
        remark = check_tokenizer(experiment)
    with mistakes:
        remark = check_columns(experiment) + remark
    with mistakes:
        remark += check_start(experiment)
    with mistakes:
        check_sounds(experiment)
    with mistakes:
        if options := decoder.settled(experiment).get("decoder"):
            decoder.require(options)
    with mistakes:
        harness.require(experiment.evaluation.get("lm_eval", ()), experiment.root)
    mistakes.complain()
    missing = ", ".join(experiment.missing())
    if difference := changed(experiment):
        return f"{remark}; to be run again: {difference}"
    return f"{remark}; to be run: {missing}" if missing else remark


def check_columns(experiment: Experiment) -> str:
    """Compare the datasets' columns, splits and labels with the files that are there, of each the first row only.

    Returns:
        A remark that names the datasets which are not there yet; empty if all are.

    Raises:
        UserError: if the folder of a dataset given by path, a split's files or a column is not there, or the first example is
            none of the task.
    """
    commands = []
    for dataset in experiment.datasets:
        if "path" not in dataset.origin and not (experiment.raw_dir_of(dataset) / acquire.MANIFEST).is_file():
            commands.append(f"`lt25 download {dataset.name}`")
        else:
            _check_columns(replace(experiment, dataset=dataset, further=()))
    return f", but for its data, which needs {' and '.join(commands)}" if commands else ""


def _check_columns(experiment: Experiment) -> None:
    dataset, root = experiment.dataset, acquire.data_root(experiment.dataset, experiment.raw_dir)
    config = f"config/datasets/{dataset.name}.yaml"
    if "path" in dataset.origin:
        acquire.check_folder(dataset, root)
    folder = acquire.folder(dataset, experiment.raw_dir)
    for split, source in dataset.splits.items():
        names = source["from"] if isinstance(source, dict) else source
        names = dataset.splits[names] if isinstance(source, dict) else names
        for name in [names] if isinstance(names, str) else names:
            first, fault = None, None
            for row in read.rows(dataset, folder, name):
                if isinstance(row, read.Row):
                    first = row
                    break
                fault = fault or row
            if first is None:
                raise UserError(
                    f"{config}: splits.{split}: the source's split {name} has no example that can be used: "
                    + (f"the first: {fault}" if fault else "name another")
                )
            if complaint := TASKS[experiment.task].row_complaint(experiment.prepare, experiment.augment, first):
                is_experiments = complaint.startswith(("prepare.", "augment."))
                raise UserError(f"{experiment.path if is_experiments else config}: {complaint} ({first.where})")
            check_labels(experiment, folder, name)


def check_sounds(experiment: Experiment) -> None:
    """Look at the header of every sound in the folders that ``augment`` names.

    Raises:
        UserError: if there is no such folder, no sound in it, or one that cannot be read.
    """
    for key in TASKS[experiment.task].augment_folders:
        if folder := experiment.augment.get(key):
            Sounds(str(experiment.root / Path(folder).expanduser()), key)


def check_tokenizer(experiment: Experiment) -> str:
    """Look for the tokenizer of another model that ``prepare.tokenizer`` names: on this machine, then on the Hub.

    Returns:
        What could not be checked, for people; mostly nothing.

    Raises:
        UserError: if there is none.
    """
    name = experiment.prepare.get("tokenizer")
    if name is None:
        return ""
    # It imports numpy, which most mistakes are answered without.
    from lt25.data import tokenizer

    if name in tokenizer.TRAINED or tokenizer.here(name):
        return ""
    try:
        tokenizer.find_on_hub(name, f"{experiment.path}: prepare.tokenizer", HUB)
    except UserError:
        raise
    except Exception:
        # Whatever keeps this machine from the Hub is no fault of the file.
        return f", but for the tokenizer {name}, which is not here, and the Hub does not answer"
    return ""


def check_labels(experiment: Experiment, folder: Folder, split: str) -> None:
    """Compare the dataset's ``labels`` with those of the first `LABELS` rows of a source's split.

    Raises:
        UserError: if one is not listed, or if these are all rows of train and none has one that is.
    """
    dataset, listed = experiment.dataset, experiment.dataset.options["labels"]
    if not listed or "label" not in TASKS[experiment.task].columns:
        return
    where = f"config/datasets/{dataset.name}.yaml: labels"
    # Asked for nothing but the label, no image is opened.
    only_labels = replace(dataset, columns={"label": dataset.columns["label"]})
    rows = (row for row in read.rows(only_labels, folder, split) if isinstance(row, read.Row))
    seen, read_rows = set(), 0
    for row in islice(rows, LABELS):
        label, read_rows = row.roles["label"], read_rows + 1
        seen.add(label.strip() if isinstance(label, str) else label)
        # Numbers, which CSV has as texts, stand for the names in their order.
        if isinstance(label, str) and label.strip() not in ("", *listed) and not re.fullmatch(r"[-+.\d\s]+", label):
            raise UserError(f"{where}: {row.where} has {label}, which is not among {', '.join(listed)}: add it")
    of_train = dataset.splits["train"]
    unseen = [name for name in listed if name not in seen]
    are_names = any(label in listed for label in seen if isinstance(label, str))
    if read_rows < LABELS and split == of_train and unseen and are_names:
        raise UserError(f"{where}: {unseen[0]} is the label of no example of train: remove it")


def check_model(experiment: Experiment) -> None:
    """Make the model, without memory for its weights, if its family is another package's, which alone knows what fits.

    Raises:
        UserError: if that cannot be done.
    """
    if families.find(experiment.model["model_type"]).source != "lt25":
        # Imported here, because this takes seconds and concerns few experiments.
        from lt25.models.auto import try_model

        model = experiment.resolved()[0]["model"]
        try:
            try_model(model, experiment.task)
        except UserError as error:
            raise UserError(f"{experiment.path}: {error}") from None


def check_positions(experiment: Experiment) -> None:
    """Compare ``model.position_embeddings`` with the longest sequence of the prepared data, if there is any.

    Raises:
        UserError: if that has more steps than the model has embeddings.
    """
    count = experiment.model.get("position_embeddings", 0)
    try:
        splits = load_record(experiment.processed_dir / "stats.json")["splits"]
    except (FileNotFoundError, UserError):
        return
    longest = max((facts["lengths"]["edges"][-1] - 1 for facts in splits.values() if "lengths" in facts), default=0)
    steps = -(-longest // experiment.model.get("subsampling", 1))
    if 0 < count < steps:
        raise UserError(
            f"{experiment.path}: model.position_embeddings: found {count}, but the longest sequence has {steps} steps: use "
            f"{steps} or more"
        )


def check_start(experiment: Experiment) -> str:
    """Compare the sizes of the model, and what it computes with them, with the one that it starts from.

    Classes and tokens may be others; what the data decides is left out where one of the two has not been prepared.

    Returns:
        What the experiment changes of it because it says so, for people; nothing if it changes nothing.

    Raises:
        UserError: if a weight has another size there, or is not there, or means something else.
    """
    brought = experiment.root / (experiment.start or "")
    if experiment.parent is not None:
        parent = load_experiment(experiment.parent)
        start, decided = parent.resolved()[0]["model"], (parent.processed_dir / "stats.json").is_file()
    elif experiment.start is not None and (
        folder := brought if (brought / "config.json").is_file() else named_folder(experiment)
    ):
        start, decided = read_model(folder / "config.json", f"{experiment.path}: init_from"), True
    else:
        return ""
    changes = compare(
        start, experiment.model, experiment.named, f"{experiment.path}: init_from", str(experiment.init_from)
    )
    from lt25.models.auto import try_model

    task, family = TASKS[experiment.task], families.find(experiment.model["model_type"])
    decided = decided and (experiment.processed_dir / "stats.json").is_file()
    # Of what the data decides, the width of the input is the only key without which there is no model.
    supposed = {} if decided else {key: 1 for key in task.decided if key == "input_size"}
    here, there = (
        try_model(
            {key: value for key, value in model.items() if decided or key not in task.decided} | supposed, task.name
        )
        for model in (experiment.resolved()[0]["model"], start)
    )
    apart = [
        family.heads[task.auto_model],
        *([family.inputs[task.auto_model]] if task.main_input == "input_ids" else []),
    ]
    for name, shape in here.items():
        if there.get(name) != shape and not any(name.startswith(f"{module}.") for module in apart):
            found = f"is {list(there[name])} there" if name in there else "is not there"
            raise UserError(
                f"{experiment.path}: init_from: {experiment.init_from}: {name} {found} and {list(shape)} here: start from a "
                "model of the same sizes"
            )
    return "".join(f"; {line.removeprefix(f'{experiment.path}: ')}" for line in changes)


def check_load_step(experiment: Experiment) -> None:
    """Look for the checkpoint that ``checkpoint.load_step`` names.

    Raises:
        UserError: if there is none of that step.
    """
    step, folder = experiment.job["checkpoint"]["load_step"], experiment.results_dir / "checkpoints"
    if step != -1 and not (folder / f"step-{step}").is_dir():
        there = ", ".join(map(str, kept_steps(folder))) or "none"
        raise UserError(
            f"{experiment.path}: checkpoint.load_step: no checkpoint of step {step} is kept: there are {there}"
        )
