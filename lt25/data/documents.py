"""Documents of text as tokens, chunk by chunk: ahead of training, or while it goes on."""

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lt25.data import read
from lt25.data.chunks import Chunk
from lt25.data.examples import Example, Examples, digest
from lt25.data.faults import NAMED, Fault, Faults
from lt25.data.folders import Folder
from lt25.data.prepared import PreparedSplit
from lt25.data.records import Part
from lt25.data.remote import HUB, root_of
from lt25.data.tokenizer import Tokenizer, load
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import write_json
from lt25.progress import say

# Threads read and hand on; tokenizing itself uses all cores, whoever asks for it.
THREADS = min(4, os.cpu_count() or 1)

_ENDS = {"paragraphs": re.compile(r".*?(?:\n\s*\n|\Z)", re.DOTALL), "lines": re.compile(r".*?(?:\n|\Z)")}


@dataclass
class Tokenized:
    """What a chunk gives.

    Attributes:
        tokens: of each document, the last of which ends it.
        rows: of each document: split, id, where it stands, bytes, characters.
        seen: of each example: split, where, digest of its content.
        faults: what cannot be used: split, and the fault.
        passed: how many examples are not wanted.
    """

    tokens: list[np.ndarray]
    rows: list[tuple[str, str, str, int, int]]
    seen: list[tuple[str, str, int]]
    faults: list[tuple[str, Fault]]
    passed: int = 0

    def save(self, path: Path) -> None:
        """Write a file that `Tokenized.load` reads."""
        faults = [(split, fault.reason, fault.where, fault.message) for split, fault in self.faults]
        known = json.dumps([self.rows, self.seen, faults, self.passed]).encode()
        lengths = np.array([len(tokens) for tokens in self.tokens], np.int64)
        partial = path.with_suffix(".partial.npz")
        packed = np.concatenate(self.tokens) if self.tokens else np.zeros(0, np.uint16)
        np.savez(partial, tokens=packed, lengths=lengths, known=np.frombuffer(known, np.uint8))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Tokenized | None":
        """Read what was saved; None if it is not there, or torn."""
        try:
            with np.load(path) as file:
                rows, seen, faults, passed = json.loads(file["known"].tobytes())
                tokens = np.split(file["tokens"], np.cumsum(file["lengths"])[:-1]) if len(file["lengths"]) else []
        except Exception:
            # What numpy ends in depends on where the file is torn: it is made again.
            return None
        return cls(tokens, rows, seen, [(split, Fault(*fault)) for split, *fault in faults], passed)


def tokenize(
    examples: Examples, split: str, chunk: Chunk, tokenizer: Tokenizer, cut: str, wanted: Sequence[str]
) -> Tokenized:
    """Read a chunk and tokenize its documents.

    Args:
        examples: of the dataset.
        split: whose source the chunk is of.
        chunk: the chunk.
        tokenizer: the tokenizer.
        cut: how texts are cut into documents, ``prepare.documents``.
        wanted: the splits whose documents are tokenized.
    """
    texts, found = [], Tokenized([], [], [], [])
    for example in examples.of_chunk(split, chunk):
        if isinstance(example, Fault):
            found.faults.append((split, example))
        elif fault := no_text(example):
            found.faults.append((split, fault))
        elif example.split in wanted:
            found.seen.append((example.split, example.where, digest(example)))
            for name, text in documents(example, cut):
                texts.append(text)
                found.rows.append((example.split, name, example.where, len(text.encode()), len(text)))
        else:
            found.passed += 1
    found.tokens = tokenizer.documents(texts)
    return found


def no_text(example: Example) -> Fault | None:
    """Say what is wrong with an example whose text is none."""
    if isinstance(text := example.roles["text"], str):
        return None
    message = f"expected a text, found {type(text).__name__}: is columns.text the right column?"
    return Fault("input of another kind", example.where, message)


def documents(example: Example, cut: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the documents of an example that are not empty; they add up to its text."""
    text = example.roles["text"]
    if cut == "whole":
        if text:
            yield example.id, text
        return
    parts = (part for part in _ENDS[cut].findall(text) if part)
    yield from ((f"{example.id}:{number}", part) for number, part in enumerate(parts))


def describe(folder: Path, every: Sequence[Examples], options: dict[str, Any]) -> None:
    """Write ``train.json``, what `TextCorpus` reads: where the texts of train are, and in which chunks.

    Args:
        folder: the prepared dataset.
        every: the examples of the datasets that are prepared together.
        options: of the preparation.
    """
    folder = folder.absolute()
    described = []
    for one in every:
        root = one.folder.root.absolute()
        is_here = isinstance(root, Path)
        # A project that is moved takes along what is in it: data/processed/<dataset>/<preparation>.
        is_inside = is_here and root.is_relative_to(folder.parents[3])
        described.append(
            {
                "dataset": asdict(one.dataset),
                "root": os.path.relpath(root, folder) if is_inside else str(root) if is_here else f"{HUB}{root}",
                "files": {name: (root / name).stat().st_size if is_here else None for name in one.folder.names},
                "few": one.few,
                "chunks": [chunk for split, chunk in one.chunks("train") if split == "train"],
            }
        )
    write_json(folder / "train.json", {**{key: options[key] for key in ("documents", "faulty")}, "datasets": described})


class TextCorpus:
    """The training split of a dataset, whose documents are tokenized while training goes on.

    Args:
        split: the training split of a prepared dataset.
        number: of the dataset, where several are prepared together.

    Raises:
        UserError: if a file is not as it was when it was prepared.
    """

    def __init__(self, split: PreparedSplit, number: int = 0) -> None:
        folder = split.path
        described = json.loads((folder / "train.json").read_text(encoding="utf-8"))
        self._cut, text = described["documents"], described["datasets"][number]
        dataset = Dataset(**text["dataset"])
        root = _root(folder, text)
        _believe(root, text)
        self._tokenizer = load(folder)
        self._faults = Faults(dataset.name, described["faulty"])
        self._examples = Examples(dataset, Folder(root, text["files"]), self._faults)
        self._examples.few = text["few"]
        self._chunks = [tuple(_piece(*piece) for piece in chunk) for chunk in text["chunks"]]
        self.name, self.count, self.end = f"dataset {dataset.name}", len(self._chunks), self._tokenizer.end
        self._pool = ThreadPoolExecutor(THREADS, "text")
        self._expected: dict[int, deque[Future[Tokenized]]] = {}

    def expect(self, chunk: int) -> None:
        """Begin to tokenize a chunk."""
        job = self._pool.submit(
            tokenize, self._examples, "train", self._chunks[chunk], self._tokenizer, self._cut, ("train",)
        )
        self._expected.setdefault(chunk, deque()).append(job)

    def close(self) -> None:
        """Let go of what was expected."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __getitem__(self, chunk: int) -> list[np.ndarray]:
        if not self._expected.get(chunk):
            self.expect(chunk)
        found = self._expected[chunk].popleft().result()
        for split, fault in found.faults:
            if self._faults.add(split, fault) and len(self._faults) <= NAMED:
                say(f"{self.name}: left out while training: {fault}")
        return found.tokens


def believe(folder: Path) -> None:
    """Compare the texts that training will read with what was prepared, if it reads any.

    Args:
        folder: the prepared dataset.

    Raises:
        UserError: if a file is not as it was when it was prepared.
    """
    if not (folder / "train.json").is_file():
        return
    for text in json.loads((folder / "train.json").read_text(encoding="utf-8"))["datasets"]:
        _believe(_root(folder, text), text)


def _root(folder: Path, text: dict[str, Any]) -> Any:
    """Return where the texts of a dataset lie, which ``train.json`` may have relative to the prepared folder."""
    root: Any = root_of(text["root"])
    return (folder / root).resolve() if isinstance(root, Path) else root


def _believe(root: Any, text: dict[str, Any]) -> None:
    for name, size in text["files"].items():
        if size is not None and not ((root / name).is_file() and (root / name).stat().st_size == size):
            of = text["dataset"]["name"]
            raise UserError(f"{root / name}: not as it was when it was prepared: run `lt25 download {of}`")


def _piece(name: str, column: str, part: list[int] | None) -> read.Piece:
    return read.Piece(name, column, None if part is None else Part(*part))
