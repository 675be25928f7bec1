"""Audio that comes in chunks of any size: what `lt25.data.audio` computes of whole recordings, with what it has to remember."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from lt25.data.audio import MAX_TERM, frame_count, frame_power, frame_samples, log_power, resample


class ResamplerStream:
    """Brings samples from a rate to another, as `lt25.data.audio.resample` does.

    Args:
        rate: of the samples that come, in Hz.
        sample_rate: of those that go, in Hz.
    """

    def __init__(self, rate: int, sample_rate: int) -> None:
        self.rate, self.sample_rate = rate, sample_rate
        ratio = Fraction(sample_rate, rate).limit_denominator(MAX_TERM)
        self._up, self._down = ratio.numerator, ratio.denominator
        # Samples on either side that the filter of one sample reaches, in whole periods of both rates.
        self._reach = -(-(16 * max(self._up, self._down) // self._up + 1) // self._down)
        self._kept, self._before = np.zeros(0, np.float32), 0
        self._came, self._gone = 0, 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples, float32 [m], that are complete once float32 [n] more have come."""
        if self.rate == self.sample_rate:
            return samples
        self._came += len(samples)
        self._kept = np.concatenate((self._kept, samples))
        periods = len(self._kept) // self._down - self._reach
        return self._take(periods) if periods > self._before else np.zeros(0, np.float32)

    def close(self) -> np.ndarray:
        """Return the samples that are left once no more will come."""
        if self.rate == self.sample_rate or not self._came:
            return np.zeros(0, np.float32)
        left = self._take(-(-len(self._kept) // self._down))
        return left[: -(-self._came * self.sample_rate // self.rate) - self._gone + len(left)]

    def _take(self, periods: int) -> np.ndarray:
        """Return the samples up to so many periods of those that are kept, and keep what the next ones need."""
        resampled = resample(self._kept, self._down, self._up)
        # The last ones, of recordings that do not end with a period, are cut off by the caller.
        resampled = np.pad(resampled, (0, max(periods * self._up - len(resampled), 0)))
        taken = resampled[self._before * self._up : periods * self._up]
        done = max(periods - self._reach, 0)
        self._kept, self._before = self._kept[done * self._down :], periods - done
        self._gone += len(taken)
        return taken


class LogMelStream:
    """Makes normalised log-mel frames of samples, as `lt25.data.audio.normalised_log_mel` does.

    Args:
        sample_rate: of the samples, in Hz.
        mean, std: of each band, float32 [n_mels].
        level: "recorded" or "running".
    """

    def __init__(self, sample_rate: int, mean: Tensor, std: Tensor, level: str) -> None:
        assert level in ("recorded", "running"), "what all of a recording is like is not known before its end"
        self.sample_rate, self.mean, self.std, self.level = sample_rate, mean, std, level
        self._kept, self._loudest = torch.zeros(0), -math.inf

    def feed(self, samples: Tensor) -> Tensor:
        """Return the frames, float32 [t, n_mels], that are complete once samples float32 [n] more have come."""
        self._kept = torch.cat((self._kept, samples))
        hop, window = frame_samples(self.sample_rate)
        return self._take(max((len(self._kept) - window) // hop + 1, 0))

    def close(self) -> Tensor:
        """Return the frames that are left once no more samples will come."""
        return self._take(frame_count(len(self._kept), self.sample_rate))

    def _take(self, frames: int) -> Tensor:
        if not frames:
            return torch.zeros(0, len(self.mean))
        power = frame_power(self._kept, self.sample_rate, len(self.mean), frames)
        self._kept = self._kept[frames * frame_samples(self.sample_rate)[0] :].clone()
        logs, self._loudest = log_power(power, self.level, self._loudest)
        return (logs - self.mean) / self.std
