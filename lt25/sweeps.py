"""Lists in an experiment file: a list where one value belongs makes the file a sweep, with a run for each combination.

``optimizer: {lr: [1e-3, 3e-3]}`` and ``debug: {seed: [0, 1, 2]}`` are six runs. A run is the variant of the file that has its
values in the lists' places: ``name@debug.seed=0+optimizer.lr=0.001``. A key whose value is a list by itself (``augment.speed``,
``checkpoint.exclude_from_loading``) is none of a sweep, nor is a whole section, whose runs would have no readable names, nor a
key of ``evaluation``, which asks for no other training.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lt25.config.files import read_model
from lt25.config.key import Key, Section, check, flat, resolve, show
from lt25.config.sections import EXPERIMENT, JOB, MODEL
from lt25.errors import UserError
from lt25.models import families
from lt25.tasks import TASKS

SEED = "debug.seed"
"""The key over whose values results are averaged: runs that differ in it alone are one setting."""

MOST = 10_000
"""Runs of a sweep."""

_COUNTED = ("training.steps", "training.local_batch_size", "training.global_batch_size")
"""Keys that are no part of the identity by themselves and decide all the same."""

Axes = Mapping[str, list[Any]]
"""The values of each dotted key that a file gives several of, in the order of the file."""


def axes(written: Mapping[str, Any], where: str, root: Path) -> Axes:
    """Return the keys of an experiment file that have lists where one value belongs; none if it is no sweep.

    Args:
        written: what the file says, not yet checked.
        where: the file, for messages.
        root: the project.

    Raises:
        UserError: if a list is empty or has a value twice, its key decides nothing or has lists as values, or there are more than
            `MOST` runs.
    """
    lists = {key: values for key, values in flat(written).items() if isinstance(values, list)}
    if not lists:
        return {}
    sections, found = _sections(written, root), {}
    for name, values in lists.items():
        keys = [key for section in sections if (key := _find(name, section)) is not None]
        if not keys or any(key.keys is not None for key in keys):
            continue
        if any("array" in key.type for key in keys):
            if values and all(isinstance(value, list) for value in values) and not _admits(keys, values):
                raise UserError(
                    f"{where}: {name}: found {show(values)}, but a key whose value is a list by itself is none of a sweep: give "
                    "one value"
                )
            continue
        if not any(key.identity for key in keys) and name not in _COUNTED:
            raise UserError(
                f"{where}: {name}: found {show(values)}, but it does not decide where training arrives, so runs that differ in "
                "it alone are one: give one value"
            )
        # As an experiment of this value alone would have it: 1 where a number belongs is 1.0.
        found[name] = [resolve({"": value}, {"": keys[0]})[""] for value in values]
        told = [repr(_plain(name, value)) for value in found[name]]
        if not told:
            raise UserError(f"{where}: {name}: found an empty list, expected a value, or several for a sweep")
        if twice := next((value for value, text in zip(values, told, strict=True) if told.count(text) > 1), None):
            raise UserError(f"{where}: {name}: {show(twice)} is in the list twice: remove one")
    if (runs := size(found)) > MOST:
        raise UserError(
            f"{where}: the lists of {', '.join(found)} make {runs:,} runs, more than {MOST:,}: shorten them"
        )
    return found


def size(swept: Axes) -> int:
    """Return the number of runs; 1 for an experiment without lists."""
    return math.prod(map(len, swept.values()))


def settings(swept: Axes) -> Iterator[dict[str, Any]]:
    """Yield the values of each run by dotted key, the last key of the file changing fastest."""
    for values in itertools.product(*swept.values()):
        yield dict(zip(swept, values, strict=True))


def _sections(written: Mapping[str, Any], root: Path) -> list[Section]:
    """Return what the file's sections may say: once for each kind of model that it names, since these have keys of their own."""
    task = TASKS.get(written["task"]) if isinstance(written.get("task"), str) else None
    known = {name: EXPERIMENT[name] for name in JOB}
    if task is not None:
        known |= {name: replace(EXPERIMENT[name], keys=getattr(task, name)) for name in ("prepare", "augment")}
    model = written.get("model")
    kinds = [_model_keys(kind) for kind in sorted(_model_types(model, root))] if isinstance(model, Mapping) else []
    return [{**known, "model": replace(EXPERIMENT["model"], keys={**MODEL, **keys})} for keys in kinds or [{}]]


def _model_types(model: Mapping[str, Any], root: Path) -> set[str]:
    """Return the model types that a ``model`` section names, itself or by its base."""
    given, bases = (one if isinstance(one, list) else [one] for one in map(model.get, ("model_type", "base")))
    types = {kind for kind in given if isinstance(kind, str)}
    for base in bases:
        if isinstance(base, str):
            # What is wrong with it is said when the runs that start from it are read.
            try:
                types.add(str(read_model(root / base, "").get("model_type")))
            except UserError:
                continue
    return types


def _model_keys(model_type: str) -> Section:
    try:
        return families.find(model_type).model_keys() or {}
    except UserError:
        return {}


def _plain(name: str, value: Any) -> Any:
    """Return a value in one spelling: a base may be written ``./config/models/a.json`` too."""
    return os.path.normpath(value) if name == "model.base" and isinstance(value, str) else value


def _admits(keys: Iterable[Key], values: list[Any]) -> bool:
    """Whether a list of lists is the one value of a key."""
    try:
        for key in keys:
            check({"": values}, {"": key}, "")
    except UserError:
        return False
    return True


def _find(name: str, section: Section) -> Key | None:
    """Return the key of a dotted name, None if there is no such key."""
    key, keys = None, section
    for part in name.split("."):
        key = keys.get(part)
        keys = (key.keys or {}) if key is not None else {}
    return key
