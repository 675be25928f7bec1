"""``lt25 new``: an experiment file for another dataset, made from the file of an experiment that does the same task."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from lt25.check import check_columns
from lt25.config.files import parse_value
from lt25.errors import UserError
from lt25.experiment import NAME, Dataset, Experiment, load_dataset_config, load_experiment, project_root
from lt25.files import write_text
from lt25.tasks import TASKS


def new(name: str, like: str, dataset: str) -> tuple[Path, str]:
    """Write ``config/experiments/<name>.yaml``: the settings of another experiment, on another dataset.

    Args:
        name: of the new experiment.
        like: the other experiment, a name in ``config/experiments/`` or of a variant, or a path.
        dataset: the dataset, a name in ``config/datasets/``.

    Returns:
        The file, relative to the project, and what of it could not be checked, mostly nothing.

    Raises:
        UserError: if the name is taken, or one of the three does not go with the others; then nothing is written.
    """
    root = project_root()
    path = Path("config") / "experiments" / f"{name}.yaml"
    if not NAME.fullmatch(name) or name.endswith((".yaml", ".yml")):
        raise UserError(f"lt25 new: found {name}, expected a name of letters, digits, `_`, `-` and `.`, without .yaml")
    if (root / path).exists():
        raise UserError(f"{path}: is there already: choose another name, or remove the file")
    if not (root / "config" / "datasets" / f"{dataset}.yaml").is_file() and Path(dataset).name != dataset:
        raise UserError(f"--dataset {dataset}: expected a name in config/datasets/: move the file there")
    source, data = load_experiment(like), load_dataset_config(dataset)
    if source.task not in data.options["tasks"]:
        raise UserError(
            f"--dataset {dataset}: is for {', '.join(data.options['tasks'])}, and {source.name} does {source.task}: "
            "name a dataset of that task, or with --like an experiment of another"
        )
    text = _text(source, data)
    write_text(root / path, text)
    try:
        return path, check_columns(load_experiment(root / path))
    except UserError as error:
        # What is done to images means nothing to series.
        without = _without(text, "augment")
        if without != text:
            write_text(root / path, without)
            with contextlib.suppress(UserError):
                remark = check_columns(load_experiment(root / path))
                return path, f"; `augment` of {source.name} is left out, since it is for other data{remark}"
        (root / path).unlink()
        raise error


def _text(source: Experiment, dataset: Dataset) -> str:
    """Return the file of ``source`` with another dataset, and a comment at its head that says what it is.

    The comments of ``source`` are left out, because they may tell of its dataset ("64 steps, ten classes").
    """
    text = (source.root / source.path).read_text(encoding="utf-8")
    text = _without(text, "halving")
    for key, value in source.overrides.items():
        text = _set(text, key.split("."), value)
    scalars = [token for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    values = dict(yaml.compose(text, Loader=yaml.SafeLoader).value)
    named = next((value for key, value in values.items() if key.value == "dataset"), None)
    if named is None:
        raise UserError(f"--like {source.path.stem}: reads several datasets: name an experiment that reads one")
    changes = [(named.start_mark.index, named.end_mark.index, _scalar(dataset.name))]
    for comment in re.finditer(r"^[ \t]*#.*\n?|(?<=\s)#.*", text, re.MULTILINE):
        if not any(scalar.start_mark.index <= comment.start() < scalar.end_mark.index for scalar in scalars):
            changes.append((comment.start(), comment.end(), ""))
    for start, end, instead in sorted(changes, reverse=True):
        text = text[:start] + instead + text[end:]
    body = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    body = re.sub(r"\n{3,}", "\n\n", body).strip("\n")
    task = TASKS[source.task].title.lower()
    title = " ".join(dataset.title.split())
    return f"# {title}: {task}. Begun as a copy of {source.path.name}.\n{body}\n"


def _set(text: str, keys: list[str], value: Any) -> str:
    """Return a YAML text in which a nested key has another value, whether it was there or not."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    while keys and isinstance(node, yaml.MappingNode):
        inner = next((inner for key, inner in node.value if key.value == keys[0]), None)
        if inner is None:
            break
        node, keys = inner, keys[1:]
    written, is_new_key = json.dumps(value), isinstance(node, yaml.MappingNode) and bool(keys)
    for key in reversed(keys[1:] if is_new_key else keys):
        written = f"{{{key}: {written}}}"
    start, end = node.start_mark, node.end_mark
    if is_new_key and node.flow_style:
        at = start.index + 1
        return f"{text[:at]}{keys[0]}: {written}{', ' if node.value else ''}{text[at:]}"
    if is_new_key:
        return f"{text[: start.index]}{keys[0]}: {written}\n{' ' * start.column}{text[start.index :]}"
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        # A block ends where the next key begins; what stands for it goes beside its key, if no comment is between them.
        before = text[: start.index].rstrip() if text[: start.index].rstrip().endswith(":") else text[: start.index]
        return f"{before} {written}\n{' ' * end.column}{text[end.index :]}"
    return f"{text[: start.index]}{written}{text[end.index :]}"


def _without(text: str, section: str) -> str:
    """Return a YAML text without one of its sections."""
    for key, value in yaml.compose(text, Loader=yaml.SafeLoader).value:
        if key.value == section:
            rest = text[value.end_mark.index :]
            left = text[: key.start_mark.index] + (rest[1:] if value.flow_style else rest)
            return re.sub(r"\n{3,}", "\n\n", left)
    return text


def _scalar(name: str) -> str:
    """Return a name as YAML reads it: with quotes if it would be a number or the like without them."""
    return name if parse_value(name, name) == name else json.dumps(name)
