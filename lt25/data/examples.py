"""Examples of a dataset's splits: the published rows, with what is held out for validation and test set apart."""

import hashlib
import json
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lt25.config.sections import in_order
from lt25.data import read
from lt25.data.chunks import Chunk, chunks
from lt25.data.faults import Fault, Faults
from lt25.data.folders import Folder, listed
from lt25.experiment import Dataset

FEW = 20
"""Of so few texts, or fewer, each is cut: its end is held out."""


@dataclass(slots=True)
class Example:
    """One example.

    Attributes:
        split: that it belongs to.
        where: it stands, for messages; no other example stands there.
        id: as the dataset has it, or else where it is from.
        roles: the values of its roles (``input``, ``label``, ...).
        path: the file that it is, or where it stands.
    """

    split: str
    where: str
    id: str
    roles: dict[str, Any]
    path: str = ""


class Examples:
    """The examples of a dataset.

    What is held out of train depends on nothing but the example: on its ``group`` or the hash of that where the dataset names
    such a column, so that no speaker or module is on both sides, otherwise on the hash of its content, so that no duplicate is.
    Where a split names its groups, fractions are of examples, whatever their group. A few texts cannot be shared out so: of each
    the end is held out.

    Args:
        dataset: whose.
        folder: its files.
        faults: takes what cannot be used.
        parts: see below.
        others: see below.

    Attributes:
        dataset, folder, faults: as given; the tasks add what they find to the faults.
        parts: a folder for what need not be made again if preparation is stopped; None: it is not kept.
        repeated: where `of` all splits has seen an ``id`` once more.
        others: the examples of further datasets that are prepared together with this one.
    """

    def __init__(
        self,
        dataset: Dataset,
        folder: Folder,
        faults: Faults,
        parts: Path | None = None,
        others: Sequence["Examples"] = (),
    ) -> None:
        self.faults, self.parts, self.others = faults, parts, others
        self.dataset, self.folder = dataset, folder
        splits = dataset.splits
        train, validation, *tests = in_order(splits)
        self._published = {
            split: splits[split] for split in (train, validation, *tests) if not isinstance(splits[split], dict)
        }
        # The test splits are chosen first, so that they stay the same whatever is held out for validation.
        self._held_out = {split: splits[split] for split in (*tests, validation) if split not in self._published}
        self._notes = False
        self.forget()

    def of(self, *splits: str) -> Iterator[Example]:
        """Yield the examples of ``splits``, train's source first; each split's own in a fixed order.

        Raises:
            UserError: as `read.rows`, or for an example that cannot be used, if faults are to stop.
        """
        self._notes = set(splits) >= set(self.dataset.splits)
        if self._notes:
            self.forget()
        if {"train", *self._held_out}.intersection(splits):
            yield from (self._noted(example) for example in self._train() if example.split in splits)
        for split in self._published:
            if split != "train" and split in splits:
                yield from map(self._noted, self._source(split))

    def forget(self) -> None:
        """Forget what was noted for `shared`."""
        self._seen: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._first: dict[str, list[str]] = defaultdict(list)
        self._ids: set[int] = set()
        self.repeated: list[str] = []

    def shared(self) -> dict[str, tuple[int, str]]:
        """Return what `of` all splits has seen twice: the other split -> (how many of its examples train has too, the first).

        What a test split has of validation counts too, what it has of another test split does not.
        """
        known = np.zeros(0, np.uint64)
        found = {}
        for split in in_order(self._seen):
            digests = np.frombuffer(self._seen[split], np.uint64)
            if split != "train" and (twice := np.flatnonzero(np.isin(digests, known))).size:
                found[split] = (len(twice), self._first[split][twice[0]])
            if split in ("train", "validation"):
                known = np.concatenate([known, digests])
        return found

    def note(self, split: str, where: str, digest: int) -> None:
        """Take note, for `shared`, of what an example's content is known by."""
        self._seen[split].append(digest)
        if split != "train":
            self._first[split].append(where)

    def _noted(self, example: Example) -> Example:
        if self._notes:
            self.note(example.split, example.where, digest(example))
            if "id" in example.roles:
                if (id_ := hash(example.id)) in self._ids:
                    self.repeated.append(example.where)
                self._ids.add(id_)
        return example

    def chunks(self, *splits: str) -> list[tuple[str, Chunk]]:
        """Return the chunks that hold the examples of ``splits``, in the order of `of`, each with the split of its source."""
        wanted = ["train"] if {"train", *self._held_out}.intersection(splits) else []
        wanted += [split for split in self._published if split != "train" and split in splits]
        return [
            (split, chunk)
            for split in wanted
            for name in listed(self._published[split])
            for chunk in chunks(self.dataset, self.folder, name)
        ]

    def of_chunk(self, split: str, chunk: Chunk) -> Iterator[Example | Fault]:
        """Yield the examples of a chunk, of all splits, and what cannot be used; several threads may read at a time."""
        rows = (row for piece in chunk for row in read.rows_of(self.dataset, self.folder, piece))
        for found in self._checked(split, rows):
            if isinstance(found, Fault) or split != "train":
                yield found
            else:
                yield from self._shared_out(found)

    def _train(self) -> Iterator[Example]:
        for example in self._source("train"):
            yield from self._shared_out(example)

    def _shared_out(self, example: Example) -> Iterator[Example]:
        """Yield an example of train's source as one of its split; of few texts, the part of each split."""
        if self._held_out and self.few:
            yield from self._cut(example)
            return
        if self._held_out:
            example.split = self._side(example)
        yield example

    @cached_property
    def few(self) -> bool:
        """Whether train's source has so few texts that each is cut."""
        if any("groups" in part for part in self._held_out.values()):
            return False
        first = list(islice(self._source("train"), FEW + 1))
        most = 1 if "group" in self.dataset.columns else FEW
        return len(first) <= most and all(isinstance(content(example), str) for example in first)

    def _source(self, split: str) -> Iterator[Example]:
        for name in listed(self._published[split]):
            for found in self._checked(split, read.rows(self.dataset, self.folder, name)):
                if isinstance(found, Fault):
                    self.faults.add(split, found)
                else:
                    yield found

    def _checked(self, split: str, rows: read.Rows) -> Iterator[Example | Fault]:
        for row in rows:
            if isinstance(row, Fault):
                yield row
            elif (missing := self._missing(row)) is not None:
                message = f"column {self.dataset.columns[missing]} has no value"
                yield Fault("a missing value", row.where, message)
            else:
                yield Example(split, row.where, str(row.roles.get("id", row.id)), row.roles, row.path or row.where)

    @staticmethod
    def _missing(row: read.Row) -> str | None:
        """Return the first role without a value, or None. An empty text is one."""
        for role, value in row.roles.items():
            if value is None or (role in ("label", "group") and isinstance(value, str) and not value.strip()):
                return role
        return None

    def _side(self, example: Example) -> str:
        group = str(example.roles["group"]) if "group" in example.roles else None
        named = any("groups" in part for part in self._held_out.values())
        key = _key(example) if group is None or named else group.encode()
        for split, part in self._held_out.items():
            if group is not None and group in map(str, part.get("groups", ())):
                return split
            fraction = part.get("fraction", 0)
            if _number(f"{split}=".encode(), key) < fraction * 2**64:
                return split
        return "train"

    def _cut(self, document: Example) -> Iterator[Example]:
        text, parts = content(document), []
        for split, part in self._held_out.items():
            cut = _break(text, len(text) * part["fraction"])
            parts.append((split, text[cut:]))
            text = text[:cut]
        for split, part in [("train", text), *parts]:
            if part:
                yield Example(split, document.where, f"{document.id}#{split}", {**document.roles, "text": part})


def digest(example: Example) -> int:
    """Return 64 bits that stand for an example's content."""
    number = _number(b"", _key(example))
    if "start" not in example.roles:
        return number
    part = [example.roles.get(role) for role in ("start", "end", "duration")]
    return int.from_bytes(hashlib.sha256(f"{number} {part}".encode()).digest()[:8])


@lru_cache(maxsize=8)
def _number(before: bytes, content: bytes) -> int:
    """Return 64 bits of the hash of both; of segments of a file that follow each other it is computed once."""
    hashed = hashlib.sha256(before)
    hashed.update(content)
    return int.from_bytes(hashed.digest()[:8])


def content(example: Example) -> Any:
    """Return what an example is known by: the bytes of an image, recording or array, a text, or numbers."""
    roles = example.roles
    value = next(roles[role] for role in ("input", "audio", "text") if role in roles)
    return value["bytes"] if isinstance(value, dict) and "bytes" in value else value


def _key(example: Example) -> bytes:
    """Return bytes that stand for an example's content."""
    value = content(example)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


def _break(text: str, held_out: float) -> int:
    """Return where to cut a text so that about so many characters are held out: at a line break, if one is near."""
    cut = len(text) - round(held_out)
    line = text.rfind("\n", max(0, cut - round(held_out / 2)), cut) + 1
    return line or cut
