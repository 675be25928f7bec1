"""Rows of a dataset's published files, whatever their kind.

Parquet, JSON lines and CSV files give their columns. A folder with ``metadata.csv`` or ``metadata.jsonl`` gives its columns
and ``audio`` or ``image``, the file that the column ``file_name`` names. Image files give ``image`` and ``label``, the
name of the folder they lie in. Text files give ``text`` (the whole file), ``path`` and ``top``, the first part of ``path``
without suffix. An image or audio value is ``{"bytes": ..., "path": ...}``, as on the Hugging Face Hub.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt25.errors import UserError

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
TEXT = {".txt", ".md", ".rst", ".py"}
TABLES = {".parquet", ".jsonl", ".csv"}
METADATA = {"metadata.csv", "metadata.jsonl"}

ALL = "all"
"""The source split that stands for every file of a dataset."""


@dataclass(slots=True)
class Row:
    """One row as published: ``where`` it stands, for messages, a default ``id``, and its values by column."""

    where: str
    id: str
    values: dict[str, Any]


def rows(root: Path, split: str, patterns: dict[str, Any], columns: list[str], config: str) -> Iterator[Row]:
    """Yield the rows of a source split, in the order of the file names.

    ``patterns`` are the globs of ``origin.files``; without them a file belongs to the split whose name stands in its path
    (``train.csv``, ``data/train-00000.parquet``, ``train/cat/1.png``). ``columns`` are read and no others. ``config`` is the
    dataset file, for messages.

    Raises:
        UserError: if the split has no files, a file cannot be read, or a column is missing.
    """
    found = _files(root, split, patterns, config)
    names = {path.name for path in found}
    kinds = {path.suffix.lower() for path in found}
    if names & METADATA:
        for path in found:
            if path.name in METADATA:
                yield from _media_table(path, root, columns)
    elif kinds & TABLES:
        for path in found:
            if path.suffix.lower() in TABLES:
                yield from _table(path, root, columns)
    elif kinds & IMAGES:
        for path in found:
            if path.suffix.lower() in IMAGES:
                yield _image(path, root)
    elif kinds & AUDIO:
        raise UserError(
            f"{root}: audio without a metadata.csv or metadata.jsonl (columns file_name and text): write one"
        )
    else:
        for path in found:
            yield _text(path, root)


def _files(root: Path, split: str, patterns: dict[str, Any], config: str) -> list[Path]:
    if patterns:
        if split not in patterns:
            raise UserError(f"{config}: splits: {split} is none of origin.files, which are {', '.join(patterns)}")
        wanted = patterns[split] if isinstance(patterns[split], list) else [patterns[split]]
        found = {path for pattern in wanted for path in root.glob(pattern) if path.is_file()}
    else:
        known = IMAGES | AUDIO | TEXT | TABLES
        found = {path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in known}
        if split != ALL:
            # "train" names train.csv, data/train-00000.parquet and train/cat/1.png, and not trainer.csv.
            named = re.compile(rf"(^|[/._-]){re.escape(split)}([/._-]|$)")
            found = {path for path in found if named.search(path.relative_to(root).as_posix())}
    found = {path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)}
    if not found:
        raise UserError(
            f"{config}: splits: no file of {root} belongs to the source's split {split}: "
            f"name one that has files, {ALL} for every file, or give globs in origin.files"
        )
    return sorted(found)


def _table(path: Path, root: Path, columns: list[str]) -> Iterator[Row]:
    name = path.relative_to(root).as_posix()
    stem = name.removesuffix(path.suffix)
    read = {".parquet": _parquet, ".jsonl": _json_lines, ".csv": _csv}[path.suffix.lower()]
    for number, values in enumerate(read(path, name, columns)):
        yield Row(f"{name}, row {number}", f"{stem}/{number}", values)


def _parquet(path: Path, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _require(columns, file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: no readable Parquet file ({str(error).splitlines()[0]}): replace it") from None


def _json_lines(path: Path, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{name}, line {number + 1}: no valid JSON ({error.msg}): mend it") from None
            if not isinstance(values, dict):
                raise UserError(
                    f"{name}, line {number + 1}: expected an object with columns, found {line.strip()[:40]}"
                )
            _require(columns, list(values), f"{name}, line {number + 1}")
            yield values


def _csv(path: Path, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _require(columns, reader.fieldnames or [], name)
        for values in reader:
            if any(values[column] is None for column in columns):
                raise UserError(f"{name}, line {reader.line_num}: fewer fields than the header has: mend it")
            yield values


def _media_table(path: Path, root: Path, columns: list[str]) -> Iterator[Row]:
    name = path.relative_to(root).as_posix()
    plain = [column for column in columns if column not in ("audio", "image")]
    read = _csv if path.suffix == ".csv" else _json_lines
    for number, values in enumerate(read(path, name, ["file_name", *plain])):
        media = path.parent / values["file_name"]
        if not media.is_file():
            raise UserError(f"{name}, row {number}: file_name: no such file: {values['file_name']}")
        value = {"path": media.name, "bytes": media.read_bytes()}
        shown = media.relative_to(root).as_posix()
        yield Row(shown, shown, {**values, "audio": value, "image": value})


def _image(path: Path, root: Path) -> Row:
    name = path.relative_to(root).as_posix()
    return Row(name, name, {"image": {"path": path.name, "bytes": path.read_bytes()}, "label": path.parent.name})


def _text(path: Path, root: Path) -> Row:
    name = path.relative_to(root).as_posix()
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is not UTF-8: convert the file") from None
    return Row(name, name, {"text": text, "path": name, "top": Path(path.relative_to(root).parts[0]).stem})


def _require(columns: list[str], there: Sequence[str], where: str) -> None:
    for column in columns:
        if column not in there:
            raise UserError(
                f"{where}: no column {column}: it has {', '.join(there)}; mend columns in the dataset's file"
            )
