"""Images and series as sequences of vectors. NumPy and Pillow only."""

import io
from collections.abc import Sequence

import numpy as np


def decode_image(data: bytes, channels: int | None = None, size: Sequence[int] | None = None) -> np.ndarray:
    """Decode an image file to uint8 [H, W, C], with C = 1 or 3; ``channels`` None keeps what the image has.

    ``size``: [height, width] to resize to. Raises ValueError if the bytes are no readable image.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
        grey = channels == 1 if channels else image.mode in ("1", "L", "LA", "I", "I;16", "F")
        image = image.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"no readable image ({error})") from None
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, :, None] if grey else pixels


def image_to_series(pixels: np.ndarray, layout: str, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Turn pixels [H, W, C] in 0..255 into float32 [H * W, C] ("pixels") or [H, W * C] ("rows").

    Values are scaled to 0..1, then ``mean`` [C] is subtracted and the rest divided by ``std`` [C].
    """
    height, width, channels = pixels.shape
    values = pixels.astype(np.float32) / 255
    values = (values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return values.reshape((height * width, channels) if layout == "pixels" else (height, width * channels))


def normalise_series(series: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalise a series [T] or [T, C] to float32 [T, C]."""
    series = np.asarray(series, np.float32)
    series = series[:, None] if series.ndim == 1 else series
    return (series - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
