"""Arrays and lists of numbers as sequences of vectors. NumPy only."""

import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

FARTHEST = 1e18
"""The most standard deviations that a value may lie from train's mean: a model squares them in float32."""


def decode_array(data: bytes) -> np.ndarray:
    """Decode a NumPy file, ``.npy`` or an ``.npz`` of one array, of numbers; nothing in it is executed.

    Raises:
        ValueError: if the bytes are no such file, or say that more follows than does.
    """
    if data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = archive.namelist()
                if len(names) != 1:
                    raise ValueError(f"an .npz of {len(names)} arrays, expected one: {', '.join(names[:5])}")
                if archive.getinfo(names[0]).file_size > 1 << 30:
                    raise ValueError("an array of more than a gigabyte")
                data = archive.read(names[0])
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"no readable .npz file ({error})") from None
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    # NumPy parses the header as Python, and what is wrong with it is of many kinds.
    except Exception as error:
        raise ValueError(f"no readable .npy file ({str(error).splitlines()[0] if str(error) else error!r})") from None
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}, expected numbers")
    body = data[file.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"an array of {len(body)} bytes that says to be of shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if by_columns else "C")


def as_series(value: Any, missing: bool = False) -> np.ndarray:
    """Return a list of numbers, or of equally long lists of them, as float64 [T, C]; with ``missing`` some may be none, or NaN.

    Raises:
        ValueError: if it is anything else, or has a number whose square is infinite.
    """
    try:
        series = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        series = np.asarray(0.0)
    series = series[:, None] if series.ndim == 1 else series
    if series.ndim != 2 or not series.size or not ((np.abs(series) < 1e100) | (missing & np.isnan(series))).all():
        raise ValueError("the series is not a list of finite numbers, or of equally long lists of them")
    return series


def normalise_series(
    series: np.ndarray, mean: Sequence[float], std: Sequence[float], missing: bool = False
) -> np.ndarray:
    """Normalise a series [T] or [T, C] to float32 [T, C], or with ``missing`` to [T, 2 C].

    What is missing, NaN, then has the value before it in its channel, or 0, the mean, where there is none; the second half of the
    channels is 1 where the first was measured, and 0 where not.

    The mean is subtracted in float64: of a pressure of 101,325 Pa, float32 would keep no change below a hundredth.

    Raises:
        ValueError: if a value lies `FARTHEST` deviations from the mean, or farther.
    """
    series = np.asarray(series, np.float64)
    series = series[:, None] if series.ndim == 1 else series
    normalised = (series - np.asarray(mean, np.float64)) / np.asarray(std, np.float64)
    if (far := np.abs(normalised) >= FARTHEST).any():
        raise ValueError(f"the value {series[far][0]:g} is too far from the training split's mean to be computed with")
    series = normalised
    if missing:
        known = np.isfinite(series)
        newest = np.maximum.accumulate(np.where(known, np.arange(len(series))[:, None], -1))
        carried = np.take_along_axis(series, newest.clip(0), 0)
        series = np.concatenate((np.where(newest < 0, 0, carried), known), 1)
    return series.astype(np.float32)
