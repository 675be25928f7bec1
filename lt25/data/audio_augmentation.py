"""Recordings changed at random.

A speech recogniser reads frames, which are computed where recordings are read: there they are changed one by one, on the CPU
(`waveform_transforms`). A classifier that reads samples gets a batch of them, which is changed at once on the model's device
(`waveform_transform`).
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.data.audio import from_int16, resample, to_int16
from lt25.data.batches import Batch, BatchTransform, Item, ItemTransform
from lt25.data.sounds import Draw, Sounds

# A curve of gain or phase goes through so many random points, at equal distances from 0 Hz to half the sample rate.
POINTS = 9
# Between so many points for each sample, interpolation by straight lines is good enough.
FINE = 4
# Zeros behind a batch, so that what a filter spreads from its end does not come back at its beginning.
MARGIN = 512
TELEPHONE = 8000
"""The sample rate of a telephone, in Hz."""
# How strongly mu-law bends: samples of 8 bits then serve soft and loud speech.
MU = 255
# The window of the short-time spectra whose frames are played faster or slower, in seconds, and how often it moves in its length.
VOCODER_SECONDS, OVERLAP = 0.032, 4
# Lengths that a change of speed makes are multiples of this.
MULTIPLE = 16


def waveform_transforms(augment: Mapping[str, Any], sample_rate: int) -> tuple[ItemTransform, ...]:
    """Return what changes recordings one by one, where they are read, in the order in which it is done.

    Args:
        augment: the keys of a speech recogniser's section; those that are missing or None do nothing.
        sample_rate: of the recordings, in Hz.

    Raises:
        UserError: if a folder of sounds is not there, is empty or has one that cannot be read.
    """
    rate = {"sample_rate": sample_rate}
    transforms: dict[str, ItemTransform] = {}
    for change in (speed, tempo, pitch):
        if (factors := augment.get(change.__name__)) is not None:
            transforms[change.__name__] = partial(change, factors=factors, **rate)
    if (decibels := augment.get("equalise_db")) is not None:
        transforms["equalise_db"] = partial(equalise, decibels=decibels, **rate)
    if (folder := augment.get("rooms")) is not None:
        transforms["rooms"] = partial(in_a_room, rooms=Sounds(folder, "rooms"), **rate)
    if (decibels := augment.get("noise_db")) is not None:
        transforms["noise_db"] = partial(noise, decibels=decibels)
        if (folder := augment.get("noise_files")) is not None:
            noises = Sounds(folder, "noise_files")
            transforms["noise_db"] = partial(recorded_noise, decibels=decibels, noises=noises, **rate)
    if (decibels := augment.get("gain_db")) is not None:
        transforms["gain_db"] = partial(gain, decibels=decibels)
    if (share := augment.get("telephone")) is not None:
        transforms["telephone"] = partial(telephone, share=share, **rate)
    return tuple(transforms.values())


def played_length(length: int, generator: torch.Generator, augment: Mapping[str, Any], sample_rate: int) -> int:
    """Return how many samples a recording has after `waveform_transforms`: `speed` and `tempo`, which come first, decide.

    Args:
        length: how many it has before.
        generator: draws what these two draw from one like it.
        augment: the keys of a speech recogniser's section.
        sample_rate: of the recording, in Hz.
    """
    if (factors := augment.get("speed")) is not None:
        length = -(-length * sample_rate // round(sample_rate * _drawn(factors, generator)))
    if (factors := augment.get("tempo")) is not None:
        length = math.ceil(length / _drawn(factors, generator))
    return length


def speed(item: Item, generator: torch.Generator, factors: list[float], sample_rate: int) -> Item:
    """Play a recording faster or slower, and so higher or lower, by one of ``factors``.

    Args:
        item: its ``input`` is samples, float [n] or [n, 1].
        generator: draws the factor.
        factors: faster above 1.
        sample_rate: of the samples, in Hz.
    """
    factor = _drawn(factors, generator)
    samples = item["input"].float()
    played = torch.from_numpy(resample(samples.flatten().numpy(), round(sample_rate * factor), sample_rate))
    return {**item, "input": played.view(-1, *samples.shape[1:])}


def tempo(item: Item, generator: torch.Generator, factors: list[float], sample_rate: int) -> Item:
    """Play a recording faster or slower, and no higher or lower, by one of ``factors``.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws the factor.
        factors: faster above 1.
        sample_rate: of the samples, in Hz.
    """
    return {**item, "input": _stretched(item["input"], _drawn(factors, generator), sample_rate)}


def pitch(item: Item, generator: torch.Generator, factors: list[float], sample_rate: int) -> Item:
    """Play a recording higher or lower, and no faster or slower, by one of ``factors``.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws the factor.
        factors: higher above 1.
        sample_rate: of the samples, in Hz.
    """
    factor = _drawn(factors, generator)
    slower = _stretched(item["input"], 1 / factor, sample_rate)
    played = resample(slower.numpy(), round(sample_rate * factor), sample_rate)[: len(item["input"])]
    played = np.pad(played, (0, len(item["input"]) - len(played)))
    return {**item, "input": torch.from_numpy(np.ascontiguousarray(played))}


def _stretched(samples: Tensor, factor: float, sample_rate: int) -> Tensor:
    """Return samples [n] that are over in n / factor samples at the same pitch: a phase vocoder."""
    from torchaudio.functional import phase_vocoder

    if factor == 1:
        return samples
    size = 2 ** round(math.log2(VOCODER_SECONDS * sample_rate))
    hop, window = size // OVERLAP, torch.hann_window(size)
    spectra = torch.stft(samples, size, hop, window=window, pad_mode="constant", return_complex=True)
    # What the phase of each frequency would move by in a hop.
    advance = torch.linspace(0, math.pi * hop, size // 2 + 1)[:, None]
    length = math.ceil(len(samples) / factor)
    return torch.istft(phase_vocoder(spectra, factor, advance), size, hop, window=window, length=length)


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
    return {**item, "input": _added(samples, torch.fft.irfft(spectrum, size)[: len(samples)], ratio)}


def recorded_noise(
    item: Item, generator: torch.Generator, decibels: tuple[float, float], noises: Sounds, sample_rate: int
) -> Item:
    """Add a random piece of a recording of noise, at a ratio of signal to noise drawn evenly between two, in dB.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws the recording, the piece and its level.
        decibels: the lowest and the highest ratio.
        noises: where the recordings are.
        sample_rate: of the samples, in Hz.

    Raises:
        UserError: if a recording of noise cannot be read.
    """
    samples = item["input"]
    low, high = decibels
    ratio = low + (high - low) * float(torch.rand((), generator=generator))
    piece, rate = noises.piece(len(samples) / sample_rate, _draw(generator))
    return {
        **item,
        "input": _added(samples, torch.from_numpy(resample(piece, rate, sample_rate)[: len(samples)].copy()), ratio),
    }


def _added(samples: Tensor, noise: Tensor, ratio: float) -> Tensor:
    """Add noise [n] to samples [n] at a ratio of their powers in dB."""
    power = samples.square().mean() / 10 ** (ratio / 10)
    return samples + noise * (power / noise.square().mean().clamp_min(1e-20)).sqrt()


def in_a_room(item: Item, generator: torch.Generator, rooms: Sounds, sample_rate: int) -> Item:
    """Let every second recording be heard in a room: as its response to an impulse says, and as loud as before.

    What comes from the speaker straight stays where it was in time.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws whether it is, and the room.
        rooms: where the responses are.
        sample_rate: of the samples, in Hz.

    Raises:
        UserError: if a response cannot be read.
    """
    from scipy.signal import fftconvolve

    if torch.rand((), generator=generator) < 0.5:
        return item
    samples = item["input"].numpy()
    response, rate = rooms.whole(_draw(generator))
    response = resample(response, rate, sample_rate)
    straight = int(np.abs(response).argmax())
    heard = fftconvolve(samples, response)[straight : straight + len(samples)]
    heard *= np.sqrt(np.square(samples).mean() / max(np.square(heard).mean(), 1e-20))
    return {**item, "input": torch.from_numpy(heard.astype(np.float32))}


def gain(item: Item, generator: torch.Generator, decibels: tuple[float, float]) -> Item:
    """Make a recording louder or softer by a gain drawn evenly from ``decibels``, lowest and highest.

    As in a recording of 16 bits, what exceeds full scale is cut off, and samples are rounded: of a soft one the rounding noise
    can be heard, and a model has to have heard it.

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws the gain.
        decibels: the lowest and the highest gain.
    """
    low, high = decibels
    drawn = low + (high - low) * torch.rand((), generator=generator)
    played = to_int16((item["input"] * 10 ** (drawn / 20)).numpy())
    return {**item, "input": from_int16(torch.from_numpy(played))}


def telephone(item: Item, generator: torch.Generator, share: float, sample_rate: int) -> Item:
    """Let so great a share of recordings be heard through a telephone: nothing above 4 kHz, and mu-law's 8 bits a sample (G.711).

    Args:
        item: its ``input`` is samples, float32 [n].
        generator: draws whether this one is.
        share: of recordings, 0 to 1.
        sample_rate: of the samples, in Hz.
    """
    if float(torch.rand((), generator=generator)) >= share:
        return item
    samples = item["input"].numpy()
    narrow = resample(samples, sample_rate, TELEPHONE)
    coded = np.sign(narrow) * np.log1p(MU * np.minimum(np.abs(narrow), 1)) / math.log1p(MU)
    heard = np.round(coded * 127) / 127
    wide = resample(
        (np.sign(heard) * np.expm1(np.abs(heard) * math.log1p(MU)) / MU).astype(np.float32), TELEPHONE, sample_rate
    )
    return {**item, "input": torch.from_numpy(np.ascontiguousarray(wide[: len(samples)]))}


def _drawn(factors: list[float], generator: torch.Generator) -> float:
    return factors[int(torch.randint(len(factors), (), generator=generator))]


def _draw(generator: torch.Generator) -> Draw:
    return lambda below: int(torch.randint(below, (), generator=generator))


def _transform_size(samples: int) -> int:
    """Return a size of a Fourier transform that is fast to compute and leaves room for what a filter smears."""
    from scipy.fft import next_fast_len

    return 2 * cast(int, next_fast_len(samples // 2 + 512, real=True))


def waveform_transform(augment: Mapping[str, Any]) -> BatchTransform | None:
    """Return what changes the samples of a batch of recordings, or None if nothing is to be changed.

    Args:
        augment: the keys of a classification's section.

    Returns:
        A transform of ``input_features`` float32 [B, T, 1], which are of equal loudness before and after it, and of
        ``attention_mask`` int64 [B, T], where there is one. With ``speed`` the batch becomes longer or shorter; with ``mixup`` it
        has ``partners`` int64 [B] and ``shares`` float32 [B], the class of what is mixed into each, and its weight.
    """
    if not any(augment[key] for key in ("speed", "equalise_db", "noise", "mixup")):
        return None

    def transform(batch: Batch, generator: torch.Generator) -> Batch:
        samples, mask = batch["input_features"][..., 0], batch.get("attention_mask")
        device = samples.device
        if augment["speed"] or augment["equalise_db"]:
            samples, mask = _played(samples, mask, augment, generator)
        if augment["noise"]:
            samples = _equally_loud(samples, mask)
            level = augment["noise"] * torch.rand(len(samples), 1, device=device, generator=generator)
            samples = samples + level * torch.randn(samples.shape, device=device, generator=generator)
        samples = _equally_loud(samples, mask)
        if augment["mixup"]:
            shares = augment["mixup"] * torch.rand(len(samples), device=device, generator=generator)
            mask = None if mask is None else torch.maximum(mask, mask.roll(1, 0))
            samples = _equally_loud(samples.lerp(samples.roll(1, 0), shares[:, None]), mask)
            batch = {**batch, "partners": batch["labels"].roll(1, 0), "shares": shares}
        if mask is not None:
            batch = {**batch, "attention_mask": mask}
        return {**batch, "input_features": samples[..., None]}

    return transform


def _played(
    samples: Tensor, mask: Tensor | None, augment: Mapping[str, Any], generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Play samples [B, T] through a random filter and at a random speed: what comes out, [B, T'], and its mask."""
    from scipy.fft import next_fast_len

    count, steps = samples.shape
    device, padded = samples.device, cast(int, next_fast_len(steps + MARGIN, real=True))
    spectrum = torch.fft.rfft(samples, padded)
    if augment["equalise_db"]:
        drawn = 2 * torch.rand(2, count, POINTS, device=device, generator=generator) - 1
        gain, phase = F.interpolate(drawn, spectrum.shape[1], mode="linear", align_corners=True)
        spectrum = spectrum * torch.polar(10 ** (augment["equalise_db"] / 20 * gain), math.pi * phase)
    # The host does not wait for the device here.
    factors = torch.tensor(augment["speed"] or [1.0]).to(device, non_blocking=True)
    factor = factors[torch.randint(len(factors), (count, 1), device=device, generator=generator)]
    # What would lie above half the sample rate when it is played faster.
    spectrum = spectrum * (torch.linspace(0, 1, spectrum.shape[1], device=device) * factor <= 1)
    fine = torch.fft.irfft(FINE * spectrum, FINE * padded)
    if augment["speed"]:
        lengths = torch.full((count, 1), steps, device=device) if mask is None else mask.sum(1, keepdim=True)
        steps = MULTIPLE * math.ceil(steps / min(augment["speed"]) / MULTIPLE)
        mask = (torch.arange(steps, device=device) < (lengths / factor).ceil()).long()
    places = FINE * factor * torch.arange(steps, device=device)
    before = places.long().clamp_max(fine.shape[1] - 2)
    played = fine.gather(1, before).lerp(fine.gather(1, before + 1), (places - before).clamp(0, 1))
    return (played if mask is None else played * mask), mask


def _equally_loud(samples: Tensor, mask: Tensor | None) -> Tensor:
    """Do to samples [B, T], where the mask [B, T] is not 0, what `lt25.data.audio.waveform` does; the others become 0."""
    inside = torch.ones_like(samples) if mask is None else mask.to(samples.dtype)
    count = inside.sum(1, keepdim=True)
    centred = (samples - (samples * inside).sum(1, keepdim=True) / count) * inside
    return centred / (centred.square().sum(1, keepdim=True) / count).sqrt().clamp_min(1e-4)
