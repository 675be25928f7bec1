"""In which order examples are read: a pure function of the seed and the step.

Nothing depends on how many processes read, and the whole state of the order is the number of steps taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np

from lt25.data.prepared import Source

# Examples of like length are sought among this many global batches: less padding, and still a fresh mix every epoch.
_SORT_AMONG = 16


@dataclass(frozen=True)
class Share:
    """Which examples of a step are this process's.

    Attributes:
        local_batch_size: examples in a micro-batch of a rank.
        accumulation: micro-batches in a step.
        rank, world_size: this reader among all.
    """

    local_batch_size: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def step_size(self) -> int:
        """Examples in a step, over all ranks."""
        return self.local_batch_size * self.accumulation * self.world_size

    @property
    def rows(self) -> list[int]:
        """Which of a step's examples are this process's, ascending."""
        return [row for rows in _micro_batches(np.arange(self.step_size), self) for row in rows]


@dataclass(frozen=True)
class Reading:
    """How a run reads its data.

    Attributes:
        share: which examples are this process's.
        seed: of the run.
        training: whether it trains; else it validates, on the same examples every time.
        seq_len: tokens of a language model's window.
        varlen: whether the documents of a window are sequences of their own.
        context_len: the most tokens of such a sequence; a longer document goes on in the next one; 0: as many as it has.
        probabilities: of several datasets, how often each is read; they add up to one.
    """

    share: Share
    seed: int
    training: bool = True
    seq_len: int = 0
    varlen: bool = True
    context_len: int = 0
    probabilities: tuple[float, ...] = (1.0,)

    def starts(self, begins: np.ndarray, length: int) -> np.ndarray:
        """Return where the sequences of a window begin.

        Args:
            begins: where documents begin in it, int64 [n], ascending.
            length: of the window.

        Returns:
            int64 [m], ascending, the first of which is 0.
        """
        begins = begins[begins > 0] if self.varlen else begins[:0]
        bounds = [0, *begins.tolist(), length]
        if self.context_len:
            bounds = [at for begin, end in pairwise(bounds) for at in range(begin, end, self.context_len)] + [length]
        return np.array(bounds[:-1], np.int64)


class Draw(NamedTuple):
    """The examples of a micro-batch, by their numbers, and the epoch in which they are drawn."""

    epoch: int
    indices: list[int]


def epoch_order(source: Source, step_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the examples of an epoch: every one at most once, in an order of the epoch's own.

    Where lengths differ, examples of like length are put into one step. Examples left over at the end of an epoch, that fill
    no step, are dropped.

    Args:
        source: one that has a count.
        step_size: examples in a step.
        seed: of the run.
        epoch: from 0.

    Returns:
        Numbers of examples, int64 [steps, step_size].
    """
    rng = np.random.default_rng([seed, epoch])
    count = cast(int, source.count)
    steps = count // step_size
    order = rng.permutation(count)[: steps * step_size]
    if source.lengths is not None:
        block = _SORT_AMONG * step_size
        blocks = [order[at : at + block] for at in range(0, len(order), block)]
        order = np.concatenate([part[np.argsort(source.lengths[part], kind="stable")] for part in blocks])
        order = rng.permutation(order.reshape(steps, step_size))
    return order.reshape(steps, step_size) * source.stride + rng.integers(source.stride)


def draws(source: Source, share: Share, seed: int, step: int) -> Iterator[Draw]:
    """Yield the micro-batches of one process from a step on, for ever.

    Args:
        source: what is read; if it has no count, all is one epoch, in order.
        share: the process's.
        seed: of the run.
        step: the first one's number, from 0.
    """
    if source.count is None:
        while True:
            row = np.arange(step * share.step_size, (step + 1) * share.step_size)
            yield from (Draw(0, indices) for indices in _micro_batches(row, share))
            step += 1
    epoch, step = divmod(step, source.count // share.step_size)
    while True:
        for row in epoch_order(source, share.step_size, seed, epoch)[step:]:
            yield from (Draw(epoch, indices) for indices in _micro_batches(row, share))
        epoch, step = epoch + 1, 0


def _micro_batches(row: np.ndarray, share: Share) -> list[list[int]]:
    return row.reshape(share.accumulation, share.world_size, share.local_batch_size)[:, share.rank].tolist()
