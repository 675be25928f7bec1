"""Arrays of every kind, sound and hostile, as sequences of numbers."""

import io
import zipfile

import numpy as np
import pytest

from lt25.data.series import decode_array, normalise_series

RAMP = np.arange(12).reshape(3, 4)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array",
    [RAMP, RAMP.astype(">f4"), np.asfortranarray(RAMP.astype(np.float16)), RAMP > 3, np.zeros((0, 2))],
    ids=["int64", "big endian", "by columns", "bool", "empty"],
)
def test_arrays_come_back(array):
    packed = io.BytesIO()
    np.savez_compressed(packed, x=array)
    for data in (npy(array), packed.getvalue()):
        assert np.array_equal(decode_array(data), array)


def lying(shape, dtype="<f8"):
    """Return a .npy file of a hundred bytes of numbers whose header says anything."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(80)


def zipped(*members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lying((10**12,)), "says to be of shape"),
        (lying((11,)), "says to be of shape"),
        (lying((-1, -10)), "says to be of shape"),
        (zipped(("x.npy", lying((10**12,)))), "says to be of shape"),
        (zipped(("x.npy", npy(RAMP)), ("y.npy", npy(RAMP))), "an .npz of 2 arrays, expected one: x.npy, y.npy"),
        (zipped(("x.npy", npy(RAMP)))[:-30], "no readable .npz file"),
        (zipped(), "an .npz of 0 arrays"),
        (npy(np.array([{"a": 1}], object), allow_pickle=True), "an array of object, expected numbers"),
        (npy(np.array(["a"])), "expected numbers"),
        (npy(np.zeros(2, [("a", "<f4")])), "expected numbers"),
        (npy(np.ones(2, complex)), "expected numbers"),
        (b"\x93NUMPY\x01\x00\x46\x00" + b"(" * 70, "no readable .npy file"),
        (b"", "no readable .npy file"),
        (b"\x93NUMPY", "no readable .npy file"),
    ],
)
def test_hostile_arrays_are_one_error(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        decode_array(data)
    assert "\n" not in str(caught.value)


def test_a_value_too_far_from_the_mean_is_refused():
    assert normalise_series([[1e17], [np.nan]], [0.0], [1.0], missing=True).tolist() == [
        [float(np.float32(1e17)), 1],
        [float(np.float32(1e17)), 0],
    ]
    with pytest.raises(ValueError, match=r"the value -1e\+90 is too far from the training split's mean"):
        normalise_series([[1.0, 2.0], [3.0, -1e90]], [0.0, 0.0], [1.0, 1.0])


def test_a_small_change_on_a_large_offset_is_kept():
    pressure = 101_325 + 1e-4 * np.arange(5)
    normalised = normalise_series(pressure, [101_325.0], [1e-4])
    assert normalised.dtype == np.float32 and np.allclose(normalised[:, 0], np.arange(5), atol=1e-3)
