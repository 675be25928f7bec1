"""What is done to examples on their way to a model: seeded transforms of an example, and of a batch on its device.

Which transforms there are is said by ``transforms`` in a task's data module. What a transform draws at random comes from a
generator that depends on the run's seed and on the place of the example or batch in the run, and on nothing else: a run that
is resumed sees what an undisturbed one sees, however many processes load.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lt25.data.collation import Batch, Item

ItemTransform = Callable[[Item, torch.Generator], Item]
BatchTransform = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True)
class Transforms:
    """What is done, in order. A transform returns a new dictionary, and changes no tensor that it is given.

    Attributes:
        item: of one example, on the CPU, where it is loaded. The generator is a CPU's.
        batch: of a batch as the task's ``collate`` made it, on the device of the model, whose generator it gets.
    """

    item: tuple[ItemTransform, ...] = ()
    batch: tuple[BatchTransform, ...] = ()

    def of_item(self, item: Item, seed: int = 0, epoch: int = 0, index: int = 0) -> Item:
        """Transform an example.

        Args:
            item: the example as its source gives it.
            seed: of the run.
            epoch: in which it is seen.
            index: its number in the source.
        """
        if self.item:
            generator = seeded(torch.device("cpu"), seed, epoch, index)
            for transform in self.item:
                item = transform(item, generator)
        return item

    def of_batch(self, batch: Batch, seed: int, step: int, part: int) -> Batch:
        """Transform a batch.

        Args:
            batch: its tensors, on one device.
            seed: of the run.
            step: in which it is seen, from 0.
            part: which of the step's batches it is, over all micro-batches and ranks.
        """
        if self.batch:
            generator = seeded(batch["labels"].device, seed, step, part)
            for transform in self.batch:
                batch = transform(batch, generator)
        return batch


def seeded(device: torch.device, *place: int) -> torch.Generator:
    """Return a generator on a device that depends on some whole numbers, none negative, and nothing else."""
    (seed,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed >> np.uint64(1)))
