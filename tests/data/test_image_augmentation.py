"""Images that are moved, turned, scaled, mirrored and covered with noise on their way to a model."""

import pytest
import torch

from lt25.data.batches import seeded
from lt25.data.image_augmentation import image_transform
from lt25.errors import UserError

NONE = {"shift": 0.0, "crop": 0, "rotate": 0.0, "scale": 0.0, "flip": False, "noise": 0.0, "mixup": 0.0}


def changed(images: torch.Tensor, order: torch.Tensor | None = None, **augment: float) -> torch.Tensor:
    """Change images [B, H, W, C]."""
    count, height, width, channels = images.shape
    series = images.reshape(count, height * width, channels)
    series = series if order is None else series[:, order]
    transform = image_transform(NONE | augment, (height, width), channels, order)
    result = transform({"input_features": series, "labels": torch.zeros(count)}, seeded(torch.device("cpu"), 1, 2))
    features = result["input_features"] if order is None else result["input_features"][:, order.argsort()]
    return features.reshape(images.shape)


@pytest.fixture
def images() -> torch.Tensor:
    """A smooth spot off the centre of 24 x 16 pixels, in two of three channels: float [B, H, W, C]."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="ij")
    spot = torch.exp(-((rows - 14) ** 2 + (columns - 6) ** 2) / 8)
    return torch.stack([spot, torch.zeros_like(spot), 2 * spot], dim=-1).repeat(64, 1, 1, 1)


def centre(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the spot's centre, from the centre of the image."""
    weight = images[..., 0] / images[..., 0].sum((1, 2), keepdim=True)
    rows, columns = torch.arange(24.0)[:, None] - 11.5, torch.arange(16.0)[None] - 7.5
    return (weight * rows).sum((1, 2)), (weight * columns).sum((1, 2))


def test_nothing_to_change_is_no_transform() -> None:
    assert image_transform(NONE, (24, 16), 1) is None


def test_shift_moves_by_no_more_than_its_pixels(images: torch.Tensor) -> None:
    rows, columns = centre(changed(images, shift=2.0))
    moved = torch.stack([rows - 2.5, columns + 1.5])
    assert moved.abs().max() < 2.05
    assert moved.amin(1).max() < -1.5 and moved.amax(1).min() > 1.5


def test_crop_moves_by_whole_pixels(images: torch.Tensor) -> None:
    rows, columns = centre(changed(images, crop=2))
    moved = torch.stack([rows - 2.5, columns + 1.5])
    torch.testing.assert_close(moved, moved.round(), atol=0.1, rtol=0)
    assert moved.round().int().unique().tolist() == [-2, -1, 0, 1, 2]


def test_mixup_joins_each_image_with_the_one_before_it_and_says_how_much() -> None:
    images, labels = torch.rand(8, 6, 1), torch.arange(8)
    transform = image_transform(NONE | {"mixup": 0.4}, (2, 3), 1)
    mixed = transform({"input_features": images, "labels": labels}, seeded(torch.device("cpu"), 1))
    assert mixed["labels"].tolist() == list(range(8)) and mixed["partners"].tolist() == [7, 0, 1, 2, 3, 4, 5, 6]
    shares = mixed["shares"][:, None, None]
    assert shares.min() >= 0 and 0.2 < shares.max() <= 0.4
    torch.testing.assert_close(mixed["input_features"], (1 - shares) * images + shares * images[mixed["partners"]])


def test_a_turn_keeps_the_distance_from_the_centre_and_bounds_the_angle(images: torch.Tensor) -> None:
    rows, columns = centre(changed(images, rotate=20.0))
    before = torch.atan2(torch.tensor(2.5), torch.tensor(-1.5))
    angles = torch.rad2deg(torch.atan2(rows, columns) - before)
    torch.testing.assert_close(torch.hypot(rows, columns), torch.full((64,), 8.5**0.5), atol=0.05, rtol=0)
    assert 17 < angles.abs().max() < 20.5
    assert angles.min() < -10 and angles.max() > 10


def test_scale_bounds_the_factor(images: torch.Tensor) -> None:
    rows, columns = centre(changed(images, scale=0.2))
    factors = torch.hypot(rows, columns) / 8.5**0.5
    assert 1.1 < factors.max() < 1.21 and 1 / 1.21 < factors.min() < 0.9


def test_half_of_the_images_are_mirrored(images: torch.Tensor) -> None:
    _, columns = centre(changed(images, flip=True))
    torch.testing.assert_close(columns.abs(), torch.full((64,), 1.5), atol=0.01, rtol=0)
    assert 16 < (columns > 0).sum() < 48


def test_noise_has_its_deviation(images: torch.Tensor) -> None:
    assert abs((changed(images, noise=0.3) - images).std() - 0.3) < 0.01


def test_permuted_pixels_change_as_the_image_does(images: torch.Tensor) -> None:
    order = torch.randperm(24 * 16, generator=torch.Generator().manual_seed(0))
    augment = {"shift": 2.0, "rotate": 10.0, "noise": 0.0}
    torch.testing.assert_close(changed(images, order, **augment), changed(images, **augment))


def test_channels_stay_apart(images: torch.Tensor) -> None:
    result = changed(images, rotate=30.0, shift=3.0)
    torch.testing.assert_close(result[..., 2], 2 * result[..., 0])
    assert result[..., 1].abs().max() == 0


@pytest.mark.parametrize("key", ["shift", "crop"])
def test_images_are_not_moved_out_of_sight(key: str) -> None:
    assert image_transform(NONE | {key: 7}, [8, 28], 1)
    with pytest.raises(UserError, match=rf"augment.{key}: found 8, but the images have 8 by 28 pixels"):
        image_transform(NONE | {key: 8}, [8, 28], 1)
