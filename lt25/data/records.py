"""Records of tables: lines of CSV and of JSON, rows of Parquet, entries of NumPy's arrays side by side.

A record that cannot be read stands in its place as a fault.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lt25.config.files import once
from lt25.data import compressed
from lt25.data.faults import Fault
from lt25.errors import UserError

TABLES = {".parquet", ".jsonl", ".csv", ".tsv", *compressed.TABLES}

_FIELD = 1 << 24
"""The most characters of a field of CSV; one that is longer is a quote that nobody closed."""

_LACKING = 1000
"""So many lines of JSON are looked at for a column: where none has it, the dataset's file is wrong, not the lines."""

_VALUES = 1 << 21
"""So many values of Parquet at a time are Python's numbers, if they are one each."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Record:
    """One record: ``where`` it stands, for messages, its ``number`` (a line's from 1, a row's from 0), its values by column."""

    where: str
    number: int
    values: dict[str, Any]


Records = Iterator[Record | Fault]


class Part(NamedTuple):
    """A part of a table.

    Attributes:
        begin, end: of JSON lines the bytes, decompressed, at ends of lines; of Parquet the rows, all in one of its groups.
        first: number of the first line or row.
    """

    begin: int
    end: int
    first: int


Select = Callable[[Sequence[str], str], list[str]]
"""Takes the columns that there are and where that is, returns those wanted; raises UserError where one is missing."""


def records(path: Path, name: str, select: Select, encoding: str, part: Part | None = None) -> Records:
    """Yield the records of a table.

    Args:
        path: a CSV, JSON lines (compressed too, and of NeMo's in ``.json``) or Parquet file, or a NumPy file of several arrays,
            each of which is a column.
        name: of the file, for messages.
        select: which of its columns are wanted.
        encoding: of its text, unless it is Parquet.
        part: which of them, of JSON lines or Parquet; none: all.

    Raises:
        UserError: if the file as a whole cannot be read, or lacks a column.
    """
    try:
        match compressed.suffix(path.name):
            case ".parquet":
                yield from _parquet(path, name, select, part)
            case suffix if suffix in {".jsonl", ".json", *compressed.TABLES}:
                yield from _json_lines(path, name, select, encoding, part)
            case ".npz":
                yield from _arrays(path, name, select)
            case _:
                yield from _csv(path, name, select, encoding)
    except UnicodeError as error:
        raise UserError(f"{name}: {not_in(encoding)} ({error})") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}): mend it") from None


def text_codec(encoding: str) -> str:
    """Return the codec of an encoding; of UTF-8 the one that passes over the mark which Windows puts before it."""
    codec = codecs.lookup(encoding).name
    return "utf-8-sig" if codec == "utf-8" else codec


def not_in(encoding: str) -> str:
    """Say that text is in another encoding, and what to do."""
    return (
        f"not {encoding}: say what it is with the key encoding in the dataset's file, for example `encoding: latin-1`, "
        f"`cp1252` or `utf-16`"
    )


def has_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair: no encoding has it, and no tokenizer takes it."""
    return _SURROGATE.search(text) is not None


def separator(path: Path, encoding: str) -> str:
    """Return what separates the fields of a CSV file: what stands most often in its first line."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding=text_codec(encoding), errors="surrogateescape") as file:
        header = file.readline(_FIELD)
    outside = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=outside.count)


def _csv(path: Path, name: str, select: Select, encoding: str) -> Records:
    csv.field_size_limit(_FIELD)
    # Bytes that the encoding does not have become surrogates: the line that has them is known then, and no other is lost.
    with path.open(encoding=text_codec(encoding), errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=separator(path, encoding), strict=True)
        try:
            header = [title.strip() for title in next(reader, [])]
        except csv.Error as error:
            raise UserError(f"{name}, line 1: no header of a table ({error}): mend it") from None
        if any(map(has_surrogate, header)):
            raise UserError(f"{name}, line 1: {not_in(encoding)}")
        at = {column: number for number, column in reversed(list(enumerate(header)))}
        columns = {column: at[column] for column in select(header, name)}
        _named_once(columns, header, f"{name}, line 1")
        while True:
            number = reader.line_num + 1
            where = f"{name}, line {number}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error) or "larger than" in str(error):
                    raise UserError(
                        f"{where}: a quote that opens here or soon after is never closed: close it"
                    ) from None
                yield Fault("a row that cannot be read", where, f"no valid CSV ({error})")
                continue
            if not any(field.strip() for field in fields):
                continue
            if len(fields) < len(header) or any(field.strip() for field in fields[len(header) :]):
                fewer = "fewer" if len(fields) < len(header) else "more"
                message = f"{fewer} fields than the header has, {len(fields)} instead of {len(header)}"
                yield Fault("a row that cannot be read", where, message)
                continue
            values = {column: fields[place] for column, place in columns.items()}
            yield checked(Record(where, number, values), encoding)


def _json_lines(path: Path, name: str, select: Select, encoding: str, part: Part | None) -> Records:
    lacking: list[UserError] = []
    # Only the file's first part can tell that no row has a column.
    complete = part is not None and part.first > 1
    with path.open("rb") as opened, compressed.plain(opened, name) as whole:
        data: Any = whole
        if part is not None:
            compressed.go_to(whole, part.begin)
            data = io.BytesIO(whole.read(part.end - part.begin))
        file = io.TextIOWrapper(data, encoding=text_codec(encoding), errors="surrogateescape", newline="\n")
        for number, line in enumerate(file, start=1 if part is None else part.first):
            where = f"{name}, line {number}"
            if not line.strip():
                continue
            try:
                if has_surrogate(line):
                    raise Fault("text in another encoding", where, not_in(encoding))
                values = json.loads(line, object_pairs_hook=once)
                if not isinstance(values, dict):
                    raise Fault(
                        "a row that cannot be read",
                        where,
                        f"expected an object with columns, found {line.strip()[:40]}",
                    )
                columns = select(list(values), where)
            except Fault as fault:
                yield fault
            except RecursionError:
                yield Fault("a row that cannot be read", where, "no valid JSON (nested too deeply)")
            except ValueError as error:
                yield Fault("a row that cannot be read", where, f"no valid JSON ({str(error).splitlines()[0]})")
            except UserError as error:
                lacking.append(error)
                if not complete and len(lacking) >= _LACKING:
                    break
                yield Fault("a missing value", where, str(error).removeprefix(f"{where}: "))
            else:
                complete = True
                yield checked(Record(where, number, {column: values[column] for column in columns}), encoding)
    if lacking and not complete:
        raise lacking[0]


def _parquet(path: Path, name: str, select: Select, part: Part | None) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path if isinstance(path, Path) else path.open("rb")) as file:
            there, number = file.schema_arrow.names, 0 if part is None else part.begin
            columns = select(there, name)
            _named_once(columns, there, name)
            for batch in _batches(file, columns, part):
                try:
                    rows = batch.to_pylist()
                except UnicodeDecodeError:
                    rows = [_alone(batch.slice(row, 1)) for row in range(len(batch))]
                for row in rows:
                    where = f"{name}, row {number}"
                    if row is None:
                        yield Fault("text in another encoding", where, "a text that is not UTF-8")
                    else:
                        yield checked(Record(where, number, row), "utf-8")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: no readable Parquet file ({str(error).splitlines()[0]}): replace it") from None


def _arrays(path: Path, name: str, select: Select) -> Records:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {column: file[column] for column in select(file.files, name)}
    except (UserError, FileNotFoundError):
        raise
    # NumPy parses headers as Python, and what is wrong with them is of many kinds.
    except Exception as error:
        pickled = ": save a list of names as text, `np.array(names, str)`, and series of several lengths as a file each"
        more = pickled if "allow_pickle" in str(error) else ": replace it"
        raise UserError(
            f"{name}: no readable .npz file ({(str(error) or repr(error)).splitlines()[0]}){more}"
        ) from None
    counts = {column: len(array) if array.ndim else None for column, array in arrays.items()}
    if None in counts.values() or len(set(counts.values())) > 1:
        found = ", ".join(f"{column} {list(array.shape)}" for column, array in arrays.items())
        raise UserError(f"{name}: expected arrays that begin with the same number of series, found {found}: mend them")
    arrays = {column: array.astype(str) if array.dtype.kind == "S" else array for column, array in arrays.items()}
    for number, values in enumerate(zip(*arrays.values(), strict=True)):
        row = [value if isinstance(value, np.ndarray) else value.item() for value in values]
        yield Record(f"{name}, entry {number}", number, dict(zip(arrays, row, strict=True)))


def _named_once(columns: Iterable[str], there: Sequence[str], where: str) -> None:
    counts = Counter(there)
    for column in columns:
        if counts[column] > 1:
            raise UserError(f"{where}: {counts[column]} columns are named {column}: give each a name of its own")


def _batches(file: Any, columns: list[str], part: Part | None) -> Iterator[Any]:
    if part is None:
        yield from file.iter_batches(batch_size=max(1, min(256, _VALUES // len(columns))), columns=columns)
        return
    group, begin = 0, part.begin
    while begin >= (rows := file.metadata.row_group(group).num_rows):
        group, begin = group + 1, begin - rows
    yield from file.read_row_group(group, columns).slice(begin, part.end - part.begin).to_batches(256)


def _alone(batch: Any) -> dict[str, Any] | None:
    """Return the row of a batch that has one, or None if its text is not UTF-8."""
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return None


def checked(record: Record, encoding: str) -> Record | Fault:
    """Return a record, or the fault that a text of it is in another encoding."""
    for column, value in record.values.items():
        if isinstance(value, str) and has_surrogate(value):
            half = any(not "\udc80" <= character <= "\udcff" for character in _SURROGATE.findall(value))
            what = "half of a surrogate pair, which no text has" if half else not_in(encoding)
            return Fault("text in another encoding", record.where, f"column {column}: {what}")
    return record
