"""Prepared splits on disk: packed tensors in a safetensors file, and a Parquet table with one row an example.

A split is one safetensors file (https://huggingface.co/docs/safetensors) of any size: it is written as examples come and
read through a memory map, so neither side holds it in memory.
"""

import json
import math
import shutil
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from lt25 import files
from lt25.errors import UserError

Job = TypeVar("Job")
Done = TypeVar("Done")

_NAMES = {"int64": "I64", "int32": "I32", "float32": "F32", "float16": "F16", "uint16": "U16", "int16": "I16"}

# The table is written in groups of so many rows, or of so many bytes of images and audio: none is held whole.
_ROWS, _HEAVY = 50_000, 64 << 20


def shard_path(folder: Path, split: str) -> Path:
    """Return the path of a split's tensors."""
    return folder / f"{split}-00000-of-00001.safetensors"


def believe(
    folder: Path, splits: Collection[str], command: str, tables: Collection[str] | None = None
) -> dict[str, Any]:
    """Read a prepared dataset's ``stats.json``, and compare the files that a stage will read with it.

    Args:
        folder: the prepared dataset.
        splits: which splits are read.
        command: what prepares it anew: ``lt25 prepare digits``.
        tables: of which of them the table is read too; None: of all.

    Raises:
        UserError: if a split is not there, or a file is not as it was written.
    """
    record = files.read_record(folder / "stats.json", command)
    of_splits = {
        name: split for split in record["splits"] for name in (shard_path(folder, split).name, f"{split}.parquet")
    }
    for split in splits:
        if split not in record["splits"]:
            there = ", ".join(record["splits"])
            raise UserError(f"{folder}: no such prepared split: {split}: there are {there}")
    names = {
        name
        for name in record["files"]
        if name not in of_splits
        or of_splits[name] in (splits if tables is None or not name.endswith(".parquet") else tables)
    }
    return files.believe(folder / "stats.json", command, names)


@dataclass(frozen=True, slots=True)
class Stretch:
    """An array in a file of raw bytes, which stays as it is until the split that has the array is closed.

    Attributes:
        path: the file.
        begin: at which byte of it the array begins.
        dtype, shape: of the array, which has at least one dimension.
    """

    path: Path
    begin: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SplitWriter:
    """Writes one split, example by example; `close` finishes the files.

    An array given to `add` under a name is packed along dimension 0; ``inputs`` gets offsets ``input_offsets``, ``labels``
    of at least one dimension ``label_offsets``, both int64 [n + 1]. Labels of no dimension become int64 [n].
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.split = split
        self.lengths: list[int] = []
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._heavy = 0
        self._table = None
        self._parts: dict[str, _Part] = {}
        self._chunks: list[tuple[int, int]] = []
        self._numbers: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    def begin_chunk(self, dataset: int) -> None:
        """Note in ``chunk_offsets`` and ``chunk_datasets``, int64 [n], that a chunk of the dataset of this number begins."""
        self._chunks.append((len(self), dataset))

    def add(
        self,
        row: dict[str, Any],
        inputs: np.ndarray | Stretch,
        labels: np.ndarray | int | None = None,
        length: int | None = None,
    ) -> None:
        """Add an example.

        Args:
            row: of the table.
            inputs: [T, ...], of a split all in memory or all in files, from which `close` copies them.
            labels: a number, [L] or none.
            length: steps that a model sees of it, where these are not T.
        """
        self._rows.append(row)
        self._heavy += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if len(self._rows) >= _ROWS or self._heavy >= _HEAVY:
            self._write_rows()
        self.lengths.append(len(inputs) if length is None else length)
        self._pack("inputs", inputs)
        if isinstance(labels, np.ndarray):
            self._pack("labels", labels)
        elif labels is not None:
            self._numbers.append(labels)

    def _pack(self, name: str, array: np.ndarray | Stretch) -> None:
        if name not in self._parts:
            self._parts[name] = _Part(self._folder / f".{self.split}.{name}", array)
        self._parts[name].add(array)

    def _write_rows(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(self._rows, None if self._table is None else self._table.schema)
        if self._table is None:
            self._table = pq.ParquetWriter(self._folder / f"{self.split}.parquet", table.schema)
        self._table.write_table(table)
        self._rows, self._heavy = [], 0

    def close(self) -> None:
        """Finish the split's files. A split without examples has none."""
        if not self.lengths:
            return
        if self._rows:
            self._write_rows()
        if self._table is not None:
            self._table.close()
        small: dict[str, np.ndarray] = {}
        for name, part in self._parts.items():
            small[f"{name.removesuffix('s')}_offsets"] = np.cumsum([0, *part.lengths], dtype=np.int64)
        if self._chunks:
            small["chunk_offsets"], small["chunk_datasets"] = np.array(self._chunks, np.int64).T.copy()
        if self._numbers:
            small["labels"] = np.asarray(self._numbers, dtype=np.int64)
        _write_safetensors(shard_path(self._folder, self.split), small, self._parts)


class _Part:
    """A tensor that grows: in a file of raw bytes, or as a list of stretches of files that are there already."""

    def __init__(self, path: Path, first: np.ndarray | Stretch) -> None:
        self.dtype, self.trailing = first.dtype, first.shape[1:]
        self.lengths: list[int] = []
        self._path = path
        self._file = None if isinstance(first, Stretch) else path.open("wb")
        # File, first byte and the byte after the last; those that follow each other are one.
        self._stretches: list[tuple[Path, int, int]] = []

    def add(self, array: np.ndarray | Stretch) -> None:
        assert array.dtype == self.dtype and array.shape[1:] == self.trailing, (array.dtype, array.shape)
        self.lengths.append(len(array))
        if isinstance(array, Stretch):
            assert self._file is None
            begin = array.begin
            if self._stretches and self._stretches[-1][::2] == (array.path, begin):
                begin = self._stretches.pop()[1]
            self._stretches.append((array.path, begin, array.begin + array.nbytes))
        else:
            assert self._file is not None
            self._file.write(np.ascontiguousarray(array).data)

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(self.lengths), *self.trailing)

    def move_to(self, file: BinaryIO) -> None:
        """Write all of it to an open file; the own file goes, those of stretches stay."""
        if self._file is not None:
            self._file.close()
            with self._path.open("rb") as raw:
                shutil.copyfileobj(raw, file, 1 << 20)
            self._path.unlink()
        for path, begin, end in self._stretches:
            with path.open("rb") as raw:
                raw.seek(begin)
                file.write(raw.read(end - begin))


def _write_safetensors(path: Path, small: dict[str, np.ndarray], parts: dict[str, _Part]) -> None:
    """Write int64 arrays, then the grown tensors by falling size of their numbers, so that each is aligned."""
    grown = sorted(parts, key=lambda name: -parts[name].dtype.itemsize)
    header, offset = {}, 0
    for name, tensor in [*small.items(), *((name, parts[name]) for name in grown)]:
        size = int(np.prod(tensor.shape)) * tensor.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for array in small.values():
            file.write(array.data)
        for name in grown:
            parts[name].move_to(file)


def in_order(work: Callable[[Job], Done], jobs: Iterable[Job], threads: int, ahead: int) -> Iterator[Done]:
    """Yield what each job gives, in their order, while threads are at work on those that follow.

    Args:
        work: what is done to a job.
        jobs: taken as they are needed.
        threads: how many work at once.
        ahead: how many jobs, at the most, are begun or done before they are asked for.
    """
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Done]] = deque()
        try:
            for job in jobs:
                under_way.append(pool.submit(work, job))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
