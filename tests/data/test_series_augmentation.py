"""Series that are moved, scaled, covered with noise and mixed on their way to a model."""

import pytest
import torch
from torch import Tensor

from lt25.data.batches import Batch, seeded
from lt25.data.series_augmentation import series_transform


def changed(features: Tensor, mask: Tensor | None = None, missing: bool = False, **augment: float) -> Batch:
    """Change series [B, T, C]."""
    transform = series_transform(augment, missing)
    assert transform is not None
    batch = {"input_features": features, "labels": torch.arange(len(features))}
    return transform(batch if mask is None else {**batch, "attention_mask": mask}, seeded(torch.device("cpu"), 1, 2))


def padded(lengths: list[int], channels: int = 2) -> tuple[Tensor, Tensor]:
    """Return ramps that begin with 1 and rise by one a step, [B, T, C], zero where the mask [B, T] is."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ramps = torch.arange(1.0, max(lengths) + 1).expand(len(lengths), -1)
    return (ramps * mask)[..., None].repeat(1, 1, channels), mask


def test_nothing_to_change_is_no_transform() -> None:
    assert series_transform({"shift": 0.0, "scale": 0.0, "noise": 0.0, "mixup": 0.0}) is None


def test_a_shift_moves_a_series_within_its_own_length_and_continues_its_ends() -> None:
    features, mask = padded([20, 9] * 50)
    result = changed(features, mask, shift=3.0)
    torch.testing.assert_close(result["attention_mask"], mask)
    for length, row in zip([20, 9] * 50, result["input_features"], strict=True):
        assert not row[length:].any()
        # Of a ramp, the middle says by how much it was moved.
        moved = float(row[length // 2, 0]) - (length // 2 + 1)
        assert abs(moved) <= 3
        expected = (torch.arange(1.0, length + 1) + moved).clamp(1, length)
        torch.testing.assert_close(row[:length], expected[:, None].repeat(1, 2), atol=1e-4, rtol=0)
    middles = result["input_features"][::2, 10, 0] - 11
    assert middles.min() < -2 and middles.max() > 2


def test_scale_is_one_factor_a_series_and_noise_has_its_deviation() -> None:
    features, mask = padded([12, 12, 7] * 40)
    factors = changed(features, mask, scale=0.5)["input_features"][:, :7] / features[:, :7]
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors))
    assert 1 / 1.5 <= factors.min() < 0.75 and 1.35 < factors.max() <= 1.5
    added = changed(features, mask, noise=0.3)["input_features"] - features
    assert not added[mask == 0].any() and abs(added[mask == 1].std() - 0.3) < 0.02


def test_channels_that_say_what_was_measured_are_moved_but_neither_scaled_nor_noisy() -> None:
    features = torch.cat((torch.randn(8, 10, 2), torch.ones(8, 10, 2)), -1)
    result = changed(features, missing=True, scale=0.5, noise=0.5)["input_features"]
    torch.testing.assert_close(result[..., 2:], features[..., 2:])
    assert (result[..., :2] - features[..., :2]).abs().min() > 0


def test_mixup_joins_series_of_different_lengths() -> None:
    features, mask = padded([4, 10])
    result = changed(features, mask, mixup=0.4)
    shares = result["shares"][:, None, None]
    assert result["partners"].tolist() == [1, 0] and shares.min() > 0 and shares.max() <= 0.4
    assert result["attention_mask"].sum(1).tolist() == [10, 10]
    torch.testing.assert_close(result["input_features"], (1 - shares) * features + shares * features.flip(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_all_at_once_keep_the_shape_and_are_the_same_for_the_same_place(channels: int) -> None:
    features, augment = torch.randn(5, 16, channels), {"shift": 2, "scale": 0.2, "noise": 0.1, "mixup": 0.3}
    first, again = changed(features, **augment), changed(features, **augment)
    assert first["input_features"].shape == features.shape and "attention_mask" not in first
    torch.testing.assert_close(first["input_features"], again["input_features"], rtol=0, atol=0)
