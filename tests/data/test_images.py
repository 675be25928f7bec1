"""Images of every kind, sound and hostile."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from lt25.data.images import ImageError, TooLarge, decode_image, image_facts


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


RAMP = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        ((RAMP * 300).astype(np.uint16), "PNG"),
        ((RAMP * 5000 + 9).astype(np.uint16), "TIFF"),
        ((RAMP * 10**6 - 5).astype(np.int32), "TIFF"),
        ((RAMP / 7).astype(np.float32), "TIFF"),
    ],
)
def test_images_of_many_bits_are_scaled_by_their_range(array, kind):
    data = encoded(Image.fromarray(array), kind)
    facts = image_facts(data)
    assert facts.range == (array.min(), array.max()) and facts.grey and facts.size == (3, 4)
    ranges = {facts.depth: facts.range}
    pixels = decode_image(data, ranges=ranges)
    assert pixels.dtype == np.float32 and pixels.shape == (3, 4, 1)
    assert np.allclose(pixels[:, :, 0], 255 * RAMP / 11, atol=1e-3)
    # What is brighter than anything in train stays brighter.
    assert decode_image(data, ranges={facts.depth: (0, array.max() / 2)}).max() > 500
    assert decode_image(data, 3, ranges=ranges).shape == (3, 4, 3)
    assert decode_image(data, size=(6, 8), ranges=ranges).shape == (6, 8, 1)


def test_without_a_range_sixteen_bits_have_that_of_their_type_and_others_are_refused():
    assert decode_image(encoded(Image.fromarray(np.full((1, 1), 65535, np.uint16)))).tolist() == [[[255.0]]]
    with pytest.raises(ImageError, match="whose range of values is not known"):
        decode_image(encoded(Image.fromarray(np.ones((1, 1), np.float32)), "TIFF"))
    with pytest.raises(ImageError, match="not finite"):
        image_facts(encoded(Image.fromarray(np.full((1, 1), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1-bit palette"])
def test_what_is_transparent_is_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 10, 10, 255))
    if mode == "LA":
        image = image.convert("LA")
    elif mode != "RGBA":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.putpixel((1, 0), 1)
    data = encoded(image, **({} if mode in ("RGBA", "LA") else {"transparency": 0}))
    assert image_facts(data).transparent
    assert decode_image(data)[0].mean(1).tolist() == [255, 10]


def test_a_photograph_is_turned_as_the_camera_noted():
    image, exif = Image.fromarray(np.array([[0, 250]], np.uint8).repeat(8, 0).repeat(8, 1)), Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right
    data = encoded(image, "JPEG", exif=exif)
    assert image_facts(data).size == (16, 8)
    pixels = decode_image(data)[:, :, 0]
    assert pixels.shape == (16, 8) and pixels[:8].max() < 50 and pixels[8:].min() > 200


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "1", "P", "HSV", "LAB"])
def test_other_modes_are_read(mode):
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "1": "PNG", "P": "GIF", "HSV": "TIFF", "LAB": "TIFF"}[mode]
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    image = image.convert(mode) if mode != "LAB" else Image.new("LAB", (4, 4))
    assert decode_image(encoded(image if mode != "HSV" else image.convert("RGB"), kind), 3).shape == (4, 4, 3)


def test_large_photographs_are_brought_to_a_size_as_small_ones_are():
    smooth = np.add.outer(np.arange(600), np.arange(800)).astype(np.float32) / 1400 * 255
    data = encoded(Image.fromarray(smooth.astype(np.uint8)), "JPEG", quality=95)
    small = decode_image(data, size=(6, 8))[:, :, 0].astype(float)
    assert np.allclose(small, np.add.outer(np.arange(50, 600, 100), np.arange(50, 800, 100)) / 1400 * 255, atol=4)


def bomb(width, height):
    """Return a PNG of a few kilobytes that says to be of any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10**6), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("look", [image_facts, decode_image])
def test_a_bomb_is_refused_before_memory_is_taken(size, look):
    tracemalloc.start()
    with pytest.raises(TooLarge, match="pixels") as caught:
        look(bomb(*size))
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_images_are_one_error(kind):
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)), kind)
    for _ in range(60):
        bad = bytearray(data)
        for place in rng.integers(0, len(bad), 3):
            bad[place] = rng.integers(256)
        for damaged in (bytes(bad), bytes(bad[: rng.integers(len(bad))])):
            for look in (image_facts, decode_image):
                try:
                    look(damaged)
                except ImageError as error:
                    assert "\n" not in str(error)
