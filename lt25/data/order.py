"""In which order examples are read: a pure function of the seed and the step.

Nothing depends on how many processes read, and the whole state of the order is the number of steps taken. Where lengths change
from epoch to epoch, and with them the number of steps, the epoch's beginning is remembered too: otherwise it is sought from the
first epoch on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from lt25.data.batches import longest_first
from lt25.data.prepared import Source

# Examples of like length are sought among this many global batches: less padding, and still a fresh mix every epoch.
_SORT_AMONG = 16

# Where a micro-batch holds a number of steps, examples are padded to one of so many lengths: a few per cent of padding.
_LENGTHS = 32


@dataclass(frozen=True)
class Share:
    """Which examples of a step are this process's.

    Attributes:
        local_batch_size: examples in a micro-batch of a rank; with ``batch_steps`` the most.
        accumulation: micro-batches in a step.
        rank, world_size: this reader among all.
        batch_steps: the most steps of the sequences of a micro-batch, padding counted, unless a single one has more; 0: any
            number.
    """

    local_batch_size: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1
    batch_steps: int = 0

    @property
    def step_size(self) -> int:
        """Examples in a step, over all ranks; with ``batch_steps`` the most."""
        return self.local_batch_size * self.micro_batches

    @property
    def micro_batches(self) -> int:
        """Micro-batches in a step, over all ranks."""
        return self.accumulation * self.world_size

    @property
    def rows(self) -> list[int]:
        """Which of a step's examples are this process's, ascending."""
        return [row for rows in self.own(_alike(np.arange(self.step_size), self)) for row in rows]

    def own(self, step: Sequence[np.ndarray] | np.ndarray) -> list[list[int]]:
        """Return the micro-batches of a step that are this process's: one of every ``world_size`` neighbours."""
        return [micro_batch.tolist() for micro_batch in step[self.rank :: self.world_size]]


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
        searched: whether ``share.batch_steps`` is still to be found, as what fits into memory.
    """

    share: Share
    seed: int
    training: bool = True
    seq_len: int = 0
    varlen: bool = True
    context_len: int = 0
    probabilities: tuple[float, ...] = (1.0,)
    searched: bool = False

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


class Began(NamedTuple):
    """An epoch, and the step that it began with."""

    epoch: int
    step: int


FIRST = Began(0, 0)


class Draw(NamedTuple):
    """The examples of a micro-batch, by their numbers, and the epoch in which they are drawn."""

    began: Began
    indices: list[int]

    @property
    def epoch(self) -> int:
        return self.began.epoch


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
    return order.reshape(steps, step_size)


def epoch_by_length(lengths: np.ndarray, unit: int, share: Share, seed: int, epoch: int) -> list[list[np.ndarray]]:
    """Return the examples of an epoch, every one once, in micro-batches of ``share.batch_steps`` steps.

    A micro-batch has examples of one length, rounded up, drawn at random among all of that length, and as many as fit; a step has
    micro-batches of like length, so that ranks have equal work. Steps come in random order. Where micro-batches are too few for
    the last step, the ones with most examples are divided; if all have one, those left over are dropped.

    Args:
        lengths: of the examples in this epoch, int64 [n].
        unit: lengths are rounded up to its multiples.
        share: of any process: all get the same.
        seed: of the run.
        epoch: from 0.

    Returns:
        Steps, as many in every epoch of the same lengths, of ``share.micro_batches`` arrays of numbers of examples, int64 [n].
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    padded = -(-lengths[order] // unit) * unit
    batches = [order[rows] for rows in longest_first(padded, share.local_batch_size, share.batch_steps)]
    while len(batches) % share.micro_batches:
        at = max(range(len(batches)), key=lambda number: len(batches[number]))
        half = len(batches[at]) // 2
        if not half:
            break
        batches[at : at + 1] = [batches[at][:half], batches[at][half:]]
    starts = rng.permutation(len(batches) // share.micro_batches) * share.micro_batches
    return [batches[start : start + share.micro_batches] for start in starts]


def length_unit(lengths: np.ndarray, count: int = _LENGTHS) -> int:
    """Return a number of steps to whose multiples lengths are rounded up, so that there are at most ``count`` of them.

    It is a multiple of 8, which suits matrix products.
    """
    return 8 * -(-int(lengths.max()) // (8 * count))


def draws(
    source: Source,
    share: Share,
    seed: int,
    step: int,
    began: Began = FIRST,
    lengths: Callable[[int], np.ndarray] | None = None,
) -> Iterator[Draw]:
    """Yield the micro-batches of one process from a step on, for ever.

    Args:
        source: what is read; if it has no count, all is one epoch, in order.
        share: the process's.
        seed: of the run.
        step: the first one's number, from 0.
        began: the step's epoch or an earlier one; only ``lengths`` ask for it.
        lengths: with ``batch_steps``, tells the lengths of the examples in an epoch, int64 [count]; None: the source's in all.
    """
    if source.count is None:
        while True:
            row = np.arange(step * share.step_size, (step + 1) * share.step_size)
            yield from (Draw(FIRST, indices) for indices in share.own(_alike(row, share)))
            step += 1
    by_length = share.batch_steps > 0

    def steps_of(epoch: int) -> Any:
        if not by_length:
            return epoch_order(source, share.step_size, seed, epoch)
        plain = cast(np.ndarray, source.lengths)
        return epoch_by_length(lengths(epoch) if lengths else plain, length_unit(plain), share, seed, epoch)

    if not lengths:
        in_epoch = len(steps_of(0)) if by_length else source.count // share.step_size
        began = Began(step // in_epoch, step - step % in_epoch)
    while True:
        steps = steps_of(began.epoch)
        for micro_batches in steps[step - began.step :]:
            own = share.own(micro_batches if by_length else _alike(micro_batches, share))
            yield from (Draw(began, indices) for indices in own)
        began = Began(began.epoch + 1, began.step + len(steps))
        step = max(step, began.step)


def _alike(row: np.ndarray, share: Share) -> list[np.ndarray]:
    """Cut the examples of a step into micro-batches of ``share.local_batch_size``."""
    return list(row.reshape(share.micro_batches, share.local_batch_size))
