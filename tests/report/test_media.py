import base64
import io

import numpy as np
import pytest
from PIL import Image

from lt25.report.media import picture, traces


def decode(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((64, 1), (8, 8), "RGBA"),
        ((28, 28), (28, 28), "RGBA"),
        ((1024, 3), (32, 32), "RGB"),
        ((32, 96), (32, 32), "RGB"),
        ((28, 30), (28, 10), "RGB"),
        ((12, 1), (3, 4), "RGBA"),
    ],
)
def test_sequences_that_were_images(shape, size, mode):
    image = decode(picture(np.random.default_rng(0).normal(size=shape), size))
    assert (image.size, image.mode) == (size[::-1], mode)


def test_pixels_keep_their_places():
    values = np.zeros((16, 1))
    values[4 * 2 + 3] = 1.0
    image = decode(picture(values, (4, 4)))
    assert [(x, y) for y in range(4) for x in range(4) if image.getpixel((x, y))[3]] == [(3, 2)]


def points_of(line):
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_what_was_no_image_becomes_a_line_a_channel():
    values = np.stack([np.sin(np.arange(50)), np.zeros(50)], 1)
    wave, still = map(points_of, traces(values))
    assert len(wave) == len(still) == 50
    assert min(y for _, y in wave) == 3
    assert max(y for _, y in wave) == 57
    assert len({y for _, y in still}) == 1
    assert [len(line.split()) for line in traces(np.zeros((1, 2)))] == [1, 1]


def test_a_peak_of_a_long_series_is_drawn():
    values = np.zeros((16_000, 1))
    values[12_345] = 1.0
    (line,) = map(points_of, traces(values))
    assert len(line) == 120
    assert [round(x, 1) for x, y in line if y == 3] == [round(1 + 118 * 12_345 / 15_999, 1)]
