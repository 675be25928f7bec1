"""Audio files to samples, and samples to log-mel frames."""

import io
import math
import shutil
import subprocess
import tempfile
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

HOP_SECONDS = 0.010
"""A frame begins every 10 ms."""

WINDOW_SECONDS = 0.025
# Below it lies the rounding noise of 16-bit samples (about 1e-8 in these units): digital silence and a quiet room look alike.
FLOOR = 1e-6
# With a level that features follow: what lies so far below the loudest frame, as power, counts as silence (40 dB) ...
RELATIVE_FLOOR = 1e-4
# ... and the loudest frame counts as at least so loud, so that rounding noise never looks like speech. The loudest frames of
# speech lie between 1e-3 and 100.
SILENCE = 1e-5
# Decibels a second by which a stream forgets its loudest frame.
FORGETTING = 2.0

# The greatest rate of a file, and the largest number in the ratio of two rates: they bound the resampler's filter.
MAX_RATE, MAX_TERM = 1_000_000, 50_000


# What a file begins with, at which byte, that soundfile does not read and ffmpeg does, and what it is. Others are not given to
# ffmpeg, which also knows lists of files and addresses to fetch.
_FOR_FFMPEG = (
    (4, b"ftyp", "MPEG-4 (.m4a, .mp4, .3gp)"),
    (0, b"#!AMR", "AMR"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (.wma)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska (.mka, .webm)"),
    (0, b"caff", "Core Audio (.caf)"),
)


class TooLong(ValueError):
    """Audio that is longer than it may be."""


class NoSegment(ValueError):
    """A segment that is not within its audio."""


def decode_audio(
    data: bytes, sample_rate: int, max_seconds: float = math.inf, start: float = 0.0, end: float = math.inf
) -> np.ndarray:
    """Decode an audio file (WAV, FLAC, Ogg, MP3, AIFF, any format of samples) to float32 samples [n] in -1..1.

    Where ffmpeg is installed, what phones write (MPEG-4, AMR, AAC, Windows Media, Matroska) is decoded by it. Channels are
    averaged; if they cancel each other out, the strongest is taken. What exceeds full scale, as samples of floating point can, is
    scaled down to it.

    Args:
        data: the file's bytes.
        sample_rate: of the samples returned, in Hz.
        max_seconds: a longer file, or segment, is refused before it is decoded.
        start, end: of the segment that is wanted, in seconds; by default it is all of the file.

    Raises:
        TooLong: if it is.
        NoSegment: if the segment is not within the file.
        ValueError: if the bytes are no readable audio, end too early, hold no samples, or ones that are not finite.
    """
    import soundfile

    if not data:
        raise ValueError("the file is empty")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, promised = file.samplerate, file.frames
            if not 0 < rate <= MAX_RATE:
                raise ValueError(f"a sample rate of {rate} Hz")
            first, last = round(start * rate), promised if math.isinf(end) else round(end * rate)
            # Tables round: half a second beyond the end is the end.
            part = start > 0 or not math.isinf(end)
            if part and (not first < min(last, promised) or last > promised + rate / 2):
                raise NoSegment(f"a segment from {start:g} to {end:g} s of audio that lasts {promised / rate:.2f} s")
            promised = min(last, promised) - first
            if promised > max_seconds * rate:
                raise TooLong(f"the audio lasts {promised / rate:.1f} s")
            file.seek(first)
            samples = file.read(promised, dtype="float32", always_2d=True)
    except RuntimeError as error:
        if kind := next((kind for at, magic, kind in _FOR_FFMPEG if data[at:].startswith(magic)), None):
            longest = max_seconds if start == 0 and math.isinf(end) else math.inf
            return decode_audio(_to_wav(data, kind, longest), sample_rate, max_seconds, start, end)
        # Where the first part of a WAV file has it; what soundfile says of such a rate is about itself.
        rate = int.from_bytes(data[24:28], "little")
        if data[:4] == b"RIFF" and data[12:16] == b"fmt " and not 0 < rate <= MAX_RATE:
            raise ValueError(f"a sample rate of {rate} Hz") from None
        # What soundfile says of a file in memory begins with the address of it.
        why = getattr(error, "error_string", str(error)).strip()
        raise ValueError(f"no readable audio ({why})") from None
    if len(samples) < promised or _is_cut_off(data):
        raise ValueError("the audio ends before its header says: the file is truncated")
    if not len(samples):
        raise ValueError("the audio holds no samples")
    if not np.isfinite(samples).all():
        raise ValueError("the audio holds samples that are not finite")
    return resample(_mono(samples), rate, sample_rate)


def _to_wav(data: bytes, kind: str, max_seconds: float) -> bytes:
    """Return a recording as a WAV file, by ffmpeg; of one that is too long only so much that this is seen."""
    if (ffmpeg := shutil.which("ffmpeg")) is None:
        raise ValueError(
            f"{kind} is read where ffmpeg is installed: install it, or convert the recordings to WAV or FLAC"
        )
    with tempfile.TemporaryDirectory() as folder:
        # Files, because the table of an MPEG-4 file may stand at its end.
        source, target = Path(folder) / "source", Path(folder) / "target.wav"
        source.write_bytes(data)
        command = [ffmpeg, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-i", source, "-map", "0:a:0"]
        command += [] if math.isinf(max_seconds) else ["-t", str(max_seconds + 1)]
        done = subprocess.run([*command, "-c:a", "pcm_f32le", target], capture_output=True, text=True, errors="replace")
        if done.returncode or not target.is_file():
            said = (done.stderr.strip().splitlines() or ["no audio in it"])[-1]
            raise ValueError(f"no readable audio ({kind}: {said})")
        return target.read_bytes()


def resample(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Bring samples float32 [n] from ``rate`` to ``sample_rate``, both in Hz; of n samples come ceil(n * sample_rate / rate).

    Rates whose ratio has large numbers only are taken for the nearest ones with smaller numbers, off by less than a sample in
    an hour for any rate up to 192 kHz.
    """
    if rate == sample_rate:
        return samples
    from scipy.signal import resample_poly

    ratio = Fraction(sample_rate, rate).limit_denominator(MAX_TERM)
    up, down = ratio.numerator, ratio.denominator
    length = -(-len(samples) * sample_rate // rate)
    resampled = resample_poly(samples, up, down, window=_low_pass(up, down)).astype(np.float32)
    return np.pad(resampled, (0, max(length - len(resampled), 0)))[:length]


def is_silent(samples: np.ndarray) -> bool:
    """Tell whether samples float32 [n] in -1..1 hold nothing but rounding noise of 16 bits and a constant offset."""
    return float(np.ptp(samples)) < 4 / 32768


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return samples float32 [n] in -1..1 as int16 [n]: exactly what a file of 16 bits a sample holds."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)


def from_int16(samples: torch.Tensor) -> torch.Tensor:
    """The way back from `to_int16`: float32 [n] in -1..1."""
    return samples.float() / 32768


def frame_count(samples: Any, sample_rate: int) -> Any:
    """Return how many frames `log_mel` makes of a number of samples, or of an array of such numbers."""
    return -(-samples // round(sample_rate * HOP_SECONDS))


def log_mel(samples: torch.Tensor, sample_rate: int, n_mels: int, level: str) -> torch.Tensor:
    """Return log-mel frames float32 [T, n_mels] of ``samples`` float32 [n], one every 10 ms: T = ceil(n / hop).

    Frame t is the logarithm of the power in ``n_mels`` triangular bands (HTK's mel scale, 20 Hz to half the sample rate) of a
    25 ms Hann window that begins with, or up to a few milliseconds after, sample t * hop; the end is padded with zeros. A
    frame depends on no sample before its hop. Nor does it on another frame, if the ``level`` is "recorded", so that a stream cut
    at hops gives the frames of the whole. If it is "running", it also depends on the loudest frame so far, which a stream has to
    remember; if it is "utterance", on the loudest frame of all. Such frames are the same however loud the samples are. If the
    level is "bands", also the mean of each band over the utterance is taken away, and with it the colour that a microphone gives.
    """
    power = frame_power(samples, sample_rate, n_mels, frame_count(len(samples), sample_rate))
    return log_power(power, level)[0]


def frame_samples(sample_rate: int) -> tuple[int, int]:
    """Return how many samples lie between the beginnings of two frames, and how many a frame reads."""
    # A power of two above the window: with fewer bins the lowest of 80 bands would hold none.
    window = 2 ** math.ceil(math.log2(round(sample_rate * WINDOW_SECONDS)))
    return round(sample_rate * HOP_SECONDS), window


def frame_power(samples: torch.Tensor, sample_rate: int, n_mels: int, frames: int) -> torch.Tensor:
    """Return the power of so many frames in each band, float32 [frames, n_mels], of samples float32 [n]; zeros follow them."""
    hop, window = frame_samples(sample_rate)
    needed = (frames - 1) * hop + window
    padded = torch.nn.functional.pad(samples[:needed], (0, max(needed - len(samples), 0)))
    return _mel_spectrogram(sample_rate, n_mels)(padded).T


def log_power(power: torch.Tensor, level: str, loudest: float = -math.inf) -> tuple[torch.Tensor, float]:
    """Return the logarithms of the power of frames, float32 [T, n_mels], measured as `log_mel` says.

    Args:
        power: of each band, float32 [T, n_mels].
        level: "running", "utterance", "bands" or "recorded".
        loudest: if the level is "running", what the frame before these was measured by.

    Returns:
        The frames, and what the last one was measured by, a logarithm.
    """
    if level == "recorded":
        return torch.log(power + FLOOR), loudest
    # In float64, so that what is added to the logarithms in a long stream does not round them.
    loudness = power.double().mean(1).clamp_min(SILENCE).log()
    if level == "running":
        fall = FORGETTING * HOP_SECONDS * math.log(10) / 10
        loudness[0] = max(float(loudness[0]), loudest - fall)
        forgotten = fall * torch.arange(len(power))
        measure = (loudness + forgotten).cummax(0).values - forgotten
    else:
        measure = loudness.max(0, keepdim=True).values
    frames = torch.log(power / measure.exp().float()[:, None] + RELATIVE_FLOOR)
    return frames - frames.mean(0) if level == "bands" else frames, float(measure[-1])


def normalised_log_mel(
    samples: torch.Tensor, sample_rate: int, mean: torch.Tensor, std: torch.Tensor, level: str
) -> torch.Tensor:
    """Return `log_mel` of samples, less the ``mean`` of each band and over its deviation, both float32 [n_mels]."""
    return (log_mel(samples, sample_rate, len(mean), level) - mean) / std


def waveform(samples: np.ndarray) -> np.ndarray:
    """Return samples float32 [n] without their mean and over their root mean square, so that all recordings are equally loud."""
    centred = samples - samples.mean(dtype=np.float64)
    # What is softer is the rounding noise of 16 bits.
    return (centred / max(float(np.sqrt(np.square(centred).mean())), 1e-4)).astype(np.float32)


def _mono(samples: np.ndarray) -> np.ndarray:
    """Return one channel float32 [n] for several [n, channels], in -1..1."""
    mono = samples.mean(axis=1)
    strongest = samples[:, np.square(samples).mean(axis=0).argmax()]
    # Two microphones of opposite polarity leave 40 dB less, or nothing.
    if np.square(mono).mean() < 1e-4 * np.square(strongest).mean():
        mono = strongest
    return mono / max(1.0, float(np.abs(mono).max()))


def _is_cut_off(data: bytes) -> bool:
    """Tell whether a WAV file ends before its header says; libsndfile then reads what there is, and does not mention it."""
    size = int.from_bytes(data[4:8], "little")
    # Programs that write into a pipe do not know the size and leave none, or one of 2 GiB (SoX) or more.
    return data[:4] == b"RIFF" and 0 < size < 0x7FFFF000 and 0 < len(data) - 8 < size // 2 * 2


@cache
def _mel_spectrogram(sample_rate: int, n_mels: int):
    from torchaudio.transforms import MelSpectrogram

    hop, size = frame_samples(sample_rate)
    return MelSpectrogram(
        sample_rate,
        n_fft=size,
        win_length=round(sample_rate * WINDOW_SECONDS),
        hop_length=hop,
        f_min=20.0,
        n_mels=n_mels,
        center=False,
    )


@lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    """Return the filter of a resampler by up / down, float32: a windowed sinc over 32 periods of the lower rate."""
    from scipy.signal import firwin

    largest = max(up, down)
    # scipy's own hints know windows by their names only.
    return cast(Any, firwin)(32 * largest + 1, 0.95 / largest, window=("kaiser", 8.0)).astype(np.float32)
