"""Batches of recordings that are played at another speed, through a filter, with noise, and mixed."""

import math

import pytest
import torch

from lt25.data.audio_augmentation import telephone, waveform_transform
from lt25.data.batches import Batch, seeded

NONE = {"speed": None, "equalise_db": None, "noise": 0.0, "mixup": 0.0}
STEPS = 2000


def tones(*cycles: float, lengths: tuple[int, ...] = ()) -> Batch:
    """Return sine waves of unit power with so many cycles a sample, [B, STEPS, 1], and zeros behind their lengths."""
    waves = [2**0.5 * torch.sin(2 * math.pi * cycle * torch.arange(STEPS)) for cycle in cycles]
    batch = {"input_features": torch.stack(waves)[..., None], "labels": torch.arange(len(cycles))}
    if not lengths:
        return batch
    mask = (torch.arange(STEPS) < torch.tensor(lengths)[:, None]).long()
    return {**batch, "input_features": batch["input_features"] * mask[..., None], "attention_mask": mask}


def changed(batch: Batch, **augment: object) -> Batch:
    transform = waveform_transform(NONE | augment)
    assert transform is not None
    return transform(batch, seeded(torch.device("cpu"), 1, 2))


def pitch(samples: torch.Tensor) -> float:
    """Return the loudest frequency, in cycles a sample."""
    power = torch.fft.rfft(samples, 2**16).abs()
    return float(power.argmax()) / 2**16


def test_nothing_to_change_is_no_transform() -> None:
    assert waveform_transform(NONE) is None


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_what_is_played_at_another_speed_has_another_length_and_pitch(factor: float) -> None:
    batch = changed(tones(0.05, 0.1, lengths=(STEPS, 1000)), speed=[factor])
    features, mask = batch["input_features"][..., 0], batch["attention_mask"]
    assert mask.sum(1).tolist() == [math.ceil(STEPS / factor), math.ceil(1000 / factor)]
    assert features.shape == mask.shape and not features[mask == 0].any()
    for row, cycles in zip(features, (0.05, 0.1), strict=True):
        assert abs(pitch(row) - factor * cycles) < 1e-3
    torch.testing.assert_close((features.square() * mask).sum(1) / mask.sum(1), torch.ones(2))


def test_what_would_lie_above_half_the_sample_rate_is_gone() -> None:
    played = changed(tones(0.05, 0.45, lengths=(STEPS, STEPS)), speed=[1.3])["input_features"]
    low, high = tones(0.05), tones(0.45)
    both = {**low, "input_features": low["input_features"] + high["input_features"]}
    torch.testing.assert_close(
        changed(both, speed=[1.3])["input_features"][0, 100:1400], played[0, 100:1400], atol=0.02, rtol=0
    )


def test_a_filter_changes_how_loud_frequencies_are_by_so_many_decibels_at_most() -> None:
    # Both tones have a whole number of cycles, so their power is read from one frequency each.
    batch = tones(*[0.1] * 64)
    batch["input_features"] = batch["input_features"] + tones(0.3)["input_features"]
    result = changed(batch, equalise_db=6.0)
    assert "attention_mask" not in result and result["input_features"].shape == batch["input_features"].shape
    power = torch.fft.rfft(result["input_features"][..., 0]).abs().square()
    apart = 10 * (power[:, 200] / power[:, 600]).log10()
    assert 6 < apart.abs().max() < 12.5 and apart.min() < -3 and apart.max() > 3
    torch.testing.assert_close(result["input_features"].square().mean((1, 2)), torch.ones(64))


def test_noise_and_mixup_keep_padding_silent_and_say_what_was_mixed() -> None:
    batch = tones(0.1, 0.2, 0.3, lengths=(STEPS, 500, 1000))
    noisy = changed(batch, noise=0.5)
    assert not noisy["input_features"][batch["attention_mask"] == 0].any()
    assert (noisy["input_features"] - batch["input_features"]).std() > 0.05
    mixed = changed(batch, mixup=0.4)
    assert mixed["partners"].tolist() == [2, 0, 1] and 0 < mixed["shares"].max() <= 0.4
    assert mixed["attention_mask"].sum(1).tolist() == [STEPS, STEPS, 1000]
    # Behind the end of the second there is only what was mixed into it.
    assert abs(pitch(mixed["input_features"][1, 500:, 0]) - 0.1) < 1e-3


def test_the_same_draw_gives_the_same_batch() -> None:
    augment = {"speed": [0.8, 1.0, 1.2], "equalise_db": 10.0, "noise": 0.1, "mixup": 0.3}
    first, again = (changed(tones(0.1, 0.2, 0.3), **augment) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_through_a_telephone_there_is_nothing_above_4_khz_and_little_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = (0.3 * torch.sin(2 * math.pi * hertz * torch.arange(16_001) / 16_000) for hertz in (1000, 6000))
    for loudness in (1.0, 0.03):
        item = telephone({"input": loudness * (low + high)}, generator, 1.0, 16_000)
        heard = item["input"]
        assert heard.shape == low.shape and heard.dtype == torch.float32
        error = (heard - loudness * low)[500:-500]
        # Of mu-law the noise is 35 dB and more below speech, loud or soft.
        assert 1e-6 < float(error.square().mean() / (loudness * low).square().mean()) < 10**-3
    items = [telephone({"input": low + high}, generator, 0.25, 16_000)["input"] for _ in range(200)]
    assert 30 < sum(not torch.equal(one, low + high) for one in items) < 70
