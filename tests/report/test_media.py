import base64
import io

import numpy as np
import pytest
from PIL import Image

from lt25.report.media import picture, trace


def decode(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((64, 1), (8, 8), "RGBA"),
        ((28, 28), (28, 28), "RGBA"),
        ((1024, 3), (32, 32), "RGB"),
        ((32, 96), (32, 32), "RGB"),
    ],
)
def test_sequences_that_were_images(shape, size, mode):
    image = decode(picture(np.random.default_rng(0).normal(size=shape)))
    assert (image.size, image.mode) == (size, mode)


def test_pixels_keep_their_places():
    values = np.zeros((16, 1))
    values[4 * 2 + 3] = 1.0
    image = decode(picture(values))
    assert [(x, y) for y in range(4) for x in range(4) if image.getpixel((x, y))[3]] == [(3, 2)]


def test_what_was_no_image_becomes_a_line():
    values = np.sin(np.arange(50))[:, None]
    assert picture(values) is None
    assert picture(np.zeros((50, 7))) is None
    points = [tuple(map(float, point.split(","))) for point in trace(values).split()]
    assert len(points) == 50
    assert min(y for _, y in points) == 3
    assert max(y for _, y in points) == 57
    assert len(trace(np.zeros((1, 2))).split()) == 1
