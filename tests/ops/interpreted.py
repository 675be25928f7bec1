"""The Triton kernels on a CPU, by Triton's interpreter; collected by test_triton.py, in a process of its own."""

from tests.ops import interpret  # isort: skip

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lt25.ops.backends import triton_products, triton_scan
from lt25.ops.backends.triton_products import Cut
from tests.ops import compare, products
from tests.ops.compare import CASES, Sizes

__all__ = ["interpret"]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True, scope="module")
def empty_tensors_are_full_of_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("operator", CASES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_equals_the_reference(operator, data, dtype):
    case = CASES[operator](lambda low, high: data.draw(st.integers(low, high)), Sizes(3, 12, 20))
    compare.check(case, "triton", dtype)


@pytest.mark.parametrize("operator", ["hgrn_scan", "hgrn_mix"])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_time_cut_into_segments_equals_the_reference(operator, data):
    case = CASES[operator](lambda low, high: data.draw(st.integers(low, high)), Sizes(2, 16, 20))
    with patch.object(triton_scan, "_plan", lambda *_: triton_scan.Plan(rows=2, warps=2, channels=32, segments=3)):
        compare.check(case, "triton", torch.float32)


def test_gates_that_keep_everything_are_walked_twice():
    """No segment's state becomes equal to the one that started from zero: all that a repair can have to do."""
    x = torch.randn(1, 40, 20)
    with patch.object(triton_scan, "_plan", lambda *_: triton_scan.Plan(rows=2, warps=2, channels=32, segments=4)):
        h, final = triton_scan.forward(x, torch.zeros_like(x), None, None, False)
    torch.testing.assert_close(h, x.cumsum(1))
    torch.testing.assert_close(final, x.sum(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 75])
@pytest.mark.parametrize(
    "cut",
    [
        Cut(16, 32, 16, warps=4, stages=2),
        Cut(16, 32, 64, 4, 2, programs=1),
        Cut(16, 16, 64, 4, 2, 1),
    ],
    ids=["tiles", "walk", "walk of narrow columns"],
)
def test_products_with_swiglu(cut, rows, dtype):
    """No size is a multiple of a tile's; two programs walk over the rows, or fewer, where there are not so many."""
    with (
        patch.object(triton_products, "forward_cut", lambda _: cut),
        patch.object(triton_products, "backward_cut", lambda _: cut),
        patch.object(triton_products, "_PROCESSORS", 6),
    ):
        products.check(rows, 48, 80, dtype, seed=rows)
