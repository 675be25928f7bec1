"""``lt25 check``: all that can be checked of an experiment without running anything.

What concerns its files and keys is checked whenever an experiment is loaded, by `lt25.experiment`; here come the data, the
model to start from and the devices.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from lt25.data import acquire, read
from lt25.errors import UserError
from lt25.experiment import Experiment, load_experiment, project_root
from lt25.launch import plan
from lt25.models import families


def check(names: Iterable[str], overrides: Iterable[str] = ()) -> int:
    """Print a line for each experiment: ok, or what is wrong.

    Args:
        names: of experiments, or paths; none: all of ``config/experiments/``.
        overrides: as for `load_experiment`.

    Returns:
        The exit status: 0, or 2 if anything is wrong.
    """
    names = list(names) or sorted(path.stem for path in (project_root() / "config" / "experiments").glob("*.yaml"))
    status = 0
    for name in names:
        try:
            experiment = load_experiment(name, overrides)
            remark = check_experiment(experiment)
            print(f"{experiment.name}: ok{remark}")
        except UserError as error:
            status = 2
            print(f"{Path(name).stem}: {error}", file=sys.stdout)
    return status


def check_experiment(experiment: Experiment) -> str:
    """Check an experiment's data, starting model and devices.

    Returns:
        What could not be checked, for people; mostly nothing.

    Raises:
        UserError: for the first thing that is wrong.
    """
    check_devices(experiment)
    return check_columns(experiment)


def check_columns(experiment: Experiment) -> str:
    """Compare a dataset's columns and splits with the files that are there, of each the first only.

    Raises:
        UserError: if the folder of a dataset given by path, a split's files or a column is not there.
    """
    dataset, root = experiment.dataset, acquire.data_root(experiment.dataset, experiment.raw_dir)
    config = f"config/datasets/{dataset.name}.yaml"
    if "path" in dataset.origin and not root.is_dir():
        raise UserError(f"{config}: origin.path: no such folder: {root}")
    if "path" not in dataset.origin and not (root / acquire.MANIFEST).is_file():
        return f", before its data is there: `lt25 download {dataset.name}`"
    folder = acquire.folder(dataset, experiment.raw_dir)
    for split, source in dataset.splits.items():
        names = source["from"] if isinstance(source, dict) else source
        names = dataset.splits[names] if isinstance(source, dict) else names
        for name in [names] if isinstance(names, str) else names:
            if next(read.rows(dataset, folder, name), None) is None:
                raise UserError(f"{config}: splits.{split}: the source's split {name} has no rows: name another")
    return ""


def check_devices(experiment: Experiment) -> None:
    """Compare the degrees of parallelism and the global batch with the processes that training would have.

    Raises:
        UserError: if they do not fit.
    """
    parallelism, training = experiment.job["parallelism"], experiment.job["training"]
    start = plan(parallelism, where=str(experiment.path))
    families.check(experiment.model, experiment.task, parallelism, start.device, str(experiment.path))
    readers = start.world_size // (parallelism["tensor_parallel_degree"] * parallelism["pipeline_parallel_degree"])
    readers //= parallelism["context_parallel_degree"]
    local, total = training["local_batch_size"], training["global_batch_size"]
    if total > 0 and total % (local * readers):
        raise UserError(
            f"{experiment.path}: training.global_batch_size: {total} is no multiple of training.local_batch_size, {local}, "
            f"times the {readers} processes that read data: change one"
        )
