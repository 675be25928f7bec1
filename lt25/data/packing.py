"""Documents packed into windows of tokens, without padding: in which order, and where to go on.

A training reads a corpus chunk by chunk (`lt25.data.chunks`), in each epoch in another order. The windows of a step are shared
out among lanes, each of which reads its own chunks, puts the documents of a chunk into a random order, one behind the other, and
cuts them into windows, which it gives in a random order too. What is left over of a chunk goes before the next one.

All of it is a function of the seed, so that tokens of memory-mapped shards and text that is tokenized as training goes give the
same windows. How many lanes there are depends on the corpus and on the windows of a step, and not on who reads them: a run can go
on with another number of processes, each of which takes up the lanes of its share.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from lt25.data.batches import Item
from lt25.data.order import Reading
from lt25.data.prepared import PreparedSplit, Stateless
from lt25.errors import UserError


class Corpus(Protocol):
    """Documents as tokens, in chunks that are read by their number.

    Attributes:
        name: what a message calls it.
        count: how many chunks there are.
        end: the token that ends a document.
    """

    name: str
    count: int
    end: int

    def __getitem__(self, chunk: int) -> list[np.ndarray]:
        """Return the documents of a chunk: tokens, the last of which is `end`."""
        ...

    def expect(self, chunk: int) -> None:
        """Take note that a chunk will be asked for."""
        ...

    def close(self) -> None:
        """End what is under way."""
        ...


class TokenShards:
    """The tokens of a prepared split, through its memory map.

    Args:
        split: a prepared split.
        number: of the dataset, where several are prepared together.
    """

    def __init__(self, split: PreparedSplit, number: int = 0) -> None:
        shards = split.shards
        self.tokens, self.offsets = shards["inputs"].numpy(), shards["input_offsets"].numpy()
        last = len(self.offsets) - 1
        begins = shards["chunk_offsets"].numpy() if "chunk_offsets" in shards else np.array([0])
        of_dataset = shards["chunk_datasets"].numpy() == number if "chunk_datasets" in shards else begins >= 0
        self.bounds = np.stack([begins, np.append(begins[1:], last)], 1)[of_dataset]
        self.name = f"{split.path}: the training split"
        self.count, self.end = len(self.bounds), int(self.tokens[-1])

    def __getitem__(self, chunk: int) -> list[np.ndarray]:
        first, last = self.bounds[chunk]
        ends = self.offsets[first : last + 1]
        return [self.tokens[begin:end] for begin, end in pairwise(ends)]

    def expect(self, chunk: int) -> None:
        """Do nothing: tokens are there."""

    def close(self) -> None:
        """Do nothing."""


class PackedDocuments:
    """The windows of a training run.

    An example is ``{"input": int64 [T], "label": int64 [T], "starts": int64 [n]}`` with the offsets at which its sequences
    begin. The end token before a document is what the document is predicted from, so nothing is predicted across an end.

    Args:
        corpora: what is read.
        probabilities: of each, that a window is of it; they add up to one.
        reading: by the run.
    """

    unit, count, lengths = "windows of training.seq_len tokens", None, None

    def __init__(self, corpora: Sequence[Corpus], probabilities: Sequence[float], reading: Reading) -> None:
        self.name = ", ".join(corpus.name for corpus in corpora)
        self.reading, self.size, self.probabilities = reading, reading.share.step_size, list(probabilities)
        self._corpora = corpora
        if empty := next((corpus for corpus in corpora if not corpus.count), None):
            raise UserError(f"{empty.name}: there is no text to train on: mend the dataset")
        self.ways = [_divisor(self.size, corpus.count) for corpus in corpora]
        self.lanes = {
            (number, row): Lane(corpus, reading, number, row, ways)
            for number, (corpus, ways) in enumerate(zip(corpora, self.ways, strict=True))
            for row in {row % ways for row in reading.share.rows}
        }
        self._begun = False
        self._step = 0
        # Windows of each lane that lie before the step.
        self._before = [np.zeros(ways, np.int64) for ways in self.ways]
        self._enter()

    def __getitem__(self, index: int) -> Item:
        if not self._begun:
            self._begun = True
            for lane in self.lanes.values():
                lane.expect()
        step, row = divmod(index, self.size)
        while self._step < step:
            self._before = self._after
            self._step += 1
            self._enter()
        corpus = int(self._of[row])
        window = self.lanes[corpus, row % self.ways[corpus]][int(self._window[row])].astype(np.int64)
        inputs = window[:-1]
        return {
            "input": torch.from_numpy(inputs),
            "label": torch.from_numpy(window[1:]),
            "starts": torch.from_numpy(self.reading.starts(np.flatnonzero(inputs == self._end), len(inputs))),
        }

    def _enter(self) -> None:
        """Draw of which corpus each window of the step is, and number the windows of each lane."""
        if len(self.ways) == 1:
            self._of = np.zeros(self.size, np.int64)
        else:
            rng = np.random.default_rng([self.reading.seed, self._step])
            self._of = rng.choice(len(self.ways), self.size, p=self.probabilities)
        self._window, self._after = np.zeros(self.size, np.int64), [before.copy() for before in self._before]
        for row, corpus in enumerate(self._of):
            lane = row % self.ways[corpus]
            self._window[row] = self._after[corpus][lane]
            self._after[corpus][lane] += 1

    @property
    def _end(self) -> int:
        return next(iter(self.lanes.values())).corpus.end

    def close(self) -> None:
        """End what is under way."""
        for corpus in self._corpora:
            corpus.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the step, how many windows of each lane lie before it, and where this process's lanes are."""
        lanes = {f"{corpus}-{number}": lane.state for (corpus, number), lane in self.lanes.items()}
        return {"step": self._step, "before": json.dumps([each.tolist() for each in self._before]), "lanes": lanes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; lanes that are not this process's may be in it.

        Raises:
            UserError: if it lacks a lane, or is that of another corpus or batch.
        """
        before = [np.array(each, np.int64) for each in json.loads(state["before"])]
        if [len(each) for each in before] != self.ways:
            raise UserError(
                f"{self.name}: the checkpoint's position is in other data: start again with `lt25 train --fresh`"
            )
        for (corpus, number), lane in self.lanes.items():
            if (name := f"{corpus}-{number}") not in state["lanes"]:
                raise UserError(f"{self.name}: the checkpoint has no position of lane {name}: go on from another one")
            lane.state = state["lanes"][name]
        self._step, self._before, self._begun = state["step"], before, False
        self._enter()


@dataclass
class Lane:
    """One of the lanes in which a corpus is read.

    Attributes:
        corpus, reading: what is read, and how.
        dataset: number of the corpus among those of the run.
        number, ways: this lane among all of the corpus.
    """

    corpus: Corpus
    reading: Reading
    dataset: int
    number: int
    ways: int
    _chunk: int = 0
    """Chunks of the lane that lie before the one that it is in."""
    _first: int = 0
    """Number of the first window of that chunk, of all windows of the lane."""
    _left: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """What was left over before that chunk, from the token on that the first of its tokens is predicted from."""
    _stream: np.ndarray | None = None
    _state: str | None = None

    def __post_init__(self) -> None:
        self._left = np.array([self.corpus.end], np.int32)

    def expect(self) -> None:
        """Let the corpus take note of the chunk that the lane is in, unless it has been read."""
        if self._stream is None:
            self.corpus.expect(self._place(self._chunk)[1])

    def __getitem__(self, window: int) -> np.ndarray:
        """Return a window's tokens, int32 [T + 1]; none is asked for that lies in a chunk before the last one's."""
        length = self.reading.seq_len
        stream, empty = self._enter(), 0
        while window - self._first >= len(self._order):
            empty = 0 if len(stream) > len(self._left) else empty + 1
            # Another lane may have had what text there is, epoch after epoch.
            if empty == self.corpus.count and not any(self.corpus[chunk] for chunk in range(self.corpus.count)):
                raise UserError(f"{self.corpus.name}: there is no text to train on: mend the dataset")
            self._first += len(self._order)
            self._left, self._chunk = stream[len(self._order) * length :], self._chunk + 1
            self._stream = self._state = None
            stream = self._enter()
        at = self._order[window - self._first] * length
        return stream[at : at + length + 1]

    @property
    def state(self) -> str:
        """Where the lane is, as JSON. Its tokens are read again from the chunk that it is in."""
        if self._state is None:
            self._state = json.dumps([self._chunk, self._first, self._left.tolist()])
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        if state != self.state:
            self._chunk, self._first, left = json.loads(state)
            self._left, self._stream, self._state = np.array(left, np.int32), None, state

    def _enter(self) -> np.ndarray:
        """Return the tokens of the chunk that the lane is in, shuffled, behind what was left over."""
        if self._stream is None:
            epoch, chunk = self._place(self._chunk)
            documents = self.corpus[chunk]
            self.corpus.expect(self._place(self._chunk + 1)[1])
            rng = np.random.default_rng([self.reading.seed, self.dataset, epoch, chunk])
            shuffled = (documents[number] for number in rng.permutation(len(documents)))
            self._stream = np.concatenate([self._left, *shuffled], dtype=np.int32)
            self._order = rng.permutation((len(self._stream) - 1) // self.reading.seq_len)
        return self._stream

    def _place(self, chunk: int) -> tuple[int, int]:
        """Return epoch and number in the corpus of a chunk of the lane."""
        epoch, at = divmod(chunk * self.ways + self.number, self.corpus.count)
        return epoch, int(_order(self.reading.seed, self.dataset, epoch, self.corpus.count)[at])


class TokenWindows(Stateless):
    """All windows of a prepared split, one after the other: what validation reads.

    Tokens that are left over at the end are not read, except that of a split that fills no window they are the only one.

    Args:
        split: a prepared split of tokens.
        reading: by the run.
    """

    unit, lengths = PackedDocuments.unit, None

    def __init__(self, split: PreparedSplit, reading: Reading) -> None:
        self.name, self.reading = f"{split.path}: the {split.split} split", reading
        self.tokens = split.shards["inputs"]
        self.begins = split.shards["input_offsets"].numpy()[1:-1] - 1
        predicted = len(self.tokens) - 1
        self.count = max(predicted // reading.seq_len, int(predicted > 0))

    def __getitem__(self, index: int) -> Item:
        begin = index * self.reading.seq_len
        window = self.tokens[begin : begin + self.reading.seq_len + 1].long()
        length = len(window) - 1
        first, last = np.searchsorted(self.begins, [begin + 1, begin + length])
        starts = self.reading.starts(self.begins[first:last] - begin, length)
        return {"input": window[:-1], "label": window[1:], "starts": torch.from_numpy(starts)}


@lru_cache(16)
def _order(seed: int, dataset: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of a dataset's chunks in an epoch, int64 [count]."""
    return np.random.default_rng([seed, dataset, epoch]).permutation(count)


def _divisor(size: int, most: int) -> int:
    """Return the largest divisor of a step's size that is not more than ``most``."""
    return max(ways for ways in range(1, min(size, most) + 1) if size % ways == 0)
