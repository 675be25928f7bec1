"""Prepared utterances, kept in parts until all are there, so that a preparation that is stopped goes on where it was.

A part is a file of raw bytes, the stored audio of utterances one after another and then their recordings, and a record of
it (`lt25.files`), which is written last and says how many utterances are in the parts before. Parts follow each other as the
utterances do.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lt25 import files
from lt25.data.examples import Example
from lt25.data.faults import Fault
from lt25.data.shards import Stretch
from lt25.errors import UserError

SIZE = 1 << 26
"""Bytes of a part, from which on the next one begins: about an hour of frames."""

SECONDS = 5.0
"""What takes so long is a part as well, however small, so that no more is lost if preparation is stopped."""


class Utterance(NamedTuple):
    """What is prepared of an utterance.

    Attributes:
        stored: of the audio: samples int16 [n], or frames float16 [T, n_mels].
        frames: how many there are or would be.
        labels: int32 [L].
        text: the transcript as it is learnt.
        recording: the file, of the test split; of others empty.
    """

    stored: np.ndarray | Stretch
    frames: int
    labels: np.ndarray
    text: str
    recording: bytes


Found = Utterance | Fault


class Parts:
    """What is prepared of a dataset, in the order of its examples.

    Args:
        folder: of the parts, there or not.

    Attributes:
        facts: what the utterances are prepared with, as every part has it; None if there is no part yet and nobody has set it.
        taken: how many utterances and faults `kept` has given.
    """

    def __init__(self, folder: Path) -> None:
        self.taken = 0
        self._folder, self._count = folder, 0
        record = self._record()
        self.facts: dict[str, Any] | None = record and record["facts"]

    def kept(self) -> Iterator[Found]:
        """Yield what the parts hold, as far as they are whole."""
        while (found := self._load()) is not None:
            self._count += 1
            self.taken += len(found)
            yield from found

    def keep(self, results: Iterable[tuple[Example, Found]]) -> Iterator[tuple[Example, Found]]:
        """Yield results, those first that `kept` has given, and write parts of the others, in which their audio then lies.

        Utterances come when their part is written, faults at once, as they may be what preparation is to stop at.

        Raises:
            UserError: if the disk is full or read-only.
        """
        together: list[tuple[Example, Found]] = []
        size, number, began = 0, -1, time.monotonic()
        for number, (example, found) in enumerate(results):
            if number < self.taken:
                yield example, found
                continue
            together.append((example, found))
            if isinstance(found, Fault):
                yield example, found
                continue
            size += found.stored.nbytes + len(found.recording)
            if size >= SIZE or time.monotonic() - began >= SECONDS:
                yield from self._save(together, number + 1 - len(together))
                together, size, began = [], 0, time.monotonic()
        if together:
            yield from self._save(together, number + 1 - len(together))

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self._count}{suffix}"

    def _save(self, results: list[tuple[Example, Found]], before: int) -> list[tuple[Example, Found]]:
        """Write a part that ``before`` utterances and faults go before; return its utterances."""
        rows = [_row(found) for _, found in results]
        usable = [found for _, found in results if isinstance(found, Utterance)]
        with files.whole_file(self._path(".bin")) as partial, partial.open("wb") as file:
            for one in usable:
                file.write(np.ascontiguousarray(one.stored).data)
            for one in usable:
                file.write(one.recording)
            file.flush()
        dtype = usable[0].stored.dtype.name if usable else ""
        record = {"facts": self.facts, "before": before, "dtype": dtype, "rows": rows}
        files.write_record(self._path(".json"), record, [self._path(".bin")])
        stretches = _stretches(self._path(".bin"), dtype, rows)
        self._count += 1
        return [
            (example, found._replace(stored=next(stretches)))
            for example, found in results
            if isinstance(found, Utterance)
        ]

    def _record(self) -> dict[str, Any] | None:
        """Read the record of the next part; None if the part is not there, not as it was written, or follows other parts."""
        try:
            record = files.load_record(self._path(".json"))
        except (FileNotFoundError, UserError):
            return None
        follows = record.get("before") == self.taken
        return record if follows and not files.damage(self._folder, record["files"]) else None

    def _load(self) -> list[Found] | None:
        """Read the next part; None if there is none."""
        if (record := self._record()) is None:
            return None
        path, rows = self._path(".bin"), record["rows"]
        usable = [row for row in rows if "fault" not in row]
        stretches = list(_stretches(path, record["dtype"], rows))
        with path.open("rb") as file:
            file.seek(sum(one.nbytes for one in stretches))
            recordings = [file.read(row["recording"]) for row in usable]
        utterances = (
            Utterance(stored, row["frames"], np.array(row["labels"], np.int32), row["text"], recording)
            for row, stored, recording in zip(usable, stretches, recordings, strict=True)
        )
        return [Fault(*row["fault"]) if "fault" in row else next(utterances) for row in rows]


def _row(found: Found) -> dict[str, Any]:
    """Return what the record of a part says of an utterance or a fault."""
    if isinstance(found, Fault):
        return {"fault": [found.reason, found.where, found.message]}
    return {
        "shape": list(found.stored.shape),
        "frames": found.frames,
        "labels": found.labels.tolist(),
        "text": found.text,
        "recording": len(found.recording),
    }


def _stretches(path: Path, dtype: str, rows: list[dict[str, Any]]) -> Iterator[Stretch]:
    """Yield where the audio of the utterances of a part lies."""
    begin = 0
    for row in rows:
        if "fault" not in row:
            stretch = Stretch(path, begin, np.dtype(dtype), tuple(row["shape"]))
            begin += stretch.nbytes
            yield stretch
