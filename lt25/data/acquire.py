"""Acquiring a dataset: its files as published, and ``SOURCE.json`` with the hash of each.

    lt25 download digits

``SOURCE.json`` is written last, so a folder without it is no whole dataset. Files of a builder or of the Hub lie in the
dataset's folder of ``data/raw``; those of a dataset given by path stay where they are, and are hashed there.
"""

import datetime
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from lt25 import files
from lt25.data import hub
from lt25.data.folders import Folder, files_below, matching
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import whole_folder
from lt25.progress import say, track

BUILDERS = {"sklearn_digits": "digits", "espeak": "espeak", "stdlib": "stdlib", "connected_digits": "connected_digits"}
MANIFEST = "SOURCE.json"


def acquire(dataset: Dataset, raw_dir: Path, mirror: Path | None = None) -> None:
    """Bring the files of ``dataset`` into ``raw_dir`` and write ``SOURCE.json``.

    ``mirror`` is a folder laid out like the Hub: ``<mirror>/<owner>/<name>/...``. Where ``raw_dir`` holds the dataset
    already, every file is compared with its hash; what is missing or damaged is fetched again, and said.

    Raises:
        UserError: if the files cannot be had: no network, no such folder, too little disk.
    """
    known = _manifest(raw_dir)
    if known is None or known["origin"] != dataset.origin:
        if known is not None:
            shutil.rmtree(raw_dir)
        _write_manifest(dataset, raw_dir, _fetch(dataset, raw_dir, mirror, None))
        return
    root = data_root(dataset, raw_dir)
    wrong = damaged(root, known)
    if not wrong:
        say(f"{dataset.name}: all {len(known['files'])} files are there and whole")
        return
    if "path" in dataset.origin:
        say(f"{dataset.name}: {_some(wrong)} changed since last time, hashing anew")
        _write_manifest(dataset, raw_dir, _fetch(dataset, raw_dir, mirror, None))
        return
    say(f"{dataset.name}: {_some(wrong)} missing or damaged, fetching again")
    revision = _fetch(dataset, raw_dir, mirror, wrong, known["revision"])
    if wrong := damaged(root, known):
        say(f"{dataset.name}: {_some(wrong)} differ from what was acquired before: the source has changed")
    _write_manifest(dataset, raw_dir, revision)


def data_root(dataset: Dataset, raw_dir: Path) -> Path:
    """Return the folder that holds the files: ``raw_dir``, or the user's own for a dataset given by path."""
    if "path" not in dataset.origin:
        return raw_dir
    path = Path(dataset.origin["path"]).expanduser()
    return path if path.is_absolute() else raw_dir.parents[2] / path


def folder(dataset: Dataset, raw_dir: Path) -> Folder:
    """Return a dataset's files, as far as they are there: by its manifest, or of a user's folder as it is now."""
    root = data_root(dataset, raw_dir)
    if "path" not in dataset.origin:
        return Folder(root, (_manifest(raw_dir) or {"files": ()})["files"])
    names, _ = files_below(root)
    return Folder(root, set().union(*(matching(names, pattern) for pattern in hub.patterns(dataset.origin))))


def verify(dataset: Dataset, raw_dir: Path) -> dict[str, Any]:
    """Return the content of ``SOURCE.json`` after comparing every file with its hash.

    Raises:
        UserError: if the dataset was not acquired, or a file is missing or damaged.
    """
    known = _manifest(raw_dir)
    if known is None or known["origin"] != dataset.origin:
        raise UserError(f"{raw_dir}: the dataset {dataset.name} is not there: run `lt25 download {dataset.name}`")
    if wrong := damaged(data_root(dataset, raw_dir), known):
        raise UserError(f"{raw_dir}: {_some(wrong)} missing, damaged or changed: run `lt25 download {dataset.name}`")
    return known


def damaged(root: Path, known: dict[str, Any]) -> list[str]:
    """Return the files of a manifest that are missing below ``root`` or differ from their hash."""

    def whole(name: str, fact: dict[str, Any]) -> bool:
        path = root / name
        return path.is_file() and path.stat().st_size == fact["bytes"] and files.sha256(path) == fact["sha256"]

    return [name for name, fact in known["files"].items() if not whole(name, fact)]


def _fetch(
    dataset: Dataset, raw_dir: Path, mirror: Path | None, only: list[str] | None, revision: str = ""
) -> str | None:
    """Bring the files (``only`` some of them, where the source can give some) and return their revision."""
    origin = dataset.origin
    if "builder" in origin:
        say(f"{dataset.name}: building")
        with whole_folder(raw_dir) as folder:
            return import_module(f"lt25.data.builders.{BUILDERS[origin['builder']]}").build(folder, origin)
    if "hub" in origin:
        raw_dir.mkdir(parents=True, exist_ok=True)
        if revision not in ("", hub.MIRROR):
            origin = {**origin, "revision": revision}
        return hub.fetch(dataset.name, origin, raw_dir, mirror, only)
    if not data_root(dataset, raw_dir).is_dir():
        raise UserError(f"dataset {dataset.name}: origin.path: no such folder: {data_root(dataset, raw_dir)}")
    return None


def _write_manifest(dataset: Dataset, raw_dir: Path, revision: str | None) -> None:
    root, found = data_root(dataset, raw_dir), set()
    names, left_out = files_below(root)
    for line in left_out:
        say(f"{dataset.name}: left out: {line}")
    for pattern in hub.patterns(dataset.origin):
        if not (some := matching(names, pattern) - {MANIFEST}):
            raise UserError(
                f"config/datasets/{dataset.name}.yaml: origin.files: no file of the dataset matches {pattern}"
            )
        found |= {root / name for name in some}
    raw_dir.mkdir(parents=True, exist_ok=True)
    facts = {
        path.relative_to(root).as_posix(): {"sha256": files.sha256(path), "bytes": path.stat().st_size}
        for path in track(sorted(found), f"{dataset.name}: files hashed", len(found))
    }
    files.write_json(
        raw_dir / MANIFEST,
        {
            "origin": dataset.origin,
            "revision": revision,
            "licence": dataset.licence,
            "acquired": datetime.date.today().isoformat(),
            "files": facts,
        },
    )


def _manifest(raw_dir: Path) -> dict[str, Any] | None:
    try:
        known = json.loads((raw_dir / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return known if {"origin", "revision", "files"} <= set(known) else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
