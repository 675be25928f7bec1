"""Pictures and sounds of examples, as data URIs."""

from __future__ import annotations

import base64
import io
import math

import numpy as np

# mid-teal, by opacity: readable on white and on black
IMAGE_COLOUR = (47, 143, 157)


def data_uri(data: bytes, kind: str) -> str:
    """`data:` address of some bytes. kind: the MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def sound(encoded: bytes) -> str:
    """A clip of any format that libsndfile reads, as MP3: a sixth of the size, and every browser plays it.

    Raises soundfile.LibsndfileError for bytes that are no audio.
    """
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="MP3", compression_level=0.75)
    return data_uri(out.getvalue(), "audio/mpeg")


def picture(values: np.ndarray) -> str | None:
    """A sequence that was an image, as PNG; None if it does not look like one.

    values: float [T, C]. An image read by pixels is [side * side, 1] or [side * side, 3], one read by rows [T, T] or
    [T, 3 * T]. Brightness runs from the smallest value to the largest.
    """
    from PIL import Image

    steps, channels = values.shape
    side = math.isqrt(steps)
    if channels in (1, 3) and side * side == steps and side > 3:
        pixels = values.reshape(side, side, channels)
    elif channels == steps:
        pixels = values.reshape(steps, steps, 1)
    elif channels == 3 * steps:
        pixels = values.reshape(steps, steps, 3)
    else:
        return None
    spread = float(values.max() - values.min()) or 1.0
    bytes_ = np.clip(255 * (pixels.astype(np.float32) - float(values.min())) / spread, 0, 255).astype(np.uint8)
    if bytes_.shape[2] == 1:
        colour = np.broadcast_to(np.array(IMAGE_COLOUR, np.uint8), (*bytes_.shape[:2], 3))
        bytes_ = np.concatenate([colour, bytes_], axis=2)
    out = io.BytesIO()
    Image.fromarray(bytes_).save(out, format="PNG", optimize=True)
    return data_uri(out.getvalue(), "image/png")


def trace(values: np.ndarray, points: int = 120) -> str:
    """A sequence that is no image, as the points of an SVG polyline in a box of 120 by 60: the mean of its channels.

    values: float [T, C].
    """
    line = values.astype(np.float32).mean(1)
    line = line[np.linspace(0, len(line) - 1, min(points, len(line))).astype(int)]
    spread = float(line.max() - line.min()) or 1.0
    y = 57 - 54 * (line - line.min()) / spread
    x = np.linspace(1, 119, len(line))
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
