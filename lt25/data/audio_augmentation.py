"""Recordings changed at random where they are read."""

import math
from typing import cast

import numpy as np
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


def equalise(item: Item, generator: torch.Generator, decibels: float, sample_rate: int) -> Item:
    """Make some frequencies louder and others softer, as another microphone, room or throat does.

    The gain is drawn evenly from -decibels to decibels at 100 Hz and at each octave above it, and changes smoothly between.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws the gains.
        decibels: the greatest gain.
        sample_rate: of the samples, in Hz.
    """
    samples = item["input"].numpy()
    octaves = math.ceil(math.log2(sample_rate / 2 / 100)) + 1
    gains = decibels * (2 * torch.rand(octaves, generator=generator).numpy() - 1)
    size = _transform_size(len(samples))
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    response = 10 ** (np.interp(np.log2(np.maximum(hertz, 100) / 100), np.arange(octaves), gains) / 20)
    played = np.fft.irfft(np.fft.rfft(samples, size) * response, size)[: len(samples)]
    return {**item, "input": torch.from_numpy(played.astype(np.float32))}


def noise(item: Item, generator: torch.Generator, decibels: tuple[float, float]) -> Item:
    """Add noise, from white to such as falls by 6 dB an octave, at a ratio of signal to noise drawn evenly between two, in dB.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws the noise, its colour and its level.
        decibels: the lowest and the highest ratio.
    """
    samples = item["input"]
    low, high = decibels
    ratio, colour = (
        torch.rand(2, generator=generator) * torch.tensor([high - low, 1]) + torch.tensor([low, 0])
    ).tolist()
    size = _transform_size(len(samples))
    spectrum = torch.randn(size // 2 + 1, dtype=torch.complex64, generator=generator)
    # From a hundredth of the band on: below it the noise is even.
    spectrum *= torch.arange(size // 2 + 1).clamp_min(size // 200 + 1) ** -colour
    added = torch.fft.irfft(spectrum, size)[: len(samples)]
    power = samples.square().mean() / 10 ** (ratio / 10)
    return {**item, "input": samples + added * (power / added.square().mean().clamp_min(1e-20)).sqrt()}


def _transform_size(samples: int) -> int:
    """Return a size of a Fourier transform that is fast to compute and leaves room for what a filter smears."""
    from scipy.fft import next_fast_len

    return 2 * cast(int, next_fast_len(samples // 2 + 512, real=True))
