"""Reading YAML and JSON that people write; every complaint is one line with the file, and the line of the file."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from lt25.config.key import show, suggestion
from lt25.errors import UserError


def read_yaml(path: Path, kind: str) -> dict[str, Any]:
    """Read a file of keys and values.

    Args:
        path: the file.
        kind: what it describes, for messages: "experiment", "dataset".

    Raises:
        UserError: if it is not there, with the name of one that is close, or is no YAML of keys and values.
    """
    shown = os.path.relpath(path)
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = suggestion(path.stem, there).strip() or f"there are: {', '.join(there) or 'none'}"
        raise UserError(f"{shown}: no such {kind} file: {hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: byte {error.start} is not UTF-8: convert the file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{shown}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown}: expected keys and values, found {show(values)}")
    return values


def parse_value(text: str, where: str) -> Any:
    """Return a value as a YAML file would give it: ``1e-3`` is a number, ``[a, b]`` a list.

    Raises:
        UserError: if it is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not a YAML value: {getattr(error, 'problem', None) or error}") from None


def read_model(path: Path, where: str) -> dict[str, Any]:
    """Read a model's config.json.

    Args:
        path: the file.
        where: the file and key that name it, for messages.

    Raises:
        UserError: if it is not there or is no JSON object.
    """
    shown = os.path.relpath(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{where}: no such file: {shown}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: byte {error.start} is not UTF-8: convert the file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{shown}:{error.lineno}: not valid JSON: {error.msg}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown}: expected keys and values, found {show(values)}")
    return values


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
