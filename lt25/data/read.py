"""Examples as published, whatever the kind of files that a dataset's folder holds.

A table (CSV, JSON lines, Parquet, or ``.npz`` if its arrays are what is asked for), or a list of another speech toolkit
(`lt25.data.toolkits`), gives its columns; where a role that takes a file (``input``, ``audio``) has a text, that is the name of
one. Without a table every file is an example: it gives itself, under ``image``, ``audio``, ``series`` or ``text``, ``label``, the
name of the folder it lies in, ``path``, and ``top``, the first part of ``path`` without suffix. An image, recording or array is
``{"bytes": ..., "path": ...}``, as on the Hugging Face Hub.
"""

import io
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lt25.data import compressed, long_form, toolkits
from lt25.data.faults import Fault
from lt25.data.folders import Folder, listed, of_split
from lt25.data.records import TABLES, Part, Record, has_surrogate, not_in, records, separator, text_codec
from lt25.errors import UserError
from lt25.experiment import Dataset

KINDS = {
    "image": {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff"},
    "audio": {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
    | {".m4a", ".mp4", ".3gp", ".aac", ".amr", ".wma", ".mka", ".webm", ".caf"},
    "series": {".npy", ".npz"},
    "text": {".txt", ".md", ".rst", ".py", *compressed.TEXTS},
}
"""The column that a file gives -> the suffixes of such files."""

UNREAD = {
    "image": ({".heic", ".heif", ".cr2", ".nef", ".arw", ".dng", ".svg"}, "convert to JPEG"),
    "table": ({".xlsx", ".xls", ".ods", ".numbers"}, "save as CSV"),
    "text": ({".docx", ".doc", ".odt", ".rtf", ".pdf", ".html"}, "save as plain text"),
    "json": ({".json", ".ndjson"}, "write an object a line, as .jsonl"),
    "archive": ({".zip", ".tar", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}, "unpack"),
}
"""What people have in such folders and lt25 does not read: kind -> the suffixes, and what to do with the files."""

METADATA = {"metadata.csv", "metadata.jsonl"}
"""Tables that go before others."""

FILE_NAME = "file_name"
"""The column of such a table that names a file, under the name that the Hub gives it; it stands for ``image`` and ``audio``."""

LARGEST = 1 << 30
"""The most bytes of an image, a recording or an array."""

_POINTER = b"version https://git-lfs.github.com/spec/"

SHOWN = 20
"""A message names so many columns of a table."""

_FILE_ROLES = ("input", "audio")
_OF_A_FILE = ("label", "path", "top")


@dataclass(slots=True)
class Row:
    """One example as published.

    Attributes:
        where: it stands, for messages: a file, or the row of a table and the file that this names. No other example stands there.
        id: a default one.
        roles: their values.
        path: the file that it is, "" for one that is only a row of a table.
    """

    where: str
    id: str
    roles: dict[str, Any]
    path: str = ""

    def kind(self, role: str) -> str:
        """Return what the value of a role is, as `kind_of` does."""
        return kind_of(self.roles[role])


def kind_of(value: Any) -> str:
    """Return what a value is: "image", "audio" or "series", or the name of its type.

    Of a file its name decides, or else its first bytes.
    """
    if isinstance(value, list | tuple) or type(value).__name__ == "ndarray":
        return "series"
    if not isinstance(value, dict) or not isinstance(value.get("bytes"), bytes):
        return type(value).__name__
    suffix, data = compressed.suffix(value.get("path") or ""), value["bytes"]
    for kind in ("image", "audio", "series"):
        if suffix in KINDS[kind]:
            return kind
    if data.startswith((b"\x93NUMPY", b"PK")):
        return "series"
    if data.startswith((b"fLaC", b"OggS", b"ID3")) or (data[:4] == b"RIFF" and data[8:12] == b"WAVE"):
        return "audio"
    return "audio" if data[:1] == b"\xff" and len(data) > 1 and data[1] >= 0xE0 else "image"


Rows = Iterator[Row | Fault]


class Piece(NamedTuple):
    """A file, or a part of a table, whose rows are examples; ``column`` is what the file gives, "" for a table."""

    name: str
    column: str
    part: Part | None = None


def rows(dataset: Dataset, folder: Folder, split: str) -> Rows:
    """Yield the examples of a source split, in the order of the file names; a fault stands for one that cannot be read.

    Nothing is read but what the dataset's columns ask for: of a dataset with the label alone no image is opened.

    Raises:
        UserError: if the split has no files, a table as a whole cannot be read, or a column is missing.
    """
    for piece in pieces(dataset, folder, split):
        yield from rows_of(dataset, folder, piece)


def rows_of(dataset: Dataset, folder: Folder, piece: Piece) -> Rows:
    """Yield the examples of a piece, as `rows`."""
    name, suffix = piece.name, compressed.suffix(piece.name)
    if piece.column and suffix not in KINDS[piece.column]:
        yield Fault("a file of a kind that is not read", name, f"{suffix} is not read: {UNREAD[piece.column][1]}")
        return
    if piece.column:
        yield _file(dataset, folder, name, piece.column)
        return
    try:
        yield from _table(dataset, folder, name, _config(dataset), piece.part)
    except UserError as error:
        # Where every file is a series, one that cannot be read is a series among others.
        if not ("time" in dataset.columns and dataset.columns.get("id") == "path"):
            raise (
                UserError(f"{_config(dataset)}: {error.key}: {error}") if isinstance(error, _NoColumn) else error
            ) from None
        yield Fault("a file that cannot be read", name, str(error).removeprefix(name).removeprefix(": "))


def pieces(dataset: Dataset, folder: Folder, split: str) -> list[Piece]:
    """Return the files of a source split, sorted by name.

    Raises:
        UserError: if the split has no files, or they do not give what the dataset's columns ask for.
    """
    config = _config(dataset)
    others = [name for part in dataset.splits.values() if not isinstance(part, dict) for name in listed(part)]
    found = of_split(folder, split, others, dataset.origin.get("files", {}), config)
    tables = [name for name in found if PurePosixPath(name).name in METADATA]
    has_lists = "audio" in dataset.columns.values()
    tables = tables or [
        name
        for name in found
        if compressed.suffix(name) in TABLES and not (has_lists and name.endswith(toolkits.LHOTSE))
    ]
    if not tables and has_lists:
        tables = [name for name in found if toolkits.is_list(name)]
    wanted = dataset.columns.values()
    if not tables and toolkits.NEMO_FILE in wanted:
        tables = [name for name in found if compressed.suffix(name) == toolkits.NEMO]
    # The arrays of such a file are columns where other names are asked for than a file alone gives.
    if not tables and not {one for names in wanted for one in listed(names)} <= {*KINDS, *_OF_A_FILE}:
        tables = [name for name in found if compressed.suffix(name) == ".npz"]
    if tables:
        return [Piece(name, "") for name in tables]
    only_names = set(map(str, wanted)) <= set(_OF_A_FILE)
    for column, suffixes in KINDS.items():
        if any(compressed.suffix(name) in suffixes for name in found) and (column in wanted or only_names):
            unread = UNREAD[column][0] if column in UNREAD else ()
            return [
                Piece(name, column)
                for name in found
                if compressed.suffix(name) in suffixes or compressed.suffix(name) in unread
            ]
    kinds = sorted({compressed.suffix(name) or "no suffix" for name in found})
    raise UserError(
        f"{config}: columns: of the files of {split} ({', '.join(kinds[:8])}) none gives what it asks for: name "
        f"{', '.join(KINDS)}, as the files are, or write a table with a column for each role{_advice(found)}"
    )


def _config(dataset: Dataset) -> str:
    return f"config/datasets/{dataset.name}.yaml"


def unread(names: Collection[str], columns: Iterable[str]) -> list[str]:
    """Return what is not read of some files, by suffix, a line each: how many, and what to do.

    Args:
        names: of the files.
        columns: what the dataset asks for: without a table files of one kind, and beside one those that it may name.
    """
    columns = [*columns]
    lists = toolkits.parts([*names]) if "audio" in columns else set()
    names = [name for name in names if name not in lists]
    there = {compressed.suffix(name) for name in names}
    manifests = toolkits.NEMO_FILE in columns and toolkits.NEMO in there and not there & TABLES
    if lists or manifests or there & TABLES:
        kinds = [kind for kind in KINDS if kind != "text"]
    else:
        kinds = [kind for kind, suffixes in KINDS.items() if suffixes & there and kind in columns][:1]
    read = TABLES.union(*(KINDS[kind] for kind in kinds or KINDS))
    if manifests:
        read.add(toolkits.NEMO)
    counts = Counter(suffix for name in names if (suffix := compressed.suffix(name)) not in read)
    todo = {suffix: advice for suffixes, advice in UNREAD.values() for suffix in suffixes}
    return [
        f"{count} {'file' if count == 1 else 'files'} {suffix or 'without suffix'}: not read"
        + (f": {todo[suffix]}" if suffix in todo else "")
        for suffix, count in sorted(counts.items())
    ]


def _advice(names: Iterable[str]) -> str:
    """Return what to do with the files that are not read, for the end of a message; nothing if there are none of those."""
    there = {compressed.suffix(name) for name in names}
    found = [
        f"; {advice}: {', '.join(sorted(some))}" for suffixes, advice in UNREAD.values() if (some := suffixes & there)
    ]
    return "".join(found)


def _file(dataset: Dataset, folder: Folder, name: str, column: str) -> Row | Fault:
    """Return the example that a file is."""
    given = {column, *_OF_A_FILE}
    for role, wanted in dataset.columns.items():
        for one in listed(wanted):
            if one not in given:
                raise UserError(
                    f"config/datasets/{dataset.name}.yaml: columns.{role}: {name} gives {', '.join(sorted(given))}, not {one}: "
                    f"name one of them, or write a table with a column that names each file and one for {role}"
                    f"{_advice(folder.names)}"
                )
    try:
        values: dict[str, Any] = _of_a_file(name)
        if column in dataset.columns.values():
            content = _content(folder, name, name)
            is_text = column == "text"
            values[column] = _text(content["bytes"], name, dataset.options["encoding"]) if is_text else content
        if "label" in dataset.columns.values() and not values["label"]:
            raise Fault("a missing value", name, "it lies in no folder whose name could be its label")
    except Fault as fault:
        return fault
    return Row(name, name, {role: values[wanted] for role, wanted in dataset.columns.items()})


def _of_a_file(name: str) -> dict[str, str]:
    path = PurePosixPath(name)
    return {"label": path.parent.name, "path": name, "top": compressed.stem(path.parts[0])}


def _text(data: bytes, name: str, encoding: str) -> str:
    try:
        with compressed.plain(io.BytesIO(data), name) as file:
            data = file.read(LARGEST + 1)
    except UserError as error:
        raise Fault("a file that cannot be read", name, str(error).removeprefix(f"{name}: ")) from None
    if len(data) > LARGEST:
        raise Fault("a file that cannot be read", name, f"more than {LARGEST >> 30} GiB, decompressed")
    try:
        text = data.decode(text_codec(encoding))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} (line {line}) is {not_in(encoding)}"
        raise Fault("text in another encoding", name, message) from None
    if has_surrogate(text):
        raise Fault("text in another encoding", name, "half of a surrogate pair, which no text has")
    return text


class _NoColumn(UserError):
    """A table lacks a column.

    Attributes:
        key: of the dataset's file, which asks for it.
    """

    def __init__(self, key: str, line: str) -> None:
        super().__init__(line)
        self.key = key


def _content(folder: Folder, name: str, where: str) -> dict[str, Any]:
    path = folder.root / name
    try:
        state = path.stat()
        if state.st_size > LARGEST:
            raise Fault("a file that cannot be read", where, f"more than {LARGEST >> 30} GiB")
        data = _bytes(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise Fault("a file that cannot be read", where, f"cannot be read ({error.strerror})") from None
    if data.startswith(_POINTER):
        raise Fault(
            "a file that cannot be read", where, "a pointer of Git LFS in place of the file: run `git lfs pull`"
        )
    return {"path": path.name, "bytes": data}


@lru_cache(maxsize=1)
def _bytes(path: Path, size: int, modified: int) -> bytes:
    """Return a file's bytes: segments of one that follow each other share them."""
    return path.read_bytes()


def _table(dataset: Dataset, folder: Folder, name: str, config: str, part: Part | None) -> Rows:
    """Yield the examples of a table."""
    columns, encoding = dict(dataset.columns), dataset.options["encoding"]
    missing = dataset.options["missing"] == "carry"
    path, suffix = folder.root / name, compressed.suffix(name)
    # Where commas separate fields they stand before no decimals.
    comma = suffix in (".csv", ".tsv") and separator(path, encoding) != ","
    # Column as the dataset's file names it -> column of the table.
    sources: dict[str, str] = {}

    def select(there: Sequence[str], where: str) -> list[str]:
        known = set(there)
        if "input" in columns:
            columns["input"] = _spelt_out(columns, there, known)
        for column in (one for wanted in columns.values() for one in listed(wanted)):
            sources[column] = column
            if column not in known:
                instead = FILE_NAME if column in KINDS and FILE_NAME in known else None
                if instead is None and not (column in _OF_A_FILE and _of_a_file(name)[column]):
                    role = next(role for role, wanted in columns.items() if column in listed(wanted))
                    found = _instead(there, suffix in (".csv", ".tsv"), comma)
                    raise _NoColumn(f"columns.{role}", f"{where}: no column {column}: {found}")
                sources[column] = instead or ""
        return list(dict.fromkeys(source for source in sources.values() if source))

    def complete() -> Iterator[Record | Fault]:
        if "audio" in dataset.columns.values() and toolkits.is_list(name):
            found = toolkits.records(folder, name, select, encoding)
        else:
            found = records(path, name, select, encoding, part)
        for record in found:
            if isinstance(record, Record):
                of_file = _of_a_file(name)
                record.values |= {
                    column: record.values[source] if source else of_file[column] for column, source in sources.items()
                }
            yield record

    if "time" in columns:
        if "id" not in columns:
            raise UserError(
                f"{config}: columns.id: missing: with columns.time, name the column that tells series apart"
            )
        found = complete()
        # With the first of them the columns are known.
        first = list(islice(found, 1))
        for record in long_form.in_rows(chain(first, found), columns, name, comma, missing):
            if isinstance(record, Record):
                roles = {role: record.values[column] for role, column in columns.items() if role != "input"}
                record = Row(record.where, roles["id"], {**roles, "input": record.values[""]})
            yield record
        return
    stem = compressed.stem(name)
    for record in complete():
        yield record if isinstance(record, Fault) else _row(columns, folder, name, stem, record, comma, missing)


def _spelt_out(columns: Mapping[str, Any], there: Sequence[str], known: Collection[str]) -> str | list[str]:
    """Return the columns of the role ``input``: for a pattern (``t*``), those that match and have no other role, in order."""
    wanted = listed(columns["input"])
    if all("*" not in one or one in known for one in wanted):
        return columns["input"]
    others = {column for role, column in columns.items() if role != "input"}
    found: list[str] = []
    for one in wanted:
        pattern = re.compile(re.escape(one).replace(r"\*", ".*"))
        matching = [] if one in known else [name for name in there if name not in others and pattern.fullmatch(name)]
        found += matching or [one]
    return list(dict.fromkeys(found))


def _instead(columns: Sequence[str], text: bool, comma: bool) -> str:
    """Return what a table has in place of a column that it lacks, and what to do."""
    if text and columns and all(long_form.parsed_number(name, comma) is not None for name in columns):
        return f"its first line has numbers, {_first(columns)}: write names of the columns above it"
    return f"it has {_first(columns) or 'none'}; mend columns in the dataset's file, or say with origin.files which files to read"


def _first(columns: Sequence[str]) -> str:
    """Return some names of columns for a message, the first of many."""
    more = f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else ""
    return ", ".join(columns[:SHOWN]) + more


def _row(
    columns: Mapping[str, Any], folder: Folder, name: str, stem: str, record: Record, comma: bool, missing: bool
) -> Row | Fault:
    """Return the example of a record of a table."""
    row = Row(record.where, f"{stem}/{record.number}", {})
    try:
        for role, column in columns.items():
            if isinstance(column, list):
                row.roles[role] = long_form.in_a_row(record, column, comma, missing)
                continue
            value = record.values[column]
            if role in _FILE_ROLES and isinstance(value, str):
                named = _named(folder, name, value, f"{record.where}: column {column}")
                row.id = row.path = named
                row.where = f"{record.where}: {named}"
                value = _content(folder, named, row.where)
            row.roles[role] = value
    except Fault as fault:
        return fault
    return row


def _named(folder: Folder, table: str, written: str, where: str) -> str:
    """Return the file that a table names, relative to the table's folder or to the dataset's, or absolute.

    Raises:
        Fault: if it is none of the dataset's files.
    """
    at, _, column = where.partition(": ")
    if not written.strip():
        raise Fault("a missing value", at, f"{column} has no value")
    if (found := folder.find(written)) and "/" not in table:
        return found
    shown = repr(written[:80])
    for name in dict.fromkeys([written.strip(), written.strip().replace("\\", "/")]):
        if posixpath.isabs(name):
            name = posixpath.relpath(posixpath.normpath(name), folder.root.absolute().as_posix())
            candidates = [name]
        else:
            candidates = [posixpath.normpath(posixpath.join(base, name)) for base in (posixpath.dirname(table), "")]
        if all(candidate.split("/")[0] == ".." for candidate in candidates):
            raise Fault("a file name that leads outside", at, f"{column}: {shown} is outside the dataset's folder")
        for candidate in candidates:
            if found := folder.find(candidate):
                return found
    try:
        outside = any((folder.root / candidate).is_file() for candidate in candidates)
    except (OSError, ValueError):  # too long for a name, or with a null byte
        outside = False
    more = ""
    if outside:
        more = ": it is there, but origin.files leaves it out, or it is new: `lt25 download` notes it"
    elif re.fullmatch(r"[-+]?[\d.,]+", written.strip()):
        more = ": for numbers, name the columns that have them as a list, `input: [a, b]`"
    elif re.match(r"\s*[a-z0-9]+://", written, re.IGNORECASE):
        more = ": an address is not fetched: download what it leads to, and name the file"
    elif near := folder.like(written):
        more = f": there is {near}"
    raise Fault("a missing file", at, f"{column}: no such file: {shown}{more}")
