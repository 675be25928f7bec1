"""Recordings changed at random where they are read."""

import torch

from lt25.data.audio import resample
from lt25.data.batches import Item


def speed(item: Item, generator: torch.Generator, factors: list[float], sample_rate: int) -> Item:
    """Play a recording faster or slower, and so higher or lower, by one of ``factors``.

    Args:
        item: its ``input`` is samples, float [n] or [n, 1].
        generator: draws the factor.
        factors: faster above 1.
        sample_rate: of the samples, in Hz.
    """
    factor = factors[int(torch.randint(len(factors), (), generator=generator))]
    samples = item["input"].float()
    played = torch.from_numpy(resample(samples.flatten().numpy(), round(sample_rate * factor), sample_rate))
    return {**item, "input": played.view(-1, *samples.shape[1:])}
