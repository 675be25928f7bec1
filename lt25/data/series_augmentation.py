"""Series of a batch, changed at random on the device where the batch is: moved, scaled, covered with noise, mixed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lt25.data.batches import Batch, BatchTransform


def series_transform(augment: Mapping[str, Any], missing: bool = False) -> BatchTransform | None:
    """Return what changes the series of a batch, or None if nothing is to be changed.

    Args:
        augment: the keys of a classification's section; those that are missing do nothing.
        missing: whether the second half of the channels says where the first was measured: these are neither scaled nor noisy.

    Returns:
        A transform of ``input_features`` float [B, T, C], whose channels have mean 0 and deviation 1 over the training split, and
        of ``attention_mask`` int64 [B, T], where there is one. With ``mixup`` it adds ``partners`` int64 [B] and ``shares`` float
        [B], of what is mixed into each: its class, and its weight.
    """
    shift, scale, noise, mixup = (augment.get(key) or 0 for key in ("shift", "scale", "noise", "mixup"))
    if not (shift or scale or noise or mixup):
        return None

    def transform(batch: Batch, generator: torch.Generator) -> Batch:
        features, mask = batch["input_features"], batch.get("attention_mask")
        count, _, channels = features.shape
        device = features.device

        def draw(most: float) -> Tensor:
            return most * (2 * torch.rand(count, 1, 1, device=device, generator=generator) - 1)

        if shift:
            features = _moved(features, mask, draw(shift))
        known = features[..., : channels // 2] if missing else features
        if scale:
            known = known * draw(math.log1p(scale)).exp()
        if noise:
            known = known + noise * torch.randn(known.shape, device=device, generator=generator)
        features = torch.cat((known, features[..., channels // 2 :]), -1) if missing else known
        if mask is not None:
            features = features * mask[..., None]
        if mixup:
            shares = mixup * torch.rand(count, device=device, generator=generator)
            features = features.lerp(features.roll(1, 0), shares[:, None, None])
            mask = None if mask is None else torch.maximum(mask, mask.roll(1, 0))
            batch = {**batch, "partners": batch["labels"].roll(1, 0), "shares": shares}
        return {**batch, "input_features": features, **({} if mask is None else {"attention_mask": mask})}

    return transform


def _moved(features: Tensor, mask: Tensor | None, later: Tensor) -> Tensor:
    """Let series [B, T, C] begin so many steps later, [B, 1, 1], between steps by interpolation; their ends go on as they are."""
    count, steps, channels = features.shape
    lengths = torch.full((count,), steps, device=features.device) if mask is None else mask.sum(1)
    last = (lengths - 1)[:, None, None]
    places = torch.minimum((torch.arange(steps, device=features.device)[:, None] - later).clamp_min(0), last.float())
    before = places.long()
    after = torch.minimum(before + 1, last)
    low, high = (features.gather(1, where.expand(count, steps, channels)) for where in (before, after))
    return low.lerp(high, (places - before).to(features.dtype))
