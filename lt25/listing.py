"""``lt25 list``: what a project has, one line for each dataset, experiment and model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lt25.config.files import read_model
from lt25.config.key import check, resolve
from lt25.errors import UserError
from lt25.experiment import load_dataset_config, load_experiments, model_keys, project_root
from lt25.models import published


def listing() -> str:
    """Return the datasets, experiments and models of ``config/``; a line of an invalid file says what is wrong with it."""
    root = project_root()
    kinds: tuple[tuple[str, str, Callable[[Path], str]], ...] = (
        ("datasets", "*.yaml", _dataset),
        ("experiments", "*.yaml", _experiment),
        ("models", "*.json", _model),
    )
    lines = []
    for kind, pattern, describe in kinds:
        paths = sorted((root / "config" / kind).glob(pattern))
        width = max((len(path.stem) for path in paths), default=0)
        lines.append(f"{kind}:" if paths else f"{kind}: none in config/{kind}/")
        for path in paths:
            try:
                said = describe(path)
            except UserError as error:
                said = str(error)
            lines.append(f"  {path.stem:{width}}  {said}")
    return "\n".join(lines)


def _dataset(path: Path) -> str:
    dataset = load_dataset_config(path)
    return f"{dataset.title}: {', '.join(dataset.options['tasks'])}"


def _experiment(path: Path) -> str:
    experiment, *others = load_experiments(path)
    runs = f"; a sweep of {len(others) + 1} runs, by {', '.join(experiment.swept)}" if others else ""
    datasets = " and ".join(dataset.name for dataset in experiment.datasets)
    return f"{experiment.task} on {datasets}: {_size(experiment.model)}{runs}"


def _model(path: Path) -> str:
    where = f"config/models/{path.name}"
    model = read_model(path, where)
    if "model_type" not in model:
        raise UserError(f"{where}: model_type: missing: name a model type (lt25_hgrn)")
    try:
        keys = model_keys(model["model_type"])
    except UserError as error:
        raise UserError(f"{where}: model_type: {error}") from None
    model = published.as_keys(model, keys)
    if keys is not None:
        check(model, keys, where)
        model = resolve(model, keys)
    made_for = f", {', '.join(model['architectures'])}" if "architectures" in model else ""
    return f"{_size(model)}{made_for}"


def _size(model: Mapping[str, Any]) -> str:
    layers, width = model.get("num_hidden_layers"), model.get("hidden_size")
    if not (layers and width):
        return model["model_type"]
    return f"{model['model_type']}, {layers} layer{'s' * (layers > 1)} of {width}"
