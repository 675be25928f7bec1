"""Images of a batch, changed at random on the device where the batch is: moved, turned, scaled, mirrored, noisy, mixed.

Images come as sequences, of pixels or of rows. They are laid out again for it, each is drawn once from where its pixels come
from, by bilinear interpolation, and it is a sequence again.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.data.batches import Batch, BatchTransform
from lt25.errors import UserError


def image_transform(
    augment: Mapping[str, Any], size: Sequence[int], channels: int, order: Tensor | None = None
) -> BatchTransform | None:
    """Return what changes the images of a batch, or None if nothing is to be changed.

    Args:
        augment: the keys of a classification's section.
        size: [height, width] of the images.
        channels: numbers a pixel.
        order: int64 [height * width], the pixel that each step of a sequence shows; None if they come line by line.

    Returns:
        A transform of ``input_features`` float [B, T, C]. With ``mixup`` it adds ``partners`` int64 [B] and ``shares`` float
        [B], of what is mixed into each: its class, and its weight.

    Raises:
        UserError: if an image could be moved out of sight.
    """
    height, width = size
    for key in ("shift", "crop"):
        if augment[key] >= min(size):
            raise UserError(
                f"augment.{key}: found {augment[key]}, but the images have {height} by {width} pixels: lower it"
            )
    moved = any(augment[key] for key in ("shift", "crop", "rotate", "scale", "flip"))
    if not moved and not augment["noise"] and not augment["mixup"]:
        return None
    back = None if order is None else order.argsort()

    def transform(batch: Batch, generator: torch.Generator) -> Batch:
        features = batch["input_features"]
        changed = features
        if moved:
            # Without waiting for the device.
            images = features if back is None else features[:, back.to(features.device, non_blocking=True)]
            images = images.reshape(len(features), height, width, channels).permute(0, 3, 1, 2)
            theta = _affine(augment, len(features), height, width, features.device, generator)
            grid = F.affine_grid(theta, [len(features), channels, height, width], align_corners=False)
            images = F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
            changed = images.permute(0, 2, 3, 1).reshape(features.shape)
            changed = changed if order is None else changed[:, order.to(features.device, non_blocking=True)]
        if augment["noise"]:
            changed = changed + augment["noise"] * torch.randn(
                features.shape, device=features.device, dtype=features.dtype, generator=generator
            )
        if augment["mixup"]:
            shares = augment["mixup"] * torch.rand(len(features), device=features.device, generator=generator)
            changed = changed.lerp(changed.roll(1, 0), shares[:, None, None].to(changed.dtype))
            batch = {**batch, "partners": batch["labels"].roll(1, 0), "shares": shares}
        return {**batch, "input_features": changed}

    return transform


def _affine(
    augment: Mapping[str, Any], images: int, height: int, width: int, device: torch.device, generator: torch.Generator
) -> Tensor:
    """Return float [B, 2, 3]: for each image, where a place of the new image lies in the old one, both in -1..1."""

    def draw(most: float) -> Tensor:
        return most * (2 * torch.rand(images, device=device, generator=generator) - 1)

    angle = draw(math.radians(augment["rotate"] or 0))
    zoom = torch.exp(draw(math.log1p(augment["scale"] or 0)))
    mirror = torch.ones(images, device=device)
    if augment["flip"]:
        mirror = torch.where(torch.rand(images, device=device, generator=generator) < 0.5, -mirror, mirror)
    pixels = augment["shift"] or 0
    right, down = draw(2 * pixels / width), draw(2 * pixels / height)
    if whole := augment["crop"]:
        right = right + draw(whole + 0.5).round().clamp(-whole, whole) * 2 / width
        down = down + draw(whole + 0.5).round().clamp(-whole, whole) * 2 / height
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # Places are in -1..1 along both sides, so that a turn of an image that is not square has to scale between them.
    rows = [mirror * cos, -mirror * sin * height / width, right, sin * width / height, cos, down]
    return torch.stack(rows, dim=1).view(images, 2, 3)
