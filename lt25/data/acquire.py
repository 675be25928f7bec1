"""Acquiring a dataset: its files as published, and ``SOURCE.json`` with the hash of each.

    lt25 download digits

``SOURCE.json`` is written last, with a checksum of itself, so a folder without it is no whole dataset. Files of a builder or of
the Hub lie in the dataset's folder of ``data/raw``; those of a dataset given by path stay where they are, and are hashed there.
Only files that ``SOURCE.json`` lists are ever removed, and none of a folder of the user's.
"""

import contextlib
import datetime
import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from lt25 import files
from lt25.data import hub
from lt25.data.folders import Folder, files_below, matching
from lt25.data.read import unread
from lt25.data.remote import root_of
from lt25.errors import UserError
from lt25.experiment import Dataset, digest
from lt25.progress import say, track

BUILDERS = {
    "sklearn_digits": "digits",
    "espeak": "espeak",
    "stdlib": "stdlib",
    "repeated_stdlib": "repeated_stdlib",
    "connected_digits": "connected_digits",
    "recall": "recall",
}
MANIFEST = "SOURCE.json"

DATES = "DATES.json"
"""Dates of a user's files that differ from those in ``SOURCE.json``, with the content that it tells."""


def acquire(dataset: Dataset, raw_dir: Path, mirror: Path | None = None) -> None:
    """Bring the files of ``dataset`` into ``raw_dir`` and write ``SOURCE.json``.

    ``mirror`` is a folder laid out like the Hub: ``<mirror>/<owner>/<name>/...``. Where ``raw_dir`` holds the dataset
    already, every file is compared with its hash; what is missing or damaged is fetched again, and said. Files in a folder of
    the user's are compared by size and date first, and only where the date differs by their hash.

    Raises:
        UserError: if the files cannot be had: no network, no such folder, too little disk.
    """
    if (raw_dir.is_symlink() or raw_dir.exists()) and not raw_dir.is_dir():
        raise UserError(f"{raw_dir}: no folder, nor a link to one: remove it, or make the folder that it links to")
    known = _manifest(raw_dir)
    if dataset.origin.get("streamed"):
        _note_where(dataset, raw_dir, mirror, known)
        return
    if known is None or known["origin"] != dataset.origin:
        if known is not None:
            _remove_former(dataset, raw_dir, known)
        _write_manifest(dataset, raw_dir, _fetch(dataset, raw_dir, mirror, None))
        return
    if "path" in dataset.origin:
        _fetch(dataset, raw_dir, mirror, None)
        if changed := changes(dataset, raw_dir):
            say(f"{dataset.name}: {_some(changed)} since last time")
            _write_manifest(dataset, raw_dir, None, known)
        else:
            say(f"{dataset.name}: all {len(known['files'])} files are there and unchanged")
        return
    wrong = damaged(raw_dir, known)
    if not wrong:
        say(f"{dataset.name}: all {len(known['files'])} files are there and whole")
        return
    say(f"{dataset.name}: {_some(wrong)} missing or damaged, fetching again")
    revision = _fetch(dataset, raw_dir, mirror, wrong, known["revision"])
    if wrong := damaged(raw_dir, known):
        say(f"{dataset.name}: {_some(wrong)} differ from what was acquired before: the source has changed")
    _write_manifest(dataset, raw_dir, revision)


def data_root(dataset: Dataset, raw_dir: Path) -> Path:
    """Return the folder that holds the files: ``raw_dir``, the user's own for a dataset given by path, or that of a stream."""
    if dataset.origin.get("streamed") and (known := _manifest(raw_dir)) is not None and "root" in known:
        return cast(Path, root_of(known["root"]))
    if "path" not in dataset.origin:
        return raw_dir
    path = Path(dataset.origin["path"]).expanduser()
    return path if path.is_absolute() else raw_dir.parents[2] / path


def source_digest(source: Mapping[str, Any]) -> str:
    """Return a hash that stands for the content of all files that a ``SOURCE.json`` lists: their dates are of no account."""
    files = source["files"].items()
    return digest([[name, fact.get("sha256", fact["bytes"])] for name, fact in files])[:16]


def check_folder(dataset: Dataset, root: Path) -> None:
    """Look for the folder ``root`` of a dataset given by path.

    Raises:
        UserError: if it is not there, or a file.
    """
    where = f"config/datasets/{dataset.name}.yaml: origin.path"
    if root.is_file():
        raise UserError(
            f"{where}: {root} is a file: name the folder that it lies in, and with origin.files the file itself"
        )
    if not root.is_dir():
        raise UserError(f"{where}: no such folder: {root}")


def folder(dataset: Dataset, raw_dir: Path) -> Folder:
    """Return a dataset's files, as far as they are there: by its manifest, or of a user's folder as it is now."""
    root = data_root(dataset, raw_dir)
    if "path" not in dataset.origin:
        return Folder(root, (_manifest(raw_dir) or {"files": ()})["files"])
    return Folder(root, set().union(*_matching(dataset, root)[0].values()))


def verify(dataset: Dataset, raw_dir: Path) -> dict[str, Any]:
    """Return the content of ``SOURCE.json`` after comparing every file with its hash; those of a user's folder as `acquire` does.

    Raises:
        UserError: if the dataset was not acquired, or a file is missing, damaged or, in a user's folder, new.
    """
    missing = UserError(f"{raw_dir}: the dataset {dataset.name} is not there: run `lt25 download {dataset.name}`")
    if not (raw_dir / MANIFEST).is_file():
        raise missing
    known = files.read_record(raw_dir / MANIFEST, f"lt25 download {dataset.name}")
    if known["origin"] != dataset.origin:
        raise missing
    if "path" in dataset.origin:
        if changed := changes(dataset, raw_dir):
            root = data_root(dataset, raw_dir)
            raise UserError(f"{root}: {_some(changed)} since last time: run `lt25 download {dataset.name}`")
    elif dataset.origin.get("streamed"):
        pass  # files that stay where they are are known by the Hub's commit, those of a mirror by their size when they are read
    elif wrong := damaged(raw_dir, known):
        raise UserError(f"{raw_dir}: {_some(wrong)} missing, damaged or changed: run `lt25 download {dataset.name}`")
    return known


def damaged(root: Path, known: dict[str, Any]) -> list[str]:
    """Return the files of a manifest that are missing below ``root`` or differ from their hash."""

    def whole(name: str, fact: dict[str, Any]) -> bool:
        path = root / name
        return path.is_file() and path.stat().st_size == fact["bytes"] and files.sha256(path) == fact["sha256"]

    return [name for name, fact in known["files"].items() if not whole(name, fact)]


def changes(dataset: Dataset, raw_dir: Path) -> list[str]:
    """Return what has changed since ``SOURCE.json`` was written: the origin, or files of a user's folder.

    Sizes and dates are compared; only a file of the same size and another date is read. Where it has the same content, the
    date is noted beside ``SOURCE.json``, which stays as it is: DVC versions it.

    Returns:
        "new: a.png", "removed: b.png", "changed: c.png"; nothing if nothing has, or the dataset was not acquired yet.
    """
    known = _manifest(raw_dir)
    if known is None:
        return [f"changed: {MANIFEST}"] if (raw_dir / MANIFEST).is_file() else []
    if known["origin"] != dataset.origin:
        return ["changed: origin"]
    if "path" not in dataset.origin:
        return []
    root, dates = data_root(dataset, raw_dir), _dates(raw_dir)
    noted = dict(dates)
    there, listed = set().union(*_matching(dataset, root)[0].values()), known["files"]
    found = [f"removed: {name}" for name in sorted(listed.keys() - there)]
    found += [f"new: {name}" for name in sorted(there - listed.keys())]
    for name in sorted(listed.keys() & there):
        fact, status = listed[name], (root / name).stat()
        if status.st_size == fact["bytes"]:
            if status.st_mtime_ns in (fact.get("modified"), dates.get(name)):
                continue
            if files.sha256(root / name) == fact["sha256"]:
                dates[name] = status.st_mtime_ns
                continue
        found.append(f"changed: {name}")
    if dates != noted and not found:
        files.write_json(raw_dir / DATES, dates)
    return found


def _fetch(
    dataset: Dataset, raw_dir: Path, mirror: Path | None, only: list[str] | None, revision: str = ""
) -> str | None:
    """Bring the files (``only`` some of them, where the source can give some) and return their revision."""
    origin = dataset.origin
    if "builder" in origin:
        return _build(dataset, raw_dir)
    if "hub" in origin:
        raw_dir.mkdir(parents=True, exist_ok=True)
        if revision not in ("", hub.MIRROR):
            origin = {**origin, "revision": revision}
        return hub.fetch(dataset.name, origin, raw_dir, mirror, only)
    root = data_root(dataset, raw_dir)
    check_folder(dataset, root)
    return None


def _build(dataset: Dataset, raw_dir: Path) -> str:
    """Make a dataset beside its folder and move its files there, so that other files in the folder stay."""
    say(f"{dataset.name}: building")
    builder = import_module(f"lt25.data.builders.{BUILDERS[dataset.origin['builder']]}")
    with files.temporary(raw_dir.resolve()) as partial:
        partial.mkdir()
        revision = builder.build(partial, dataset.origin)
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            target = raw_dir / path.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    return revision


def _remove_former(dataset: Dataset, raw_dir: Path, known: dict[str, Any]) -> None:
    """Remove the files of another origin that ``SOURCE.json`` lists, but for a user's: those of a path, before or now."""
    inside, root = raw_dir.resolve(), data_root(dataset, raw_dir).resolve()
    (raw_dir / MANIFEST).unlink()
    for name in [] if "path" in known["origin"] else known["files"]:
        path = (raw_dir / name).resolve()
        if not path.is_relative_to(inside) or ("path" in dataset.origin and path.is_relative_to(root)):
            continue
        path.unlink(missing_ok=True)
        for folder in path.relative_to(inside).parents[:-1]:
            with contextlib.suppress(OSError):  # not empty
                (inside / folder).rmdir()


def _note_where(dataset: Dataset, raw_dir: Path, mirror: Path | None, known: dict[str, Any] | None) -> None:
    """Write ``SOURCE.json`` of a dataset whose files stay where they are published."""
    if known is not None and known["origin"] == dataset.origin and known["revision"] != hub.MIRROR:
        say(f"{dataset.name}: {len(known['files'])} files at {known['root']}, as before")
        return
    root, revision, sizes = hub.listing(dataset.name, dataset.origin, mirror)
    if not sizes:
        raise UserError(
            f"config/datasets/{dataset.name}.yaml: origin.files: no file of {root} matches: mend the patterns"
        )
    facts = {name: {"bytes": size} for name, size in sorted(sizes.items())}
    say(f"{dataset.name}: {len(facts)} files stay at {root}")
    if known is not None and (known["origin"], known["files"]) == (dataset.origin, facts) and known["root"] == root:
        return
    if known is not None and known["origin"] != dataset.origin:
        _remove_former(dataset, raw_dir, known)
    raw_dir.mkdir(parents=True, exist_ok=True)
    _seal(dataset, raw_dir, revision, facts, root=root)


def _matching(dataset: Dataset, root: Path) -> tuple[dict[str, set[str]], list[str]]:
    """Return the files that belong to a dataset by pattern, relative to ``root``, and what was left out, a line each."""
    names, left_out = files_below(root)
    own = {MANIFEST, f"{MANIFEST}.damaged", DATES}
    return {pattern: matching(names, pattern) - own for pattern in hub.patterns(dataset.origin)}, left_out


def _write_manifest(dataset: Dataset, raw_dir: Path, revision: str | None, known: dict[str, Any] | None = None) -> None:
    """Write ``SOURCE.json``; hashes of a user's files whose size and date are as in the ``known`` one are taken from there."""
    root = data_root(dataset, raw_dir)
    by_pattern, left_out = _matching(dataset, root)
    for line in left_out:
        say(f"{dataset.name}: left out: {line}")
    for pattern, some in by_pattern.items():
        if not some:
            raise UserError(
                f"config/datasets/{dataset.name}.yaml: origin.files: no file of the dataset matches {pattern}"
            )
    found = set().union(*by_pattern.values())
    is_users = "path" in dataset.origin
    wanted = [str(column) for column in dataset.columns.values()]
    for line in unread(found, wanted) if is_users else []:
        say(f"{dataset.name}: left out: {line}")
    before, dates = known["files"] if known else {}, _dates(raw_dir)
    raw_dir.mkdir(parents=True, exist_ok=True)
    facts = {}
    for name in track(sorted(found), f"{dataset.name}: files hashed", len(found)):
        path = root / name
        status = path.stat()
        fact = {"bytes": status.st_size, **({"modified": status.st_mtime_ns} if is_users else {})}
        former = before.get(name, {})
        as_before = (
            [fact, {**fact, "modified": former.get("modified")}] if dates.get(name) == status.st_mtime_ns else [fact]
        )
        same = {key: former.get(key) for key in fact} in as_before
        facts[name] = {"sha256": before[name]["sha256"] if same else files.sha256(path), **fact}
    _seal(dataset, raw_dir, revision, facts)


def _seal(dataset: Dataset, raw_dir: Path, revision: str | None, facts: dict[str, Any], **more: str) -> None:
    (raw_dir / DATES).unlink(missing_ok=True)
    files.write_sealed(
        raw_dir / MANIFEST,
        {
            "origin": dataset.origin,
            "revision": revision,
            "licence": dataset.licence,
            "acquired": datetime.date.today().isoformat(),
            **more,
            "files": facts,
        },
    )


def _dates(raw_dir: Path) -> dict[str, int]:
    try:
        return json.loads((raw_dir / DATES).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _manifest(raw_dir: Path) -> dict[str, Any] | None:
    """Return what ``SOURCE.json`` holds, or None if it is not there or not as it was written."""
    try:
        return files.load_record(raw_dir / MANIFEST)
    except (FileNotFoundError, UserError):
        return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
