"""Reading YAML and JSON that people write; every complaint is one line with the file, and the line of the file."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lt25.config.key import show, suggestion
from lt25.errors import UserError

MOST = 10**5
"""Values that a file may hold; what an alias stands for counts each time."""

DEEPEST = 50
"""How deep they may be nested."""

SHORT = 8192
"""Characters of a text that libyaml may read."""


def read_yaml(path: Path, kind: str, named: str = "") -> dict[str, Any]:
    """Read a file of keys and values.

    Args:
        path: the file.
        kind: what it describes, for messages: "experiment", "dataset".
        named: the file and key that name it, for messages, if any do.

    Raises:
        UserError: if it is not there, with the name of one that is close, or is no YAML of keys and values.
    """
    shown = _shown(path)
    if path.is_dir():
        raise UserError(f"{f'{named}: ' if named else ''}{shown}: is a folder, expected a file: rename one")
    if not path.is_file():
        hint = _instead(path, kind)
        raise UserError(f"{f'{named}: ' if named else ''}{shown}: no such {kind} file: {hint}")
    try:
        values = _load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: byte {error.start} is not UTF-8: convert the file") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{shown}{line}: not valid YAML: {_problem(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown}: expected keys and values, found {show(values)}")
    return values


def _instead(path: Path, kind: str) -> str:
    """Say what a file that is not there may have been meant for: one of a close name, or of an experiment its dataset."""
    there = sorted(file.stem for file in path.parent.glob("*.yaml") if file.is_file()) if path.parent.is_dir() else []
    hint = suggestion(path.stem, there, "`lt25 list`")
    other = {"dataset": "experiment", "experiment": "dataset"}.get(kind)
    file = path.parent.parent / f"{other}s" / path.name
    if other is None or not file.is_file():
        return hint
    if other == "dataset":
        return f"{path.stem} is a dataset, expected an experiment that trains on it: {hint}"
    with suppress(UserError):
        if isinstance(name := read_yaml(file, other).get("dataset"), str):
            return f"{path.stem} is an experiment, and its dataset is {name}: name that"
    return f"{path.stem} is an experiment, expected a dataset: {hint}"


def parse_value(text: str, where: str) -> Any:
    """Return a value as a YAML file would give it: ``1e-3`` is a number, ``[a, b]`` a list.

    Raises:
        UserError: if it is no YAML.
    """
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not a YAML value: {_problem(error)}") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: not a YAML value: bytes that are not UTF-8") from None


def read_model(path: Path, where: str) -> dict[str, Any]:
    """Read a model's config.json.

    Args:
        path: the file.
        where: the file and key that name it, for messages.

    Raises:
        UserError: if it is not there or is no JSON object.
    """
    shown = _shown(path)
    at = shown if where == shown else f"{where}: {shown}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
        _measure(values)
    except IsADirectoryError:
        there = ", ".join(sorted(file.name for file in path.glob("*.json"))[:3]) or "none here"
        raise UserError(f"{at} is a folder: name a JSON file in it ({there})") from None
    except (FileNotFoundError, NotADirectoryError):
        models = (folder / "config" / "models" for folder in path.parents)
        there = next(
            (sorted(folder.glob("*.json")) for folder in (path.parent, *models) if any(folder.glob("*.json"))), []
        )
        hint = suggestion(path.stem, (file.stem for file in there), "`lt25 list`")
        form = f", of the form {_shown(there[0])}" if there else ""
        raise UserError(f"{where}: no such file: {shown}: expected a path{form}: {hint}") from None
    except OSError as error:
        raise UserError(f"{at}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{at}: byte {error.start} is not UTF-8: convert the file") from None
    except (RecursionError, _TooMuch):
        raise UserError(f"{at}: {_TooMuch.said}") from None
    except KeyTwice as error:
        raise UserError(f"{at}: {error}: remove one") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{at}:{error.lineno}: not valid JSON: {error.msg}") from None
    if not isinstance(values, dict):
        raise UserError(f"{at}: expected keys and values, found {show(values)}")
    return values


def _shown(path: Path) -> str:
    """Return a path as a message shows it: from here, if it lies below."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


def _problem(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


class _TooMuch(Exception):
    said = f"more than {MOST} values, or nested more than {DEEPEST} deep: is it the right file?"


class KeyTwice(ValueError):
    """A key stands twice in an object, and only one of its values could count."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, as ``object_pairs_hook`` of `json.loads`.

    Raises:
        KeyTwice: if a key stands twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyTwice(f"the key {next(key for key in keys if keys.count(key) > 1)} stands twice")
    return values


def _load(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: if it is none, or is a bomb: a few aliases can stand for more than memory holds.
    """
    try:
        value = _parse(text)
        _measure(value)
    except (RecursionError, _TooMuch):
        raise yaml.YAMLError(_TooMuch.said) from None
    return value


def _parse(text: str) -> Any:
    if len(text) < SHORT:
        try:
            return yaml.load(text, Loader=_FastLoader)
        except yaml.YAMLError:
            pass  # PyYAML's own parser says better what is wrong, and where.
    return yaml.load(text, Loader=_Loader)


def _measure(value: Any) -> None:
    """Refuse a value of too many parts, before anything walks through all of it.

    What an alias stands for is one object in memory, which is counted here as often as it is named.
    """
    sizes: dict[int, int] = {}

    def size(value: Any, depth: int) -> int:
        if not isinstance(value, dict | list):
            return 1
        if depth > DEEPEST:
            raise _TooMuch
        if id(value) not in sizes:
            parts = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(value)]

    if size(value, 0) > MOST:
        raise _TooMuch


class _Rules:
    """YAML in which ``1e-3`` is a number, as everybody who writes a learning rate expects, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if (name := str(key.value)) in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name} stands twice", key.start_mark)
            keys.add(name)
        return super().construct_mapping(node, deep)  # type: ignore[misc]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[misc]
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            # A date of no calendar, a number of thousands of digits, or a value that its tag does not fit.
            kind = node.tag.rpartition(":")[2]
            said = f"{show(str(node.value))} is no {kind} that can be read"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from None


class _Loader(_Rules, yaml.SafeLoader):
    pass


class _FastLoader(_Rules, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, several times as fast; a long text could be nested so deeply that its stack ends."""


for _loader in (_Loader, _FastLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)|[0-9]+\.[0-9_]*|\.[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    )
