"""Overrides of an experiment on the command line: ``--optimizer.lr 1e-3``, and the name of the variant that they make."""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lt25.config.files import parse_value
from lt25.config.key import flat
from lt25.errors import UserError
from lt25.files import read_json, write_json

WHERE = "command line"

NOTED = "overrides.json"

BASE = "model.base"

_OPTION = re.compile(r"--([A-Za-z_]\w*(?:\.\w+)+)(?:=(.*))?", re.DOTALL)


def split_arguments(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Take the overrides out of a command's arguments.

    Returns:
        The other arguments, and the overrides as "key=value".

    Raises:
        UserError: if an override has no value.
    """
    others, overrides = [], []
    waiting = iter(arguments)
    for argument in waiting:
        match = _OPTION.fullmatch(argument)
        if match is None:
            others.append(argument)
            continue
        key, value = match.groups()
        if value is None and ((value := next(waiting, None)) is None or _OPTION.fullmatch(value)):
            raise UserError(f"{WHERE}: {key}: no value: write --{key} VALUE")
        overrides.append(f"{key}={value}")
    return others, overrides


def parse(overrides: Iterable[str]) -> dict[str, Any]:
    """Return "key=value" overrides as values by dotted key; a mapping as value sets several keys.

    Raises:
        UserError: if a value is no YAML.
    """
    parsed: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        parsed.update(flat(parse_value(text, f"{WHERE}: {key}"), key))
    return parsed


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values in which those of dotted keys are replaced.

    Raises:
        UserError: if a key goes into something that is no section.
    """
    merged = copy.deepcopy(dict(values))
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = merged
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                raise UserError(f"{WHERE}: {key}: {section} is no section")
        place[last] = value
    return merged


def variant(overrides: Mapping[str, Any]) -> str:
    """Return what overrides add to an experiment's name: "@optimizer.lr=0.001+training.steps=50", or nothing.

    The keys are sorted, and a model's base in config/models/ is named as `lt25 list` does. What a folder's name should not hold
    becomes a "_"; then, and where the name is longer than 120 characters, it ends in eight digits of its hash, so that different
    overrides have different names.
    """
    if not overrides:
        return ""
    # No commas: Snakemake tells a job on a cluster its wildcards in a list with commas.
    whole = "+".join(f"{key}={_said(key, value)}" for key, value in sorted(overrides.items()))
    name = re.sub(r"[^\w.=+-]", "_", whole, flags=re.ASCII)
    if name != whole or len(name) > 120:
        name = f"{name[:120]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    return f"@{name}"


def of_variant(name: str, folder: Path) -> dict[str, Any]:
    """Return the overrides that have given a variant its name, by dotted key.

    Args:
        name: what follows the "@".
        folder: of the variant's results: where the name was shortened, they are noted there.

    Raises:
        UserError: if there is no such variant.
    """
    if (folder / NOTED).is_file():
        return read_json(folder / NOTED, "")
    parts = re.split(r"\+(?=[A-Za-z_]\w*(?:\.\w+)+=)", name)
    if re.search(r"-[0-9a-f]{8}$", name) or not all(re.match(r"[A-Za-z_]\w*(\.\w+)+=.", part) for part in parts):
        raise UserError(f"{folder.name}: no such variant of an experiment: write --SECTION.KEY VALUE after its name")
    given = parse(parts)
    if isinstance(base := given.get(BASE), str):
        given[BASE] = f"config/models/{base}.json"
    return given


def note(overrides: Mapping[str, Any], folder: Path) -> None:
    """Note the overrides of a variant in the folder of its results, so that `of_variant` finds them whatever their name."""
    if overrides:
        write_json(folder / NOTED, dict(overrides))


def _said(key: str, value: Any) -> str:
    if key == BASE and isinstance(value, str):
        named = re.fullmatch(r"config/models/([\w.-]+)\.json", value, re.ASCII)
        # With a slash, any other path has a hash in the name.
        return named[1] if named else f"./{value}"
    return _text(value)


def _text(value: Any) -> str:
    is_plain = isinstance(value, str) and not {"+", ","} & {*value} and parse_value(value, "") == value
    try:
        return value if is_plain else json.dumps(value, sort_keys=True, default=str)
    except TypeError:  # Keys of several types, which have no order.
        return str(value)
