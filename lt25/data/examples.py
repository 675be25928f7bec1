"""Examples of a dataset's splits: the published rows, with what is held out for validation and test set apart."""

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from lt25.data import read
from lt25.data.faults import Fault, Faults
from lt25.data.folders import Folder
from lt25.experiment import Dataset

SPLITS = ("train", "validation", "test")

FEW = 20
"""Of so few texts, or fewer, each is cut: its end is held out."""


@dataclass(slots=True)
class Example:
    """One example: its ``split``, ``where`` it stands, ``id``, and the values of its roles (``input``, ``label``, ...)."""

    split: str
    where: str
    id: str
    roles: dict[str, Any]


class Examples:
    """The examples of a dataset.

    What is held out of train depends on nothing but the example: on the hash of its ``group`` where the dataset names such a
    column, so that no speaker or module is on both sides, otherwise on that of its content, so that no duplicate is. A few
    texts cannot be shared out so: of each the end is held out.

    Args:
        dataset: whose.
        folder: its files.
        faults: takes what cannot be used.

    Attributes:
        faults: as given; the tasks add what they find.
    """

    def __init__(self, dataset: Dataset, folder: Folder, faults: Faults) -> None:
        self.faults = faults
        self._dataset, self._folder = dataset, folder
        splits = dataset.splits
        self._published = {split: splits[split] for split in SPLITS if not isinstance(splits[split], dict)}
        # The test split is chosen first, so that it stays the same whatever is held out for validation.
        self._held_out = {
            split: splits[split]["fraction"] for split in ("test", "validation") if split not in self._published
        }
        self._seen: dict[str, array] = {}
        self._first: dict[str, list[str]] = {}

    def of(self, *splits: str) -> Iterator[Example]:
        """Yield the examples of ``splits``, train's source first; each split's own in a fixed order.

        Raises:
            UserError: as `read.rows`, or for an example that cannot be used, if faults are to stop.
        """
        if set(splits) == set(SPLITS):
            self._seen = {split: array("Q") for split in SPLITS}
            self._first = {split: [] for split in SPLITS}
        if {"train", *self._held_out}.intersection(splits):
            yield from (self._noted(example) for example in self._train() if example.split in splits)
        for split in self._published:
            if split != "train" and split in splits:
                yield from map(self._noted, self._source(split))

    def shared(self) -> dict[str, tuple[int, str]]:
        """Return what `of` all splits has seen twice: the other split -> (how many of its examples train has too, the first).

        What test has of validation counts too.
        """
        known = np.zeros(0, np.uint64)
        found = {}
        for split in SPLITS:
            digests = np.frombuffer(self._seen.get(split, array("Q")), np.uint64)
            if split != "train" and (twice := np.flatnonzero(np.isin(digests, known))).size:
                found[split] = (len(twice), self._first[split][twice[0]])
            known = np.concatenate([known, digests])
        return found

    def _noted(self, example: Example) -> Example:
        if self._seen:
            self._seen[example.split].append(int.from_bytes(hashlib.sha256(_key(example)).digest()[:8]))
            if example.split != "train":
                self._first[example.split].append(example.where)
        return example

    def _train(self) -> Iterator[Example]:
        examples = self._source("train")
        if not self._held_out:
            yield from examples
            return
        first = list(islice(examples, FEW + 1))
        grouped = "group" in self._dataset.columns
        if len(first) <= (1 if grouped else FEW) and all(isinstance(content(example), str) for example in first):
            for example in first:
                yield from self._cut(example)
            return
        for example in chain(first, examples):
            example.split = self._side(example)
            yield example

    def _source(self, split: str) -> Iterator[Example]:
        names = self._published[split]
        for name in [names] if isinstance(names, str) else names:
            for row in read.rows(self._dataset, self._folder, name):
                if isinstance(row, Fault):
                    self.faults.add(split, row)
                elif (missing := self._missing(row)) is not None:
                    message = f"column {self._dataset.columns[missing]} has no value"
                    self.faults.add(split, Fault("a missing value", row.where, message))
                else:
                    yield Example(split, row.where, str(row.roles.get("id", row.id)), row.roles)

    @staticmethod
    def _missing(row: read.Row) -> str | None:
        """Return the first role without a value, or None. An empty text is one."""
        for role, value in row.roles.items():
            if value is None or (role in ("label", "group") and isinstance(value, str) and not value.strip()):
                return role
        return None

    def _side(self, example: Example) -> str:
        key = str(example.roles["group"]).encode() if "group" in example.roles else _key(example)
        for split, fraction in self._held_out.items():
            if int.from_bytes(hashlib.sha256(f"{split}=".encode() + key).digest()[:8]) < fraction * 2**64:
                return split
        return "train"

    def _cut(self, document: Example) -> Iterator[Example]:
        text, parts = content(document), []
        for split in ("test", "validation"):
            if split in self._held_out:
                cut = _break(text, len(text) * self._held_out[split])
                parts.append((split, text[cut:]))
                text = text[:cut]
        for split, part in [("train", text), *parts]:
            if part:
                yield Example(split, document.where, f"{document.id}#{split}", {**document.roles, "text": part})


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
