"""From a prepared split to the batches of one process: source, order, transforms and collation, joined.

A task's data module says where its examples come from, what is done to them, and how they become a batch.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lt25.data.batches import NO_GRID, Batch, Grid, Item, Transforms
from lt25.data.order import FIRST, Began, Draw, Reading, Share, draws, length_unit
from lt25.data.prepared import PreparedExamples, PreparedSplit, Source
from lt25.errors import UserError
from lt25.tasks import TASKS

# Lengths that a batch on a grid can have, and boundaries of packed sequences to a step of the grid.
_LENGTHS, _BOUNDARIES = 16, 64

# In so many epochs transforms surely give an example a form as long as can be.
_FORMS = 200


class StepBatches:
    """The training batches of one rank, as torchtitan's trainer wants them: ``({"input": ..., ...}, labels)``.

    Each step takes ``accumulation * world_size`` micro-batches of the epoch's order; this rank gets its share of them, which are
    ``accumulation``.

    Args:
        split: the training split.
        task: the task's name; its data module decides source, transforms and collation.
        reading: which examples are this process's, and how they are read.
        augment: the experiment's section of that name; empty for none.
        options: further arguments of `torch.utils.data.DataLoader` (``num_workers``, ``pin_memory``, ...).
        few_shapes: pad batches to a grid, for what is made once for each shape.
        prefetch: what passes the batches on, as the task's ``collate`` makes them, for example to a device ahead of their use.

    Raises:
        UserError: if a step takes more examples than the split has, or the data does not suit an augmentation.
    """

    def __init__(
        self,
        split: PreparedSplit,
        task: str,
        reading: Reading,
        *,
        augment: Mapping[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        few_shapes: bool = False,
        prefetch: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    ) -> None:
        module = TASKS[task].module("data")
        self.source: Source = module.source(split, reading)
        self.transforms: Transforms = module.transforms(split, augment or {}, True)
        self.share, self.seed, self.searched = reading.share, reading.seed, reading.searched
        self.options, self.prefetch, self.main_input = options or {}, prefetch, TASKS[task].main_input
        by_length = self.searched or self.share.batch_steps > 0
        self.lengths_drawn = by_length and self.transforms.length is not None
        _check(self.source, self.share, self.options, by_length)
        grid = _grid(split, self.source, by_length) if few_shapes else NO_GRID
        alike = isinstance(self.source, PreparedExamples) and self.source.lengths is None and not self.transforms.item
        collate_stacked = getattr(module, "collate_stacked", None) if alike else None
        self.batches = Batches(self.source, self.transforms, module.collate, collate_stacked, grid, self.seed)
        self.served, self.began = 0, FIRST
        self.source_state = self.source.state_dict()

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        self.source.load_state_dict(self.source_state)
        step, lengths = self.served // self.share.accumulation, self._lengths if self.lengths_drawn else None
        drawn = draws(self.source, self.share, self.seed, step, self.began, lengths)
        began: deque[Began] = deque()

        def noting_epochs() -> Iterator[Draw]:
            for draw in drawn:
                began.append(draw.began)
                yield draw

        loaded = DataLoader(
            self.batches,
            sampler=noting_epochs(),
            batch_size=None,
            # A generator of its own: otherwise a new iterator draws from the one that dropout draws from.
            generator=torch.Generator(),
            **self.options,
        )
        # Batches may be loaded ahead of their use, but the source's state is that after the last one that was used.
        states: deque[dict[str, Any]] = deque()

        def noting_states() -> Iterator[Batch]:
            for batch in loaded:
                states.append(self.source.state_dict())
                yield batch

        for batch in self.prefetch(noting_states()):
            step, micro = divmod(self.served, self.share.accumulation)
            part = micro * self.share.world_size + self.share.rank
            batch = self.transforms.of_batch(batch, self.seed, step, part)
            self.served += 1
            self.source_state, self.began = states.popleft(), began.popleft()
            labels = batch.pop("labels")
            batch["input"] = batch.pop(self.main_input)
            yield batch, labels

    def longest(self) -> Item:
        """Return the longest example as its transforms make it, in the longest form that these give it in many epochs."""
        index, epoch = int(cast(np.ndarray, self.source.lengths).argmax()), 0
        if self.transforms.length is not None:
            epoch = max(range(_FORMS), key=lambda epoch: self.transforms.lengths([index], self.seed, epoch)[0])
        return self.transforms.of_item(self.source[index], self.seed, epoch, index)

    def repeated(self, item: Item, count: int) -> Batch:
        """Return a batch of one example, ``count`` times, with ``input`` and ``labels`` as a step has them."""
        batch = self.batches.collate([item] * count, self.batches.grid)
        return {"input": batch.pop(self.main_input), **batch}

    def hold(self, batch_steps: int) -> None:
        """Decide how many steps a micro-batch holds, before the first batch is asked for."""
        self.share = replace(self.share, batch_steps=batch_steps)

    def close(self) -> None:
        """End what is under way."""
        self.source.close()

    def _lengths(self, epoch: int) -> np.ndarray:
        return self.transforms.lengths(range(cast(int, self.source.count)), self.seed, epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps served, and what else there is to know to go on.

        That is the source's state if it has one, the last step's epoch if epochs differ in their number of steps, and what a
        micro-batch holds if that is searched.
        """
        state: dict[str, Any] = {"steps": self.served // self.share.accumulation}
        if self.lengths_drawn:
            state["began"] = self.began._asdict()
        if self.source_state:
            state["source"] = self.source_state
        if self.searched:
            state["batch_steps"] = self.share.batch_steps
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a number of steps.

        Raises:
            UserError: if the source has a state, and there is none to go on from.
        """
        if self.source_state and not state.get("source"):
            raise UserError(f"{self.source.name}: the checkpoint has no position in it: go on from another one")
        self.served = state["steps"] * self.share.accumulation
        self.began = Began(**state["began"]) if self.lengths_drawn else FIRST
        if self.searched:
            self.hold(state["batch_steps"])
        self.source_state = state.get("source", {})


class Batches(Dataset):
    """Batches by the draws that say which examples are in them.

    Args:
        source, transforms: of the examples.
        collate: the task's.
        collate_stacked: the task's for examples that come stacked, where these do; otherwise None.
        grid: for ``collate``.
        seed: of the transforms.
    """

    def __init__(
        self,
        source: Source,
        transforms: Transforms,
        collate: Callable[[list[Item], Grid], Batch],
        collate_stacked: Callable[[Item], Batch] | None,
        grid: Grid,
        seed: int,
    ) -> None:
        self.source, self.transforms, self.grid, self.seed = source, transforms, grid, seed
        self.collate, self.collate_stacked = collate, collate_stacked

    def __getitem__(self, draw: Draw) -> Batch:
        if self.collate_stacked:
            return self.collate_stacked(cast(PreparedExamples, self.source).stacked(draw.indices))
        items = [self.transforms.of_item(self.source[index], self.seed, draw.epoch, index) for index in draw.indices]
        return self.collate(items, self.grid)


def _check(source: Source, share: Share, options: Mapping[str, Any], by_length: bool) -> None:
    least, fewer = share.step_size, "lower training.local_batch_size or training.global_batch_size"
    if by_length:
        # So many passes has a step, whatever they hold.
        least, fewer = share.micro_batches, "raise training.local_batch_size or lower training.global_batch_size"
    if source.count is not None and source.count < least:
        raise UserError(f"{source.name} has {source.count} {source.unit}, a step takes {least}: {fewer}")
    if options.get("num_workers") and source.state_dict():
        raise UserError(
            f"{source.name} has a state, which processes would not share: set training.dataloader.num_workers to 0"
        )


def _grid(split: PreparedSplit, source: Source, by_length: bool) -> Grid:
    time = 1 if source.lengths is None else length_unit(source.lengths, *() if by_length else (_LENGTHS,))
    offsets = split.shards.get("label_offsets")
    return Grid(time, 0 if offsets is None else int(offsets.diff().max()), _BOUNDARIES)
