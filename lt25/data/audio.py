"""Audio files to samples, and samples to log-mel frames."""

import io
import math
from functools import cache
from typing import Any

import numpy as np
import torch

HOP_SECONDS = 0.010
"""A frame begins every 10 ms."""

WINDOW_SECONDS = 0.025
# Below it lies the rounding noise of 16-bit samples (about 1e-8 in these units): digital silence and a quiet room look alike.
FLOOR = 1e-6


def decode_audio(data: bytes, sample_rate: int) -> np.ndarray:
    """Decode an audio file (WAV, FLAC, Ogg, MP3) to float32 samples [n] in -1..1 at ``sample_rate`` Hz, channels averaged.

    Raises ValueError if the bytes are no readable audio, hold no samples, or samples that are not finite.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"no readable audio ({str(error).strip()})") from None
    mono = samples.mean(axis=1)
    if not len(mono):
        raise ValueError("the audio holds no samples")
    if not np.isfinite(mono).all():
        raise ValueError("the audio holds samples that are not finite")
    return mono if rate == sample_rate else _resampler(rate, sample_rate)(torch.from_numpy(mono)).numpy()


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return samples float32 [n] in -1..1 as int16 [n]: exactly what a file of 16 bits a sample holds."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)


def from_int16(samples: torch.Tensor) -> torch.Tensor:
    """The way back from `to_int16`: float32 [n] in -1..1."""
    return samples.float() / 32768


def frame_count(samples: Any, sample_rate: int) -> Any:
    """Return how many frames `log_mel` makes of a number of samples, or of an array of such numbers."""
    return -(-samples // round(sample_rate * HOP_SECONDS))


def log_mel(samples: torch.Tensor, sample_rate: int, n_mels: int) -> torch.Tensor:
    """Return log-mel frames float32 [T, n_mels] of ``samples`` float32 [n], one every 10 ms: T = ceil(n / hop).

    Frame t is log(power + `FLOOR`) in ``n_mels`` triangular bands (HTK's mel scale, 20 Hz to half the sample rate) of a
    25 ms Hann window that begins with, or up to a few milliseconds after, sample t * hop; the end is padded with zeros. A
    frame depends on no sample before its hop and no other frame, so that a stream cut at hops gives the frames of the whole.
    """
    transform, hop = _mel_spectrogram(sample_rate, n_mels), round(sample_rate * HOP_SECONDS)
    frames = frame_count(len(samples), sample_rate)
    padded = torch.nn.functional.pad(samples, (0, (frames - 1) * hop + transform.n_fft - len(samples)))
    return torch.log(transform(padded).T + FLOOR)


def normalised_log_mel(samples: torch.Tensor, sample_rate: int, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return `log_mel` of samples, less the ``mean`` of each band and over its deviation, both float32 [n_mels]."""
    return (log_mel(samples, sample_rate, len(mean)) - mean) / std


@cache
def _mel_spectrogram(sample_rate: int, n_mels: int):
    from torchaudio.transforms import MelSpectrogram

    window = round(sample_rate * WINDOW_SECONDS)
    return MelSpectrogram(
        sample_rate,
        # A power of two above the window: with fewer bins the lowest of 80 bands would hold none.
        n_fft=2 ** math.ceil(math.log2(window)),
        win_length=window,
        hop_length=round(sample_rate * HOP_SECONDS),
        f_min=20.0,
        n_mels=n_mels,
        center=False,
    )


@cache
def _resampler(rate: int, sample_rate: int):
    from torchaudio.transforms import Resample

    return Resample(rate, sample_rate)
