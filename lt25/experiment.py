"""From a YAML file to a validated experiment, in which every value is resolved.

One experiment is one file of ``config/experiments/``, one dataset one file of ``config/datasets/``. What they may say stands in
`lt25.config.sections`, `lt25.tasks` and `lt25.models.families`. Every complaint is one line: file, key, what was found, what is
allowed. Nothing here imports torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from lt25 import plugins, sweeps
from lt25.config import overrides as on_command_line
from lt25.config.files import read_model, read_yaml
from lt25.config.key import OPTIONAL, Section, check, flat, identity, meant, resolve, suggestion
from lt25.config.sections import (
    CONFIG,
    EXPERIMENT,
    HIDDEN,
    JOB,
    MODEL,
    ORIGIN_OF,
    SET,
    SYNONYMS,
    dataset_keys,
    decides_by_validation,
    in_order,
    training_identity,
)
from lt25.errors import Mistakes, UserError
from lt25.files import read_record
from lt25.models import families, published, starts
from lt25.tasks import TASKS, Task, decided_keys

DEFAULT = "default"
"""The origin of a value that nobody gave."""

WINDOW = ("seq_len", "varlen", "context_len")
"""Keys of ``training`` that are about the window of a language model."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What the files of experiments and datasets may be called, without their suffix: folders and commands have these names."""

_HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")

_EVERY_MODEL = {name: replace(key, default=OPTIONAL) for name, key in MODEL.items()}


@dataclass(frozen=True)
class Dataset:
    """One file of ``config/datasets/``: where a dataset comes from and which of its columns and splits are used.

    Attributes:
        name: of the file, without its suffix.
        title, licence, homepage: for people.
        origin: has one of the keys ``builder``, ``hub`` or ``path``.
        columns: role (``input``, ``label``, ``audio``, ``text``, ...) -> name of the column; of ``input``, or names of several.
        splits: ``train``, ``validation``, ``test`` and further test splits -> the source's split, or a held-out part of one,
            ``{"from": "train", "fraction": 0.1}``.
        options: the other keys, ``tasks``, ``labels``, ``encoding`` and ``missing``.
    """

    name: str
    title: str
    licence: str
    homepage: str
    origin: dict[str, Any]
    columns: dict[str, Any]
    splits: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> dict[str, Any]:
        """What decides the prepared data."""
        keys = dataset_keys(self.splits)
        return identity({"columns": self.columns, "splits": self.splits, **self.options}, keys)


@dataclass(frozen=True)
class Experiment:
    """One file of ``config/experiments/``, validated and resolved, with the directories that its stages fill.

    Attributes:
        name: of the file, without its suffix; of a variant, with what was overridden.
        path: the file, relative to ``root``.
        root: the project's directory.
        task: the task's name.
        dataset: the dataset.
        prepare: the resolved options of preparation.
        model: a Hugging Face config without the fields that the data decides.
        init_from: another experiment, whose exported model training starts from; or, with a "/", a model of the Hub or a folder.
        evaluation: the resolved options of evaluation.
        job: the resolved sections of a training job.
        origins: dotted key -> the file that its value comes from, ``default`` or ``command line``.
        overrides: what the command line changed, by dotted key.
        decisive: those of them that decide where training arrives, and so make a variant with results of its own.
        swept: the keys of which the file has a list, if it is a sweep's; their values here are among ``decisive``.
        augment: what is done to training examples at random, resolved.
        halving: when the worse settings of its sweep stop, ``rungs`` and ``eta``; None: they do not.
        further: datasets that are read besides; what is held out of them is held out together.
        probabilities: of the dataset and of each further one, that a training example is of it; they add up to one.
    """

    name: str
    path: Path
    root: Path
    task: str
    dataset: Dataset
    prepare: dict[str, Any]
    model: dict[str, Any]
    init_from: str | None
    evaluation: dict[str, Any]
    job: dict[str, dict[str, Any]]
    origins: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    decisive: dict[str, Any] = field(default_factory=dict)
    swept: tuple[str, ...] = ()
    augment: dict[str, Any] = field(default_factory=dict)
    halving: dict[str, Any] | None = None
    further: tuple[Dataset, ...] = ()
    probabilities: tuple[float, ...] = (1.0,)

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """All datasets that are read."""
        return (self.dataset, *self.further)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are prepared: ``train``, ``validation``, ``test``, and further test splits of any of the datasets."""
        return in_order(name for dataset in self.datasets for name in dataset.splits)

    def resolved(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return all values, in the sections of an experiment file, and where each comes from, by dotted key.

        What the data decides of the model is among them once it is prepared.
        """
        values = {
            "task": self.task,
            **(
                {
                    "datasets": [
                        {"name": dataset.name, "probability": probability}
                        for dataset, probability in zip(self.datasets, self.probabilities, strict=True)
                    ]
                }
                if self.further
                else {"dataset": self.dataset.name}
            ),
            "prepare": self.prepare,
            "augment": self.augment,
            "model": dict(self.model),
            "init_from": self.init_from,
            "evaluation": self.evaluation,
            **self.job,
            **({"halving": self.halving} if self.halving else {}),
        }
        origins = dict(self.origins)
        if (self.processed_dir / "stats.json").is_file():
            decided = self.decided()
            values["model"] |= decided
            origins |= {f"model.{key}": "the prepared data" for key in decided}
        return values, origins

    @property
    def named(self) -> set[str]:
        """The keys of the model that the experiment or the command line gives a value, and not its base or a default."""
        given = (key for key, origin in self.origins.items() if origin != DEFAULT and not origin.endswith(".json"))
        return {key.split(".")[1] for key in given if key.startswith("model.")}

    def decided(self) -> dict[str, Any]:
        """Return the fields of the model's ``config.json`` that the prepared data decides.

        Raises:
            UserError: if it is not prepared.
        """
        fields = read_record(self.processed_dir / "stats.json", self.commands("prepare"))["model"]
        return fields if self.start is None else starts.padded(fields, self.root / self.start, self.processed_dir)

    @property
    def preparation(self) -> str:
        """Name of the prepared data: the same for two experiments exactly when they prepare the same thing."""
        task = TASKS[self.task]
        shape = [task.name, task.preparation_version, identity(self.prepare, task.prepare), self.dataset.shape]
        shape += [[dataset.name, dataset.shape] for dataset in self.further]
        if decided := self._decided_by_model:
            shape.append(decided)
        return f"{task.prefix}-{digest(shape)[:8]}"

    @property
    def preparation_options(self) -> dict[str, Any]:
        """What preparation goes by: ``prepare``, and those keys of the model's that decide the prepared data."""
        return {**self.prepare, **self._decided_by_model}

    @property
    def _decided_by_model(self) -> dict[str, Any]:
        return {key: self.model[key] for key in TASKS[self.task].prepare_from_model if key in self.model}

    @property
    def arguments(self) -> str:
        """What a command takes to mean this experiment: its name, and the overrides."""
        given = (f"--{key} {json.dumps(value, default=str)}" for key, value in self.overrides.items())
        return " ".join([self.path.stem, *given])

    @property
    def raw_dir(self) -> Path:
        return self.raw_dir_of(self.dataset)

    def raw_dir_of(self, dataset: Dataset) -> Path:
        """Return the folder of a dataset's files as published."""
        return self.root / "data" / "raw" / dataset.name

    @property
    def processed_dir(self) -> Path:
        return self.root / "data" / "processed" / self.dataset.name / self.preparation

    @property
    def results_dir(self) -> Path:
        return self.root / "results" / self.name

    @property
    def parent(self) -> str | None:
        """The experiment whose exported model training starts from; None if there is none, or another model."""
        return None if self.init_from is None or "/" in self.init_from else self.init_from

    @property
    def starts_in_a_folder(self) -> bool:
        """Whether ``init_from`` can only be a folder, not a model of the Hub."""
        return not _HUB_NAME.fullmatch(self.init_from or "")

    @property
    def start(self) -> str | None:
        """The folder of the model that training starts from, relative to the project."""
        if self.init_from is None or self.parent is not None:
            return None if self.init_from is None else f"results/{self.init_from}/hf"
        if self.starts_in_a_folder or (self.root / self.init_from).is_dir():
            return f"data/models/{Path(self.init_from).name}-{digest(self.init_from)[:8]}"
        return f"data/models/{self.init_from}"

    @property
    def job_file(self) -> Path:
        """The file of the training job: one of its own, if something is overridden that decides on no other model."""
        further = {key: value for key, value in self.overrides.items() if key.split(".")[0] in JOB}
        further = {key: value for key, value in further.items() if key not in self.decisive}
        return self.results_dir / f"job{on_command_line.variant(further)}.toml"

    @property
    def evaluation_dir(self) -> Path:
        """Where numbers and plots go: apart from the experiment's own, if options of the evaluation are overridden."""
        options = {key: value for key, value in self.overrides.items() if key.startswith("evaluation.")}
        variant = on_command_line.variant({**self.decisive, **options})
        return self.root / "results" / f"{self.path.stem}{variant}" / "evaluation"

    def missing(self, stage: str | None = None) -> dict[str, str]:
        """Return the stages before one (of none: all) that have still to be run, each with its command, in their order.

        What a stage has left stands for the stages before it.
        """
        manifests = {dataset.name: self.raw_dir_of(dataset) / "SOURCE.json" for dataset in self.datasets}
        wanted = [name for name, manifest in manifests.items() if not manifest.is_file()] or list(manifests)
        stages = {
            "download": (manifests[wanted[0]], " && ".join(f"lt25 download {name}" for name in wanted)),
            "prepare": (self.processed_dir / "stats.json", f"lt25 prepare {self.arguments}"),
            "train": (self.results_dir / "train.json", f"lt25 train {self.arguments}"),
            "export": (self.results_dir / "hf" / "config.json", f"lt25 export {self.arguments}"),
            "evaluate": (self.evaluation_dir / "metrics.json", f"lt25 evaluate {self.arguments}"),
        }
        names = list(stages)
        # Without checkpoints there is nothing to export.
        last = stage or (None if self.job["checkpoint"]["enable"] else "export")
        names = names if last is None else names[: names.index(last)]
        done = [number for number, name in enumerate(names, 1) if stages[name][0].is_file()]
        return {name: stages[name][1] for name in names[max(done, default=0) :]}

    def commands(self, stage: str) -> str:
        """Return the commands that make what a stage leaves, for a message: "lt25 download a && lt25 prepare b"."""
        name = self.dataset.name if stage == "download" else self.arguments
        return " && ".join([*self.missing(stage).values(), f"lt25 {stage} {name}"])

    @property
    def kept_steps(self) -> list[int]:
        """The steps whose checkpoints a finished run has kept, ascending; the last is the final step."""
        steps, checkpoint = self.job["training"]["steps"], self.job["checkpoint"]
        interval = checkpoint["interval"]
        saved = sorted({*range(interval, steps + 1, interval), steps})
        return saved[-checkpoint["keep_latest_k"] :]


def has_curve(experiment: Experiment, learning_curves: bool) -> bool:
    """Whether the kept steps before the last are evaluated for a learning curve; ``learning_curves``: the project's setting."""
    # Where validation decides, nobody knows beforehand which steps there will be.
    return learning_curves and not decides_by_validation(experiment.job) and bool(experiment.kept_steps[:-1])


def check_shown(experiments: Iterable[Experiment], named: Iterable[str]) -> None:
    """Complain of a sweep that stops runs early among what config/config.yaml names: its stages are not known beforehand.

    Args:
        experiments: what the report shows.
        named: the names in config/config.yaml.
    """
    halved = next((one.path.stem for one in experiments if one.halving and one.path.stem in named), None)
    if halved:
        raise UserError(
            f"config/config.yaml: experiments: {halved} stops runs early, and which of them is not known beforehand: leave it "
            f"out, `snakemake results/{halved}/report.html` compares its runs; one of them can be named, {halved}@..."
        )


def exported_step(trained: Mapping[str, Any]) -> int:
    """Return the step that is exported of a training, by its ``train.json``: the best, if that is kept, or the last."""
    return (trained.get("best") or {"step": trained["steps"]})["step"]


def exported_steps(trained: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[int]:
    """Return the steps whose checkpoints' mean is exported, ascending: with ``average: 1`` the one of `exported_step`.

    Checkpoints that were written because training was interrupted do not count: they would make another model of it.

    Args:
        trained: a ``train.json``.
        checkpoint: the experiment's section of that name.
    """
    last, interval = exported_step(trained), checkpoint["interval"]
    earlier = range((last - 1) // interval * interval, 0, -interval)
    return [*reversed(earlier[: checkpoint["average"] - 1]), last]


def model_fingerprint(trained: Mapping[str, Any], steps: Iterable[int]) -> str:
    """Return what ``export.json`` calls the model that the checkpoints of some steps of a training give, ascending."""
    return "-".join([trained["fingerprint"], *map(str, steps)])


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, the same for equal values whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def project_root() -> Path:
    """Return the project directory: the nearest one, from here upwards, that holds ``config/experiments/``.

    Raises:
        UserError: if there is none.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "config" / "experiments").is_dir():
            return folder
    raise UserError(f"{Path.cwd()}: not inside an lt25 project (a folder with config/experiments/): cd into one")


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read, check and resolve an experiment.

    Args:
        path: the YAML file, or the bare name of one in ``config/experiments/``, or the name of a variant.
        overrides: "key=value" with a dotted key, as on the command line: "optimizer.lr=1e-3".

    Raises:
        UserError: if a file is missing or is not YAML, or a key or value is not allowed or does not fit the others.
    """
    path, given, root = _find(path, overrides)
    return _load(path, given, root, ())


def load_experiments(path: str | Path, overrides: Iterable[str] = ()) -> list[Experiment]:
    """Read an experiment as `load_experiment`, or all runs of a sweep, in the order of its lists.

    Overrides of a sweep hold for all runs; of a key that has a list, for those with that value.

    Raises:
        UserError: as `load_experiment`.
    """
    path, given, root = _find(path, overrides)
    said = _read(path, root)
    free = {key: values for key, values in said[1].items() if key not in given}
    known: dict[str, Dataset] = {}
    return [_load(path, {**given, **setting}, root, (), known=known, said=said) for setting in sweeps.settings(free)]


def sweep_of(path: Path, root: Path | None = None) -> sweeps.Axes:
    """Return the keys of which an experiment file has a list, with the values; nothing for what is no sweep, or no such file.

    Args:
        path: the file, relative to the project.
        root: the project's directory, if plugins are loaded already.

    Raises:
        UserError: if the file is no YAML, or the lists make no sweep.
    """
    if root is None:
        root = project_root()
        _load_plugins(root)
    return _read(path, root)[1] if (root / path).is_file() else {}


def _read(path: Path, root: Path, named: str = "") -> tuple[dict[str, Any], sweeps.Axes]:
    """Return what an experiment file says, and the keys of which it has a list; the arguments are those of `_load`."""
    _check_name(path.stem, "a file", str(path))
    written = read_yaml(root / path, "experiment", named)
    return written, sweeps.axes(written, str(path), root)


def _find(path: str | Path, overrides: Iterable[str]) -> tuple[Path, dict[str, Any], Path]:
    """Return the file that an experiment's name stands for, relative to the project, what is overridden, and the project."""
    root = project_root()
    _load_plugins(root)
    text, given = str(path), on_command_line.parse(overrides)
    if not text.endswith((".yaml", ".yml")):
        text, at, variant = text.partition("@")
        _check_name(text, "an experiment, or a path")
        file = Path(f"config/experiments/{text}.yaml")
        if at:
            given = {**_of_variant(file, variant, root), **given}
        text = f"{root}/{file}"
    return Path(os.path.relpath(text, root)), given, root


def _of_variant(file: Path, variant: str, root: Path) -> dict[str, Any]:
    """Return the overrides that a variant's name stands for: of a sweep's run, the name that it is listed with."""
    if re.search(r"-[0-9a-f]{8}$", variant):
        for setting in sweeps.settings(swept) if (swept := sweep_of(file, root)) else ():
            if on_command_line.variant(setting) == f"@{variant}":
                return setting
    return on_command_line.of_variant(variant, root / "results" / f"{file.stem}@{variant}")


def load_dataset_config(name: str | Path, root: Path | None = None, named: str = "") -> Dataset:
    """Read, check and resolve a dataset file.

    Args:
        name: a path, or the bare name of a file in ``config/datasets/``.
        root: the project's directory, if plugins are loaded already.
        named: the file and key that name it, for messages.

    Raises:
        UserError: as `load_experiment`.
    """
    if root is None:
        root = project_root()
        _load_plugins(root)
    text = str(name)
    if not text.endswith((".yaml", ".yml")):
        _check_name(text, "a dataset, or a path", named)
        text = f"config/datasets/{text}.yaml"
    path = root / text
    where = os.path.relpath(path, root)
    _check_name(path.stem, "a file", where)
    written = read_yaml(path, "dataset", named)
    splits = written.get("splits")
    keys = dataset_keys(splits if isinstance(splits, Mapping) else ())
    check(written, _with_tasks(keys), where)
    values = resolve(written, keys)
    _check_dataset(values, where)
    options = {key: values.pop(key) for key in ("tasks", "labels", "encoding", "missing")}
    _check_encoding(options["encoding"], where)
    return Dataset(name=path.stem, options=options, **values)


def load_config(path: str | Path = "config/config.yaml") -> dict[str, Any]:
    """Read, check and resolve the project's ``config/config.yaml``.

    Raises:
        UserError: as `load_experiment`.
    """
    written = read_yaml(project_root() / path, "configuration")
    check(written, CONFIG, str(path))
    return resolve(written, CONFIG)


def model_keys(model_type: str) -> Section | None:
    """Return all keys that a model's config may have; None for a family of which nothing is known.

    Raises:
        UserError: if there is no such family.
    """
    keys = families.find(model_type).model_keys()
    return None if keys is None else {**_EVERY_MODEL, **keys}


def plugin_names(root: Path) -> list[str]:
    """Return the plugins that a project's config/config.yaml names; none if it has no such file."""
    return load_config()["plugins"] if (root / "config" / "config.yaml").is_file() else []


def _load_plugins(root: Path) -> None:
    plugins.load(root, plugin_names(root), lambda: [*map(id, TASKS.values()), *map(id, families.FAMILIES.values())])


def hub_mirror() -> Path | None:
    """Return the local mirror of the Hub that ``LT25_HUB_MIRROR`` or config/config.yaml's ``hub_mirror`` names."""
    name = os.environ.get("LT25_HUB_MIRROR")
    if not name and (project_root() / "config" / "config.yaml").is_file():
        name = load_config()["hub_mirror"]
    return Path(name).expanduser() if name else None


def _check_name(name: str, what: str, where: str = "") -> None:
    if not NAME.fullmatch(name):
        found = f"{where}: " if where else ""
        if what.endswith("or a path") and "/" in name:
            raise UserError(f"{found}{name}: expected the name of {what} that ends in .yaml")
        raise UserError(
            f"{found}found {name!r} as the name of {what}, expected letters, digits, `_`, `-` and, not first, `.`, 100 at most: "
            "rename it"
        )


def _load(
    path: Path,
    overrides: Mapping[str, Any],
    root: Path,
    descendants: tuple[str, ...],
    named: str = "",
    known: dict[str, Dataset] | None = None,
    said: tuple[dict[str, Any], sweeps.Axes] | None = None,
) -> Experiment:
    """As `load_experiment`.

    Args:
        path: the file, relative to the project.
        overrides: values by dotted key.
        root: the project.
        descendants: the experiments that start, directly or not, from this one.
        named: the file and key that name it, for messages.
        known: datasets whose files were read already, by name; those that are read are added.
        said: what `_read` has returned, if the file was read already.
    """
    known = {} if known is None else known
    where, decisive = str(path), {}
    written, swept = _read(path, root, named) if said is None else said
    if free := [key for key in swept if key not in overrides]:
        first = f"{path.stem}{on_command_line.variant({**next(sweeps.settings(swept)), **overrides})}"
        raise UserError(
            f"{where}: is a sweep, {sweeps.size(swept)} runs that differ in {', '.join(free)}: name one, such as {first}; "
            f"`lt25 config {path.stem}` lists them"
        )
    # A run is what the file would say with one value of each list.
    chosen = {key: overrides[key] if overrides[key] in values else values[0] for key, values in swept.items()}
    written = on_command_line.merge(written, chosen)
    mistakes = Mistakes()
    with mistakes:
        values, base = _resolve(written, where, root)
    with mistakes:
        if isinstance(written.get("dataset"), str):
            _dataset(written["dataset"], root, f"{where}: dataset", known)
    mistakes.complain()
    if changes := {key: value for key, value in overrides.items() if key not in chosen or chosen[key] != value}:
        plain = values
        before = {**flat(values), **flat(written)}
        _check_overrides(changes)
        written = on_command_line.merge(written, changes)
        values, base = _resolve(written, on_command_line.WHERE, root)
        after = {**flat(written), **flat(values)}
        changes = {key: after[key] for key in changes if before.get(key, DEFAULT) != after[key]}
        decisive = {key: value for key, value in changes.items() if key in chosen or _decides(key, plain, values)}
        where = f"{path}, with what the command line sets"

    decisive = {**chosen, **decisive}
    datasets, probabilities = _datasets(values, root, where, known)
    experiment = Experiment(
        name=f"{path.stem}{on_command_line.variant(decisive)}",
        path=path,
        root=root,
        task=values["task"],
        dataset=datasets[0],
        prepare=values["prepare"],
        model=values["model"],
        init_from=values["init_from"],
        evaluation=values["evaluation"],
        job={name: values[name] for name in JOB},
        origins=_origins(values, written, base, changes, path),
        overrides={**chosen, **changes},
        decisive=decisive,
        swept=tuple(swept),
        augment=values["augment"],
        halving=values.get("halving"),
        further=datasets[1:],
        probabilities=probabilities,
    )
    for check_part in (
        lambda: _check_data(experiment, where),
        lambda: _check_model(experiment, base, where),
        lambda: _check_job(experiment, where),
        lambda: _check_halving(experiment, where),
        lambda: _check_start(experiment, (*descendants, path.stem)),
    ):
        with mistakes:
            check_part()
    mistakes.complain()
    return experiment


def _dataset(name: str, root: Path, named: str, known: dict[str, Dataset]) -> Dataset:
    if name not in known:
        known[name] = load_dataset_config(name, root, named)
    return known[name]


def _datasets(
    values: Mapping[str, Any], root: Path, where: str, known: dict[str, Dataset]
) -> tuple[tuple[Dataset, ...], tuple[float, ...]]:
    """Load the datasets that an experiment names, one or several; return them and how often each is read."""
    if ("dataset" in values) == ("datasets" in values):
        found = "missing" if "dataset" not in values else "is there, and datasets too"
        raise UserError(f"{where}: dataset: {found}: name one dataset, or several under datasets")
    if "dataset" in values:
        return (_dataset(values["dataset"], root, f"{where}: dataset", known),), (1.0,)
    if values["task"] != "language_modeling":
        raise UserError(
            f"{where}: datasets: several are for language_modeling, and the task is {values['task']}: use dataset"
        )
    names = [one["name"] for one in values["datasets"]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{where}: datasets: {twice} is there twice: name it once, with the sum of the probabilities")
    total = sum(one["probability"] for one in values["datasets"])
    # Thirds may be written with three digits.
    if abs(total - 1) > 0.005:
        raise UserError(f"{where}: datasets: the probabilities add up to {total:.6g}, expected 1: change them")
    loaded = tuple(_dataset(name, root, f"{where}: datasets", known) for name in names)
    return loaded, tuple(one["probability"] / total for one in values["datasets"])


def _decides(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the override of a key decides where training arrives, given all values without and with the overrides."""
    section, name = key.split(".", 1)
    if section == "model":
        return name not in MODEL or MODEL[name].identity
    if section not in JOB:
        return section != "evaluation"
    if key == "training.steps":
        return True
    if key in ("training.local_batch_size", "training.global_batch_size"):
        batches = (values["training"] for values in (before, after))
        one, other = (
            (
                b["global_batch_size"],
                0 if b["global_batch_size"] > 0 and not b["batch_seconds"] else b["local_batch_size"],
            )
            for b in batches
        )
        return one != other
    one, other = (flat(training_identity({name: values[name] for name in JOB})) for values in (before, after))
    return one.get(key) != other.get(key)


def _resolve(written: Mapping[str, Any], where: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check what an experiment file says and fill in the defaults.

    Returns:
        The values of all keys and sections, and the content of the file that ``model.base`` names.
    """
    mistakes, top = Mistakes(), {**EXPERIMENT, "task": replace(EXPERIMENT["task"], bounds={"enum": list(TASKS)})}
    shown = {name: _without_hidden(name, section, where, mistakes) for name, section in written.items()}
    task = TASKS.get(written["task"]) if isinstance(written.get("task"), str) else None
    if task is not None:
        top |= {name: replace(top[name], keys=getattr(task, name)) for name in ("prepare", "augment", "evaluation")}
    model, base = {}, {}
    with mistakes:
        if isinstance(written.get("model"), Mapping):
            model, base, known = _resolve_model(written["model"], where, root)
            top["model"] = replace(top["model"], keys=known)
    with mistakes:
        check(shown, top, where, SYNONYMS)
    mistakes.complain()
    values = {**resolve(written, top), "model": model}
    for name, fixed in SET.items():
        values[name] = {**values[name], **fixed}
    return values, base


def _without_hidden(name: str, section: Any, where: str, mistakes: Mistakes) -> Any:
    """Return a section without the keys that are not for an experiment, and complain of each."""
    hidden = HIDDEN.get(name, {})
    if not isinstance(section, Mapping):
        return section
    for key in hidden.keys() & section.keys():
        with mistakes:
            raise UserError(f"{where}: {name}.{key}: not for an experiment: {hidden[key]}: remove the key")
    return {key: value for key, value in section.items() if key not in hidden}


def _resolve_model(
    written: Mapping[str, Any], where: str, root: Path
) -> tuple[dict[str, Any], dict[str, Any], Section | None]:
    """Fill in what a ``model`` section leaves to its base and to the defaults.

    Returns:
        The values of all keys; the content of the file that ``base`` names; the keys of the family, None if they are not known.
    """
    own = dict(written)
    common = {name: value for name, value in own.items() if name in _EVERY_MODEL}
    check({"model": common}, {"model": replace(EXPERIMENT["model"], keys=_EVERY_MODEL)}, where)
    path = own.pop("base", None)
    base = read_model(root / path, f"{where}: model.base") if path else {}
    if len({str(one["model_type"]) for one in (own, base) if "model_type" in one}) > 1:
        _model_keys(own["model_type"], f"{where}: model.model_type")
        raise UserError(
            f"{where}: model.model_type: found {own['model_type']}, but model.base, {path}, is of the type "
            f"{base['model_type']}: name another base, or none"
        )
    named = {**base, **own}
    if "model_type" not in named:
        raise UserError(f"{where}: model.model_type: missing: name a model type (lt25_hgrn) or a `base:` file")
    known = _model_keys(
        named["model_type"], f"{where}: model.model_type" if "model_type" in own else f"{path}: model_type"
    )
    base = published.as_keys(base, known)
    model = {**base, **own}
    if known is not None:
        check(base, known, path)
        model = {**model, **resolve(model, known)}
    return model, base, known


def _model_keys(model_type: str, key: str) -> Section | None:
    """Return `model_keys`; a complaint names the key that said the type."""
    try:
        return model_keys(model_type)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _origins(
    values: Mapping[str, Any],
    written: Mapping[str, Any],
    base: Mapping[str, Any],
    overrides: Mapping[str, Any],
    path: Path,
) -> dict[str, str]:
    """Return where each value comes from, by dotted key."""
    given = flat(written)
    in_base = dict.fromkeys(flat({"model": base}), cast(str, written["model"]["base"])) if base else {}
    origins = {key: in_base.get(key, DEFAULT) for key in flat(values)}
    origins |= {key: str(path) for key in origins if key in given}
    origins |= {key: on_command_line.WHERE for key in origins if key in overrides}
    return origins | {f"{name}.{key}": "lt25" for name, fixed in SET.items() for key in fixed}


def _with_tasks(keys: Section) -> Section:
    """Return the keys of a dataset file with the tasks that there are and the roles that they have."""
    one = {"type": "string", "minLength": 1}
    roles: dict[str, Any] = {role: one for task in TASKS.values() for role in task.columns}
    roles |= dict.fromkeys(("group", "id", "time", "start", "end", "duration"), one)
    if "input" in roles:
        roles["input"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}]}
    columns = {"minProperties": 1, "additionalProperties": False, "properties": roles}
    return {
        **keys,
        "tasks": replace(keys["tasks"], bounds={"items": {"enum": list(TASKS)}, "minItems": 1}),
        "columns": replace(keys["columns"], bounds=columns),
    }


def _check_encoding(encoding: str, where: str) -> None:
    try:
        "".encode(encoding)
    except (LookupError, ValueError):
        raise UserError(
            f"{where}: encoding: found {encoding}, expected an encoding of text that Python knows: utf-8, latin-1, cp1252, utf-16"
        ) from None


def _check_dataset(values: Mapping[str, Any], where: str) -> None:
    """Compare the keys of a dataset file with each other."""
    held_out = {name: split for name, split in values["splits"].items() if isinstance(split, dict)}
    named = next((name for name, split in held_out.items() if "groups" in split), None)
    if named and "group" not in values["columns"]:
        raise UserError(f"{where}: splits.{named}.groups: needs a column of groups: add columns.group")
    segment = [role for role in ("start", "end", "duration") if role in values["columns"]]
    if segment and "speech_recognition" not in values["tasks"]:
        raise UserError(f"{where}: columns.{segment[0]}: is for speech, which none of its tasks reads: remove the key")
    if "end" in segment and "duration" in segment:
        raise UserError(f"{where}: columns.duration: found beside columns.end: name one of them")
    if values["missing"] == "carry" and "classification" not in values["tasks"]:
        raise UserError(
            f"{where}: missing: found carry, which is for series of numbers, which none of its tasks reads: remove the key"
        )
    parts = {name: split.get("fraction", 0) for name, split in held_out.items()}
    if sum(parts.values()) >= 1:
        said = " and ".join(f"{name} takes {part}" for name, part in parts.items())
        raise UserError(f"{where}: splits: {said} of train, which leaves nothing to train on: lower the fractions")
    train = _names(values["splits"]["train"])
    for name, split in values["splits"].items():
        if name != "train" and not isinstance(split, dict) and (both := [one for one in _names(split) if one in train]):
            raise UserError(
                f"{where}: splits.{name}: {both[0]} is read for splits.train too: name another split, or hold out a part of "
                "train, {from: train, fraction: 0.1}"
            )
    origin = values["origin"]
    for key in origin.keys() & ORIGIN_OF.keys():
        owners = ORIGIN_OF[key]
        if not any(owner in (*origin, origin.get("builder")) for owner in owners):
            owner = " or ".join(f"origin.{one}" if one in ("hub", "path") else f"the builder {one}" for one in owners)
            raise UserError(f"{where}: origin.{key}: only for {owner}: remove the key")
    if origin.get("builder") == "recall" and "kind" not in origin:
        raise UserError(f"{where}: origin.kind: missing: the builder recall needs it: add mqar, copying or induction")


def _names(split: str | list[str]) -> list[str]:
    return [split] if isinstance(split, str) else split


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    sections = [name for name, key in EXPERIMENT.items() if key.type == "object" and name != "halving"]
    for key in overrides:
        if (section := key.split(".")[0]) not in sections:
            hint = suggestion(section, sections, "docs/training.md", meant(key, EXPERIMENT, SYNONYMS))
            raise UserError(f"{on_command_line.WHERE}: {key}: no section {section}: {hint}")


def _check_data(experiment: Experiment, where: str) -> None:
    for dataset in experiment.datasets:
        if experiment.task not in dataset.options["tasks"]:
            raise UserError(
                f"{experiment.path}: task: found {experiment.task}, but the dataset {dataset.name} is for "
                f"{', '.join(dataset.options['tasks'])}: change one"
            )
        for role in TASKS[experiment.task].columns:
            if role not in dataset.columns:
                raise UserError(
                    f"config/datasets/{dataset.name}.yaml: columns.{role}: missing: {experiment.task} needs it"
                )
    if complaint := TASKS[experiment.task].complaint(experiment.prepare, experiment.augment):
        raise UserError(f"{where}: {complaint}")


def _check_model(experiment: Experiment, base: Mapping[str, Any], where: str) -> None:
    task, family = TASKS[experiment.task], families.find(experiment.model["model_type"])
    training = experiment.job["training"]
    for key in ("varlen", "context_len"):
        if training[key] and not family.cu_seqlens:
            raise UserError(
                f"{where}: training.{key}: found {json.dumps(training[key])}, but {family.model_type} reads the documents of a "
                f"window one on from another: remove the key, or use a family that keeps them apart"
            )
    if training["context_len"] and training["varlen"] is False:
        raise UserError(
            f"{where}: training.context_len: is for documents that are apart: remove it, or training.varlen"
        )
    if training["context_len"] and training["context_len"] > training["seq_len"]:
        raise UserError(
            f"{where}: training.context_len: {training['context_len']} is more than training.seq_len, {training['seq_len']}, the "
            "tokens of a window: lower it"
        )
    for architecture in experiment.model.get("architectures", ()):
        if not _made_for(architecture, task) and not architecture.endswith("Model"):
            other = next((other.name for other in TASKS.values() if _made_for(architecture, other)), "no task of these")
            key = "base" if architecture in base.get("architectures", ()) else "architectures"
            raise UserError(
                f"{where}: model.{key}: made for {architecture}, which does {other}, and the task is {task.name}: name a "
                "model of this task"
            )
    _check_idle(experiment, family, where)
    # On which device it will be trained is not known yet: `lt25 check` and the trainer look at that.
    families.check(experiment.model, task.name, experiment.job["parallelism"], family.devices[0], where)
    # What another task's data decides means nothing here.
    for key in (*task.decided, *sorted(decided_keys())):
        if experiment.origins.get(f"model.{key}", DEFAULT) != DEFAULT:
            raise UserError(f"{where}: model.{key}: the data decides it: remove the key")


def _check_idle(experiment: Experiment, family: families.Family, where: str) -> None:
    """Refuse a key of the model that does nothing, unless a base carries it, or the key that decides so is given too.

    Who gives that, 0 or false though it be, knows: a sweep may have such a value.
    """
    origins = {key: experiment.origins.get(f"model.{key}", DEFAULT) for key in experiment.model}
    given = [key for key, origin in origins.items() if origin != DEFAULT]
    for key in (key for key in given if not origins[key].endswith(".json")):
        if (other := family.needs.get(key, key)) not in given:
            raise UserError(
                f"{where}: model.{key}: has no effect without model.{other}: give that too, or remove the key"
            )
        if (other := family.overruled.get(key, "")) in given and experiment.model[other] is not None:
            raise UserError(
                f"{where}: model.{key}: has no effect beside model.{other}, {experiment.model[other]}: set that to null, or "
                "remove the key"
            )


def _made_for(architecture: str, task: Task) -> bool:
    return architecture.endswith(task.auto_model.removeprefix("AutoModel"))


def _check_job(experiment: Experiment, where: str) -> None:
    """Compare the sections of a job with each other."""
    training, schedule = experiment.job["training"], experiment.job["lr_scheduler"]
    local, total, steps = training["local_batch_size"], training["global_batch_size"], training["steps"]
    if total > 0 and total % local:
        raise UserError(
            f"{where}: training.global_batch_size: {total} is no multiple of training.local_batch_size, {local}: change one"
        )
    if schedule["warmup_steps"] > (schedule["total_steps"] or steps):
        of = "lr_scheduler.total_steps" if schedule["total_steps"] else "training.steps"
        default = ", the default," if experiment.origins["lr_scheduler.warmup_steps"] == DEFAULT else ""
        raise UserError(
            f"{where}: lr_scheduler.warmup_steps: {schedule['warmup_steps']}{default} is more than {of}, "
            f"{schedule['total_steps'] or steps}: lower it"
        )
    if training["z_loss"]:
        family = families.find(experiment.model["model_type"])
        if TASKS[experiment.task].main_input != "input_ids" or not family.linear_head:
            raise UserError(
                f"{where}: training.z_loss: found {training['z_loss']}, but the loss of {family.model_type} in "
                f"{experiment.task} has none: use 0"
            )
        if not training["fused_loss"]:
            raise UserError(f"{where}: training.z_loss: found {training['z_loss']}: needs training.fused_loss: true")
    if training["label_smoothing"] and experiment.task != "classification":
        raise UserError(
            f"{where}: training.label_smoothing: found {training['label_smoothing']}, but the loss of {experiment.task} has "
            "none: use 0"
        )
    if training["intermediate_ctc"]:
        family, layers = families.find(experiment.model["model_type"]), experiment.model.get("num_hidden_layers", 0)
        found = f"{where}: training.intermediate_ctc: found {training['intermediate_ctc']}, but"
        if experiment.task != "speech_recognition" or not family.intermediate:
            raise UserError(f"{found} {family.model_type} in {experiment.task} has no logits of a middle layer: use 0")
        if layers < 2:
            raise UserError(
                f"{found} a model of one layer has none in its middle: use 0, or raise model.num_hidden_layers"
            )
    if seconds := training["batch_seconds"]:
        found = f"{where}: training.batch_seconds: found {seconds}, but"
        if experiment.task != "speech_recognition":
            raise UserError(f"{found} it is for utterances, and the task is {experiment.task}: remove the key")
        if experiment.job["parallelism"]["pipeline_parallel_degree"] > 1:
            raise UserError(f"{found} the micro-batches of a pipeline have one size: remove the key")
        if experiment.origins["training.local_batch_size"] == DEFAULT:
            raise UserError(
                f"{found} no training.local_batch_size, the most utterances of a batch, stands beside it: add it"
            )
    further = {
        "training.label_smoothing": training["label_smoothing"],
        "training.intermediate_ctc": training["intermediate_ctc"],
        "augment.mixup": experiment.augment.get("mixup"),
        "augment.consistency": experiment.augment.get("consistency"),
    }
    if experiment.job["parallelism"]["pipeline_parallel_degree"] > 1 and (
        key := next(filter(further.get, further), None)
    ):
        raise UserError(f"{where}: {key}: found {further[key]}, but a pipeline computes the plain loss: use 0")
    own = [key for key in ("gate_lr", "gate_weight_decay") if experiment.job["optimizer"][key] is not None]
    if own and not (family := families.find(experiment.model["model_type"])).gates:
        raise UserError(
            f"{where}: optimizer.{own[0]}: {family.model_type} has no forget gates that are known: remove the key"
        )
    if own and experiment.job["optimizer"]["name"] == "Muon":
        raise UserError(f"{where}: optimizer.{own[0]}: not with Muon: remove the key, or use AdamW")
    if experiment.job["optimizer"]["ema_decay"] and training["dtype"] != "float32":
        raise UserError(
            f"{where}: optimizer.ema_decay: found {experiment.job['optimizer']['ema_decay']}, but a mean in bfloat16 stands "
            f"still: set training.dtype to float32"
        )
    profiling = experiment.job["profiling"]
    if (
        profiling["enable_profiling"]
        and profiling["profile_freq"] < profiling["profiler_warmup"] + profiling["profiler_active"]
    ):
        raise UserError(
            f"{where}: profiling.profile_freq: found {profiling['profile_freq']}, less than profiler_warmup and "
            f"profiler_active together: raise it"
        )
    validation, keep = experiment.job["validation"], experiment.job["checkpoint"]["keep"]
    for key, wants in (("validation.patience", validation["patience"] > 0), ("checkpoint.keep", keep == "best")):
        if wants and not validation["freq"]:
            raise UserError(
                f"{where}: {key}: needs validation: set validation.freq to a number of steps, {steps} at most"
            )
        if wants and validation["freq"] > steps:
            raise UserError(
                f"{where}: validation.freq: {validation['freq']} is more than training.steps, {steps}, so there is no "
                f"validation, which {key} needs: lower it"
            )
    compiled, parallelism = experiment.job["compile"], experiment.job["parallelism"]
    for kind in ("context", "tensor"):
        if compiled["enable"] and "model" in compiled["components"] and parallelism[f"{kind}_parallel_degree"] > 1:
            raise UserError(f"{where}: compile.enable: found true, but not with {kind} parallelism: use false")
    if experiment.job["optimizer"]["name"] == "Muon" and parallelism["tensor_parallel_degree"] > 1:
        raise UserError(
            f"{where}: optimizer.name: found Muon, but not with tensor parallelism, which cuts matrices of one shape in two "
            "ways: use AdamW"
        )
    if experiment.job["activation_checkpoint"]["mode"] == "memory_budget" and not (
        compiled["enable"] and "model" in compiled["components"]
    ):
        raise UserError(
            f"{where}: activation_checkpoint.mode: memory_budget is a compiler's: set compile.enable to true, or another mode"
        )
    loader = training["dataloader"]
    if loader["num_workers"] and TASKS[experiment.task].windows:
        raise UserError(
            f"{where}: training.dataloader.num_workers: found {loader['num_workers']}, but text is packed in one place, in a "
            "thread of the trainer: set it to 0"
        )
    for key in ("persistent_workers", "prefetch_factor"):
        if loader[key] and not loader["num_workers"]:
            raise UserError(
                f"{where}: training.dataloader.{key}: needs processes that read: set num_workers, or remove the key"
            )
    for key in WINDOW:
        if experiment.origins[f"training.{key}"] != DEFAULT and not TASKS[experiment.task].windows:
            raise UserError(
                f"{where}: training.{key}: is about the window of a language model, and {experiment.task} reads whole "
                "examples: remove the key"
            )
    _check_average(experiment, where)
    if not experiment.job["checkpoint"]["enable"] and keep == "best":
        raise UserError(f"{where}: checkpoint.keep: best needs checkpoint.enable: set it to true")


def _check_average(experiment: Experiment, where: str) -> None:
    """Check that there will be as many checkpoints as are to be averaged."""
    checkpoint, steps = experiment.job["checkpoint"], experiment.job["training"]["steps"]
    average, latest, interval = checkpoint["average"], checkpoint["keep_latest_k"], checkpoint["interval"]
    if average == 1:
        return
    found = f"{where}: checkpoint.average: found {average}, but"
    if checkpoint["keep"] == "best":
        raise UserError(f"{found} checkpoint.keep best exports one checkpoint: remove one of the two keys")
    if 0 < latest < average:
        raise UserError(f"{found} checkpoint.keep_latest_k keeps {latest}: raise it, or set it to 0")
    if (there := -(-steps // interval)) < average:
        raise UserError(
            f"{found} {steps} steps have {there} checkpoints, one each {interval}: lower checkpoint.interval"
        )


def _check_halving(experiment: Experiment, where: str) -> None:
    """Check that validation measures every run of a sweep at its rungs, by numbers that can be compared."""
    if experiment.halving is None:
        return
    rungs, freq = experiment.halving["rungs"], experiment.job["validation"]["freq"]
    varied = [key for key in experiment.swept if key != sweeps.SEED]
    if not varied:
        raise UserError(
            f"{where}: halving: chooses among the settings of a sweep, and there is one alone: give another key than "
            f"{sweeps.SEED} several values, or remove the section"
        )
    if rungs != sorted(set(rungs)) or rungs[-1] >= experiment.job["training"]["steps"]:
        raise UserError(
            f"{where}: halving.rungs: found {json.dumps(rungs)}, expected steps in ascending order, each less than "
            f"training.steps, {experiment.job['training']['steps']}"
        )
    if not freq or (off := next((rung for rung in rungs if rung % freq), None)):
        found = f"no validation after step {off}" if freq else "no validation"
        raise UserError(
            f"{where}: halving.rungs: validation decides, and there is {found}: set validation.freq to a number of steps that "
            "divides each rung"
        )
    if not experiment.job["checkpoint"]["enable"]:
        raise UserError(f"{where}: halving: training goes on from checkpoints: set checkpoint.enable to true")
    prepared = next((key for key in varied if key.startswith("prepare.")), None)
    if prepared and TASKS[experiment.task].main_input == "input_ids":
        raise UserError(
            f"{where}: halving: compares the loss of a token, which {prepared} makes another thing: give it one value, or remove "
            "the section"
        )


def _check_start(experiment: Experiment, chain: tuple[str, ...]) -> None:
    """Check the experiment whose model training starts from; ``chain`` ends with this one."""
    start = experiment.parent
    if start is None:
        return
    where = f"{experiment.path}: init_from"
    if start in chain:
        raise UserError(f"{where}: a circle: {' starts from '.join((*chain, start))}: end it somewhere")
    _check_name(start, "an experiment", where)
    parent = _load(Path("config/experiments") / f"{start}.yaml", {}, experiment.root, chain, where)
    kinds = experiment.model["model_type"], parent.model["model_type"]
    for what, here, there, fits in (
        ("task", experiment.task, parent.task, experiment.task == parent.task),
        ("model type", *kinds, families.same_weights(*kinds)),
    ):
        if not fits:
            raise UserError(
                f"{where}: {start} has the {what} {there}, this experiment {here}: start from one of the same"
            )
