"""From a YAML file to a validated experiment.

One experiment is one file of ``config/experiments/``, one dataset one file of ``config/datasets/``. Both are checked
against the JSON schemas in ``workflow/schemas/`` when they are read, and every complaint is one line: file, key, what
was found, what is allowed. Nothing here imports torch, so that the DAG is built in no time.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from lt25.errors import UserError

if TYPE_CHECKING:
    import jsonschema

Task = Literal["classification", "speech_recognition", "language_modeling"]
TASKS: tuple[str, ...] = get_args(Task)

# The prefix of a prepared dataset's directory name.
RECIPES = {"classification": "series", "speech_recognition": "speech", "language_modeling": "tokens"}

# What lt25 decides differently from torchtitan 0.2.2; an experiment file overrides it key by key.
DEFAULTS: dict[str, dict[str, Any]] = {
    "checkpoint": {"enable": True, "folder": "checkpoints", "last_save_model_only": False},
    "metrics": {"enable_tensorboard": True, "disable_color_printing": True},
    "activation_checkpoint": {"mode": "none"},
    "debug": {"seed": 0},
}

# The sections of a job file that are torchtitan's and that an experiment file may set.
SECTIONS = (
    "training",
    "optimizer",
    "lr_scheduler",
    "checkpoint",
    "parallelism",
    "activation_checkpoint",
    "compile",
    "metrics",
    "profiling",
    "comm",
    "debug",
)


@dataclass(frozen=True)
class Dataset:
    """One file of ``config/datasets/``: where a dataset comes from and which of its columns and splits are used.

    ``origin`` has one of the keys ``builder``, ``hub`` or ``path``; ``columns`` maps a role (``input``, ``label``,
    ``audio``, ``text``) to a column's name; ``splits`` maps ``train``, ``validation`` and ``test`` to the source's
    split, or to a held-out part of one, ``{"from": "train", "fraction": 0.1}``. All other keys are in ``options``.
    """

    name: str
    title: str
    licence: str
    homepage: str
    origin: dict[str, Any]
    columns: dict[str, str]
    splits: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One file of ``config/experiments/``, validated, with the directories that its stages fill.

    ``model`` is a Hugging Face config without the fields that the data decides; ``job`` holds torchtitan's sections
    with lt25's defaults filled in; ``prepare`` and ``evaluation`` are the options of those two stages.
    """

    name: str
    path: Path
    root: Path
    task: Task
    dataset: Dataset
    prepare: dict[str, Any]
    model: dict[str, Any]
    init_from: str | None
    evaluation: dict[str, Any]
    job: dict[str, dict[str, Any]]

    @property
    def recipe(self) -> str:
        """Name of the prepared data: the same for two experiments exactly when they prepare the same thing."""
        shape = [self.task, self.prepare, self.dataset.columns, self.dataset.splits, self.dataset.options]
        return f"{RECIPES[self.task]}-{digest(shape)[:8]}"

    @property
    def raw_dir(self) -> Path:
        return self.root / "data" / "raw" / self.dataset.name

    @property
    def processed_dir(self) -> Path:
        return self.root / "data" / "processed" / self.dataset.name / self.recipe

    @property
    def results_dir(self) -> Path:
        return self.root / "results" / self.name

    @property
    def kept_steps(self) -> list[int]:
        """The steps whose checkpoints a finished run has kept, ascending; the last is the final step."""
        steps, checkpoint = self.job["training"]["steps"], self.job["checkpoint"]
        interval = checkpoint.get("interval", 500)
        saved = sorted({*range(interval, steps + 1, interval), steps})
        return saved[-checkpoint.get("keep_latest_k", 10) :]


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, the same for equal values whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def project_root() -> Path:
    """Return the project directory: the nearest one, from here upwards, that holds ``config/`` and ``workflow/``.

    Raises:
        UserError: if there is none.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "config").is_dir() and (folder / "workflow" / "schemas").is_dir():
            return folder
    raise UserError(f"{Path.cwd()}: not inside an lt25 project (config/ and workflow/schemas/): cd into one")


def load_experiment(path: str | Path) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: the YAML file, or the bare name of one in ``config/experiments/``.

    Raises:
        UserError: if the file is missing, is not YAML, or has a key or value that the schema does not allow.
    """
    root = project_root()
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        path = root / "config" / "experiments" / f"{path}.yaml"
    path = Path(os.path.relpath(path, root))
    raw = _read_yaml(root / path, "experiment")
    _validate(raw, root / "workflow" / "schemas" / "experiment.schema.json", path)

    model = dict(raw["model"])
    if base := model.pop("base", None):
        model = {**_read_json(root / base, f"{path}: model.base"), **model}
    if "model_type" not in model:
        raise UserError(f"{path}: model.model_type: missing: name a model type (lt25_hgrn) or a `base:` file")

    job = {section: {**DEFAULTS.get(section, {}), **raw.get(section, {})} for section in SECTIONS}
    _check_job(job, path)
    return Experiment(
        name=path.stem,
        path=path,
        root=root,
        task=raw["task"],
        dataset=load_dataset_config(raw["dataset"], root),
        prepare=raw.get("prepare", {}),
        model=model,
        init_from=raw.get("init_from"),
        evaluation=raw.get("evaluation", {}),
        job={section: values for section, values in job.items() if values},
    )


def load_dataset_config(name: str | Path, root: Path | None = None) -> Dataset:
    """Read and validate a dataset file: a path, or the bare name of one in ``config/datasets/``.

    Raises:
        UserError: as `load_experiment`.
    """
    root = root or project_root()
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = root / "config" / "datasets" / f"{name}.yaml"
    shown = Path(os.path.relpath(path, root))
    raw = _read_yaml(path if path.is_absolute() else root / path, "dataset")
    _validate(raw, root / "workflow" / "schemas" / "dataset.schema.json", shown)
    known = ("title", "licence", "homepage", "origin", "columns", "splits")
    return Dataset(
        name=path.stem,
        title=raw["title"],
        licence=raw["licence"],
        homepage=raw.get("homepage", ""),
        origin=raw["origin"],
        columns=raw.get("columns", {}),
        splits=raw.get("splits", {}),
        options={key: value for key, value in raw.items() if key not in known},
    )


def load_config(path: str | Path = "config/config.yaml") -> dict[str, Any]:
    """Read and validate the project's ``config/config.yaml``.

    Raises:
        UserError: as `load_experiment`.
    """
    root = project_root()
    raw = _read_yaml(root / path, "configuration")
    _validate(raw, root / "workflow" / "schemas" / "config.schema.json", Path(path))
    return raw


def hub_mirror() -> Path | None:
    """Return the local mirror of the Hub that ``LT25_HUB_MIRROR`` or config/config.yaml's ``hub_mirror`` names."""
    name = os.environ.get("LT25_HUB_MIRROR") or load_config().get("hub_mirror")
    return Path(name).expanduser() if name else None


def _check_job(job: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    training, schedule = job["training"], job["lr_scheduler"]
    local, total = training.get("local_batch_size", 8), training.get("global_batch_size", -1)
    if total > 0 and total % local:
        raise UserError(
            f"{path}: training.global_batch_size: {total} is no multiple of "
            f"training.local_batch_size, {local}: change one"
        )
    if schedule.get("warmup_steps", 200) > training["steps"]:
        raise UserError(
            f"{path}: lr_scheduler.warmup_steps: {schedule.get('warmup_steps', 200)} is more than training.steps, "
            f"{training['steps']}: lower it"
        )


def _read_yaml(path: Path, kind: str) -> dict[str, Any]:
    shown = os.path.relpath(path)
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.stem, there, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(there) or 'none'}"
        raise UserError(f"{shown}: no such {kind} file: {hint}")
    try:
        raw = yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{shown}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{shown}: expected keys and values, found {_show(raw)}")
    return raw


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{where}: no such file: {os.path.relpath(path)}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{os.path.relpath(path)}:{error.lineno}: not valid JSON: {error.msg}") from None


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, as everybody who writes a learning rate expects, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)|[0-9]+\.[0-9_]*|\.[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


@cache
def _validator(schema: Path) -> "jsonschema.Draft202012Validator":
    # Imported here, because a trainer reads no experiment file.
    import jsonschema
    import referencing.jsonschema

    documents = {file.name: json.loads(file.read_text()) for file in schema.parent.glob("*.schema.json")}
    registry = referencing.Registry().with_resources(
        (name, referencing.jsonschema.DRAFT202012.create_resource(document)) for name, document in documents.items()
    )
    return jsonschema.Draft202012Validator(documents[schema.name], registry=registry)


def _validate(raw: Mapping[str, Any], schema: Path, shown: Path) -> None:
    from jsonschema.exceptions import best_match

    error = best_match(_validator(schema).iter_errors(raw))
    if error is not None:
        raise UserError(f"{shown}: {_explain(error)}")


def _explain(error: "jsonschema.ValidationError") -> str:
    """Say in one line what a schema violation means: key, what was found, what is allowed."""
    key = ".".join(str(part) for part in error.absolute_path)
    at = f"{key}: " if key else ""
    match error.validator:
        case "additionalProperties":
            allowed = sorted(error.schema.get("properties", {}))
            extra = next(name for name in error.instance if name not in allowed)
            close = difflib.get_close_matches(str(extra), allowed, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            return f"{key + '.' if key else ''}{extra}: unknown key: {hint}Allowed: {', '.join(allowed)}"
        case "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            meaning = error.schema.get("properties", {}).get(missing, {}).get("description", "")
            return f"{key + '.' if key else ''}{missing}: missing{': ' + meaning if meaning else ''}"
        case "enum":
            return f"{at}found {_show(error.instance)}, allowed: {_list(error.validator_value)}"
        case "type":
            types = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
            return f"{at}found {_show(error.instance)}, expected {' or '.join(types)}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            sign = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
            bound = f"{sign.get(error.validator, 'less than')} {error.validator_value}"
            return f"{at}found {_show(error.instance)}, expected {bound}"
        case "not":
            return f"{at}found {_show(error.instance)}, which is not allowed: {error.schema.get('description', '')}"
    return f"{at}{error.message}"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 60 else f"{text[:57]}..."
