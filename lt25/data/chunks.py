"""A corpus in chunks: what is read, tokenized, shuffled and shared out at a time.

Chunks follow from the files alone, in their order, so that text and the tokens prepared from it have the same ones.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from lt25.data import compressed, read
from lt25.data.folders import Folder
from lt25.data.records import Part, text_codec
from lt25.experiment import Dataset

Chunk = tuple[read.Piece, ...]
"""Several files that are a document each, or a table or a part of one."""

SIZE = 1 << 18
"""Bytes of a chunk, as far as files, lines and groups of rows can be divided so."""

_PARTS = 16
"""A group of rows is read whole, whichever of them are wanted, and what is compressed from its beginning: each is divided into so
many chunks at most."""


def chunks(dataset: Dataset, folder: Folder, split: str) -> Iterator[Chunk]:
    """Yield the chunks of a source split; the examples of all, one after another, are those of `read.rows`."""
    together: list[read.Piece] = []
    size = 0
    for piece in read.pieces(dataset, folder, split):
        path = folder.root / piece.name
        if piece.column:
            together, size = [*together, piece], size + path.stat().st_size
            if size >= SIZE:
                yield tuple(together)
                together, size = [], 0
        elif (parts := _parts(path, piece.name, dataset)) is not None:
            yield from ((piece._replace(part=part),) for part in parts)
        else:
            yield (piece,)
    if together:
        yield tuple(together)


def _parts(path, name: str, dataset: Dataset) -> list[Part] | None:
    """Divide a table; None for one that has to be read from its beginning."""
    newline = "\n".encode(text_codec(dataset.options["encoding"]).removesuffix("-sig"))
    can_be_divided = isinstance(path, Path) and newline == b"\n"
    match compressed.suffix(name):
        case ".parquet":
            return _rows(path)
        case ".jsonl" if can_be_divided:
            return list(_lines(path, name))
        case suffix if can_be_divided and suffix in compressed.TABLES:
            return _joined(list(_lines(path, name)), _PARTS)
    return None


def _joined(parts: list[Part], most: int) -> list[Part]:
    """Join parts with those beside them until there are no more than ``most``."""
    count = min(len(parts), most)
    bounds = [len(parts) * number // count for number in range(count + 1)] if parts else []
    return [Part(parts[first].begin, parts[last - 1].end, parts[first].first) for first, last in pairwise(bounds)]


def _lines(path: Path, name: str) -> Iterator[Part]:
    begin, number = 0, 1
    with path.open("rb") as opened, compressed.plain(opened, name) as file:
        while data := file.read(SIZE):
            data += file.readline()
            yield Part(begin, begin + len(data), number)
            begin, number = begin + len(data), number + data.count(b"\n")


def _rows(path) -> list[Part] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path if isinstance(path, Path) else path.open("rb"))
    except (pa.ArrowException, OSError):
        return None  # who reads the table says what is wrong
    parts, begin = [], 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        count = max(1, min(group.total_byte_size // SIZE, _PARTS, group.num_rows))
        bounds = [begin + group.num_rows * number // count for number in range(count + 1)]
        parts += [Part(first, last, first) for first, last in pairwise(bounds) if first < last]
        begin += group.num_rows
    return parts
