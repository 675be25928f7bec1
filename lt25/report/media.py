"""Pictures and sounds of examples, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

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


def picture(values: np.ndarray, size: Sequence[int]) -> str:
    """An image that is read as a sequence, as PNG.

    values: float [T, C], its pixels or rows, in order. size: its height and width. Brightness runs from the smallest value to the
    largest.
    """
    from PIL import Image

    pixels = values.astype(np.float32).reshape(*size, -1)
    spread = float(pixels.max() - pixels.min()) or 1.0
    bytes_ = np.clip(255 * (pixels - pixels.min()) / spread, 0, 255).astype(np.uint8)
    if bytes_.shape[2] == 1:
        colour = np.broadcast_to(np.array(IMAGE_COLOUR, np.uint8), (*bytes_.shape[:2], 3))
        bytes_ = np.concatenate([colour, bytes_], axis=2)
    out = io.BytesIO()
    Image.fromarray(bytes_).save(out, format="PNG", optimize=True)
    return data_uri(out.getvalue(), "image/png")


def traces(values: np.ndarray, points: int = 120) -> list[str]:
    """Channels of a sequence that is no image, each as the points of an SVG polyline in a box of 120 by 60, on one scale.

    values: float [T, C]. Of more steps than `points` those with the least and the most of each stretch are drawn, so that no peak
    is lost.
    """
    values = values.astype(np.float32)
    steps, low = len(values), float(values.min())
    spread = float(values.max()) - low or 1.0
    stretches = np.array_split(np.arange(steps), min(points // 2, steps)) if steps > points else []
    lines = []
    for line in values.T:
        extremes = [np.sort(at[[line[at].argmin(), line[at].argmax()]]) for at in stretches]
        kept = np.concatenate(extremes) if extremes else np.arange(steps)
        x, y = 1 + 118 * kept / max(steps - 1, 1), 57 - 54 * (line[kept] - low) / spread
        lines.append(" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)))
    return lines
