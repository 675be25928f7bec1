"""Compressed files of text, as large corpora are published: JSON lines and texts under gzip or Zstandard."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

from lt25.errors import UserError

_KINDS = {".gz": "gzip", ".zst": "zstd"}
"""Last suffix -> its name in pyarrow."""

TABLES = {f"{inner}{outer}" for inner in (".jsonl", ".json") for outer in _KINDS}
"""How the names of compressed JSON lines end; ``.json`` too, since the corpora that are so published call them that."""

TEXTS = {f".txt{outer}" for outer in _KINDS}
"""How the names of compressed texts end."""

_STEP = 1 << 20
"""So many bytes are passed over at a time."""


def suffix(name: str) -> str:
    """Return a file's suffix in small letters, of compressed text both: ``.jsonl.gz``, but ``.gz`` of ``a.tar.gz``."""
    return _suffix(name).lower()


def stem(name: str) -> str:
    """Return a name without its `suffix`: the same one whether the file is compressed or not."""
    return name.removesuffix(_suffix(name))


def _suffix(name: str) -> str:
    *_, inner, outer = ("", "", *PurePosixPath(name).suffixes)
    return inner + outer if (inner + outer).lower() in TABLES | TEXTS else outer


@contextmanager
def plain(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Give the bytes of a file, decompressed where its `suffix` says that it is compressed text.

    Args:
        file: open, at its beginning.
        name: of the file, also for messages.

    Raises:
        UserError: where it is read, if it is damaged or cut short.
    """
    if suffix(name) not in TABLES | TEXTS:
        yield file
        return
    import pyarrow as pa

    kind = _KINDS[PurePosixPath(name.lower()).suffix]
    try:
        with io.BufferedReader(pa.input_stream(file, compression=kind)) as data:
            yield data
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:  # the disk's or the network's, not pyarrow's
            raise
        raise UserError(f"{name}: no readable {kind} file ({str(error).splitlines()[0]}): replace it") from None


def go_to(file: BinaryIO, position: int) -> None:
    """Go to a byte of an open file; what is compressed is read from its beginning to there."""
    if file.seekable():
        file.seek(position)
        return
    while position and (passed := len(file.read(min(position, _STEP)))):
        position -= passed
