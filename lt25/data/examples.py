"""Examples of a dataset's splits: the published rows, with what is held out for validation and test set apart."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lt25.data import read
from lt25.errors import UserError
from lt25.experiment import Dataset

SPLITS = ("train", "validation", "test")


@dataclass(slots=True)
class Example:
    """One example: its ``split``, ``where`` it stands, ``id``, and the values of its roles (``input``, ``label``, ...)."""

    split: str
    where: str
    id: str
    roles: dict[str, Any]


class Examples:
    """The examples of a dataset whose files lie in ``root``.

    What is held out of train depends on nothing but the example: on the hash of its ``group`` where the dataset names such a
    column, so that no speaker or module is on both sides, otherwise on that of its content, so that no duplicate is. A text
    that is the only document of its split cannot be chosen or not: of it the end is held out, cut at a line break.
    """

    def __init__(self, dataset: Dataset, root: Path) -> None:
        self.config = f"config/datasets/{dataset.name}.yaml"
        self._dataset, self._root = dataset, root
        splits = dataset.splits
        self._published = {split: splits[split] for split in SPLITS if not isinstance(splits[split], dict)}
        # The test split is chosen first, so that it stays the same whatever is held out for validation.
        self._held_out = {
            split: splits[split]["fraction"] for split in ("test", "validation") if split not in self._published
        }

    def of(self, *splits: str) -> Iterator[Example]:
        """Yield the examples of ``splits``, train's source first; each split's own in a fixed order.

        Raises:
            UserError: as `read.rows`, or if a value is missing.
        """
        if {"train", *self._held_out}.intersection(splits):
            yield from (example for example in self._train() if example.split in splits)
        for split in self._published:
            if split != "train" and split in splits:
                yield from self._source(split)

    def _train(self) -> Iterator[Example]:
        examples = self._source("train")
        first, second = next(examples, None), next(examples, None)
        if first is None:
            return
        if second is None and self._held_out and isinstance(content(first), str):
            yield from self._cut(first)
            return
        for example in chain([first], [second] if second else [], examples):
            example.split = self._side(example)
            yield example

    def _source(self, split: str) -> Iterator[Example]:
        names = self._published[split]
        columns = list(dict.fromkeys(self._dataset.columns.values()))
        for name in [names] if isinstance(names, str) else names:
            for row in read.rows(self._root, name, self._dataset.origin.get("files", {}), columns, self.config):
                roles = {role: row.values.get(column) for role, column in self._dataset.columns.items()}
                for role, value in roles.items():
                    if value is None:
                        raise UserError(f"{row.where}: column {self._dataset.columns[role]} has no value: fill it")
                yield Example(split, row.where, str(roles.get("id", row.id)), roles)

    def _side(self, example: Example) -> str:
        if "group" in example.roles:
            key = str(example.roles["group"]).encode()
        else:
            value = content(example)
            key = value if isinstance(value, bytes) else json.dumps(value).encode()
        for split, fraction in self._held_out.items():
            if int.from_bytes(hashlib.sha256(f"{split}=".encode() + key).digest()[:8]) < fraction * 2**64:
                return split
        return "train"

    def _cut(self, document: Example) -> Iterator[Example]:
        text, parts = content(document), []
        for split in ("test", "validation"):
            if split in self._held_out:
                cut = text.rfind("\n", 0, round(len(text) * (1 - self._held_out[split]))) + 1
                parts.append((split, text[cut:]))
                text = text[:cut]
        for split, part in [("train", text), *parts]:
            yield Example(split, document.where, f"{document.id}#{split}", {**document.roles, "text": part})


def content(example: Example) -> Any:
    """Return what an example is known by: the bytes of an image or audio file, a text, or a list of numbers."""
    roles = example.roles
    value = next(roles[role] for role in ("input", "audio", "text") if role in roles)
    return value["bytes"] if isinstance(value, dict) else value
