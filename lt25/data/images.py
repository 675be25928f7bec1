"""Images as sequences of vectors. NumPy and Pillow only."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

PIXELS = 100_000_000
"""The most pixels of an image. With opacity they take 400 megabytes, and a few times that while they are laid on white."""

_GREY = ("1", "L", "LA", "La")
_DEEP = {"I;16": "16 bits", "I": "32 bits", "F": "floats"}
"""Modes of Pillow ("I;16" has kin) whose values have another range than 0..255, and what they hold."""


class ImageError(ValueError):
    """An image cannot be used."""


class TooLarge(ImageError):
    """An image has more pixels than `PIXELS`."""


@dataclass(frozen=True)
class ImageFacts:
    """What can be said of an image.

    Attributes:
        size: height and width as it is seen, after the turn that a camera has noted.
        grey: whether it has no colours.
        transparent: whether it has a channel of opacity, or a transparent colour.
        depth: "16 bits", "32 bits" or "floats"; None for an image of 8 bits.
        range: the smallest and the largest value of an image with a depth; None for any other.
    """

    size: tuple[int, int]
    grey: bool
    transparent: bool
    depth: str | None
    range: tuple[float, float] | None


def image_facts(data: bytes) -> ImageFacts:
    """Look at an image file; the pixels are decoded only if there is a range to be found.

    Raises:
        TooLarge: for more than `PIXELS` pixels.
        ImageError: for bytes that are no readable image, or values that are not finite.
    """
    with _opened(data) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) >= 5:  # orientations 5 to 8 lie on their side
            width, height = height, width
        depth = _depth(image)
        values = np.asarray(image, np.float64) if depth else None
        if values is not None and not np.isfinite(values).all():
            raise ImageError("an image with values that are not finite")
        return ImageFacts(
            (height, width),
            bool(depth) or image.mode in _GREY,
            image.has_transparency_data,
            depth,
            None if values is None else (float(values.min()), float(values.max())),
        )


def decode_image(
    data: bytes,
    channels: int | None = None,
    size: Sequence[int] | None = None,
    ranges: Mapping[str, Sequence[float]] | None = None,
) -> np.ndarray:
    """Decode an image file to [H, W, C], with C = 1 or 3, of values in 0..255.

    What is transparent shows white behind it, and a photograph is turned as the camera has noted.

    Args:
        data: the file's bytes.
        channels: 1 or 3; None keeps what the image has.
        size: [height, width] to bring it to; None keeps its own.
        ranges: depth, as `ImageFacts` has it -> the values that become 0 and 255; 16 bits have 0 and 65535 where it has none.

    Returns:
        uint8, or float32 for an image with a depth, whose values may exceed 0..255 if they exceed the range.

    Raises:
        TooLarge: for more than `PIXELS` pixels.
        ImageError: for bytes that are no readable image, or an image of a depth without a range.
    """
    with _opened(data) as image:
        return image_pixels(image, channels, size, ranges)


def image_pixels(
    image: Any,
    channels: int | None = None,
    size: Sequence[int] | None = None,
    ranges: Mapping[str, Sequence[float]] | None = None,
) -> np.ndarray:
    """As `decode_image`, of an image of Pillow's that is open."""
    from PIL import Image, ImageOps

    if size is not None:
        # Of a large JPEG only so much is decoded as twice the size needs.
        image.draft(None, (2 * max(size), 2 * max(size)))
    depth = _depth(image)
    grey = channels == 1 if channels else bool(depth) or image.mode in _GREY
    image = ImageOps.exif_transpose(image)
    if depth:
        known = {"16 bits": (0, 65535), **(ranges or {})}
        if depth not in known:
            raise ImageError(f"an image of {depth}, whose range of values is not known: train has none such")
        low, high = known[depth]
        values = (np.asarray(image, np.float32) - low) * (255 / (high - low) if high > low else 0)
        image = Image.fromarray(values.astype(np.float32))
    else:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return pixels if grey or pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """Open an image file; whatever goes wrong with it in the block is an `ImageError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow warns of what it then reads or refuses.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if math.prod(image.size) > PIXELS:
                raise TooLarge(f"an image of {image.size[1]:,} by {image.size[0]:,} pixels")
            yield image
    except Image.DecompressionBombError:
        raise TooLarge(f"an image of more than {PIXELS:,} pixels") from None
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("no readable image (of no kind that is known)") from None
    # The readers of many formats meet damaged files with exceptions of every kind.
    except Exception as error:
        raise ImageError(f"no readable image ({str(error).splitlines()[0] if str(error) else repr(error)})") from None


def _depth(image: Any) -> str | None:
    return _DEEP.get("I;16" if image.mode.startswith("I;") else image.mode)


def pixel_order(size: Sequence[int], seed: int | None) -> np.ndarray | None:
    """Return int64 [H * W], a random order of the pixels of an image that depends on the seed alone; None without a seed."""
    return None if seed is None else np.random.default_rng(seed).permutation(size[0] * size[1])


def image_to_series(
    pixels: np.ndarray,
    layout: str,
    mean: Sequence[float],
    std: Sequence[float],
    order: np.ndarray | None = None,
) -> np.ndarray:
    """Turn pixels [H, W, C] in 0..255 into float32 [H * W, C] ("pixels") or [H, W * C] ("rows").

    Values are scaled to 0..1, then ``mean`` [C] is subtracted and the rest divided by ``std`` [C]. With an ``order``
    [H * W], step t of the pixels is pixel ``order[t]``, counted line by line.
    """
    height, width, channels = pixels.shape
    values = pixels.astype(np.float32) / 255
    values = (values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    if layout == "rows":
        return values.reshape(height, width * channels)
    values = values.reshape(height * width, channels)
    return values if order is None else values[order]
