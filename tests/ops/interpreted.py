"""The Triton kernels on a CPU, by Triton's interpreter; collected by test_triton.py, in a process of its own."""

from tests.ops import interpret  # isort: skip

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops import compare
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
