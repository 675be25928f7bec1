"""A test split of speech heard again under worse conditions: quieter, through a telephone's band, in noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lt25.data.audio import decode_audio, resample, to_int16
from lt25.data.audio_augmentation import TELEPHONE, noise
from lt25.data.batches import Item, seeded
from lt25.data.speech_recognition import holds_audio
from lt25.errors import UserError
from lt25.evaluation.style import ACCENT, SMALL, TEXT, axes, figure_of
from lt25.files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lt25.data.prepared import PreparedSplit


def _quieter(decibels: float) -> Callable[[np.ndarray, int, torch.Generator], np.ndarray]:
    return lambda samples, rate, generator: samples * 10 ** (decibels / 20)


def _narrow(samples: np.ndarray, rate: int, generator: torch.Generator) -> np.ndarray:
    return resample(resample(samples, rate, TELEPHONE), TELEPHONE, rate)[: len(samples)]


def _in_noise(decibels: float) -> Callable[[np.ndarray, int, torch.Generator], np.ndarray]:
    def change(samples: np.ndarray, rate: int, generator: torch.Generator) -> np.ndarray:
        return noise({"input": torch.from_numpy(samples)}, generator, (decibels, decibels))["input"].numpy()

    return change


CONDITIONS = {
    "-6 dB": _quieter(-6),
    "-12 dB": _quieter(-12),
    "-20 dB": _quieter(-20),
    "8 kHz": _narrow,
    "noise, 20 dB": _in_noise(20),
    "noise, 10 dB": _in_noise(10),
    "noise, 0 dB": _in_noise(0),
}
"""Name -> what it does to samples float32 [n] in -1..1 of a rate in Hz, which it may draw something for.

Noise is from white to such as falls by 6 dB an octave; its ratio of signal to noise is that of the whole recording.
"""

AS_RECORDED = "as recorded"


class Played:
    """A prepared split played under a condition, in samples of 16 bits, as `PreparedSplit` holds them with ``store: audio``.

    Args:
        split: what is played.
        condition: a name of `CONDITIONS`.

    Raises:
        UserError: if the prepared data keeps no recordings of the split.
    """

    def __init__(self, split: PreparedSplit, condition: str) -> None:
        self.split, self.path, self.lengths, self.table = split, split.path, split.lengths, split.table
        self.change = CONDITIONS[condition]
        self.rate = _sample_rate(split)
        self.recordings = None if holds_audio(split) else split.table().get("audio")
        if self.recordings is None and not holds_audio(split):
            raise UserError(
                f"evaluation.conditions: needs recordings, which are kept of the test split only: name test in "
                f"evaluation.splits, or set prepare.store to audio (found {split.split} of {split.path})"
            )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        item = self.split[index]
        if self.recordings is None:
            samples = item["input"].numpy().astype(np.float32) / 32768
        else:
            samples = decode_audio(self.recordings.iloc[index], self.rate)
        # The same noise each time, and for each ratio of signal to noise.
        played = self.change(samples, self.rate, seeded(torch.device("cpu"), 0, index))
        return {**item, "input": torch.from_numpy(to_int16(played))}


def measured(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a split's metrics for a condition."""
    return {name: metrics[name] for name in ("wer", "interval_95", "cer")}


def named(split: PreparedSplit) -> list[str]:
    """Return the conditions that mean something for a prepared split: one of 8 kHz is a telephone's already."""
    return [name for name in CONDITIONS if name != "8 kHz" or _sample_rate(split) > TELEPHONE]


def _sample_rate(split: PreparedSplit) -> int:
    facts = read_json(split.path / "preprocessor_config.json", "run `lt25 prepare` on the experiment again")
    return facts["sampling_rate"]


def plot(conditions: dict[str, dict[str, Any]]) -> Figure:
    """Draw the word error rate under each condition with its interval, in %."""
    rates = [100 * one["wer"] for one in conditions.values()]
    bounds = [[100 * end for end in one["interval_95"] or (one["wer"], one["wer"])] for one in conditions.values()]
    ax = axes((SMALL[0], 0.5 + 0.26 * len(rates)), "Word error rate under worse conditions, %", grid="x")
    whiskers = [[max(rate - low, 0) for rate, (low, _) in zip(rates, bounds, strict=True)]]
    whiskers.append([max(high - rate, 0) for rate, (_, high) in zip(rates, bounds, strict=True)])
    ax.barh(range(len(rates)), rates, height=0.6, color=ACCENT, alpha=0.85, xerr=whiskers, ecolor=TEXT)
    for y, (rate, (_, high)) in enumerate(zip(rates, bounds, strict=True)):
        ax.annotate(
            f"{rate:.1f}",
            (max(rate, high), y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=TEXT,
        )
    ax.set_yticks(range(len(rates)), list(conditions))
    ax.set(ylim=(len(rates) - 0.4, -0.6), xlim=(0, max(*(high for _, high in bounds), 1) * 1.18))
    return figure_of(ax)
