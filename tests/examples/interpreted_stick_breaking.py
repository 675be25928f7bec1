"""The kernels of examples/stick_breaking by Triton's interpreter; run by test_stick_breaking.py, in a process of its own."""

from tests.ops import interpret  # isort: skip

import pytest
import torch

from lt25 import plugins
from tests import tiny
from tests.examples.stick_breaking import check

plugins.load(tiny.REPOSITORY, ["examples/stick_breaking"])

from stick_breaking.attention import starts  # noqa: E402
from stick_breaking.kernels import attend  # noqa: E402

__all__ = ["interpret"]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def attention(q, k, v, cu_seqlens):
    return attend(q, k, v, starts(q.shape[1], cu_seqlens, q.device), cu_seqlens)


@pytest.mark.parametrize(
    ("steps", "bounds"), [(2, None), (70, None), (101, [0, 3, 3, 40, 100, 101]), (64, [0, 64])], ids=str
)
def test_equals_the_definition(steps, bounds):
    check(attention, "cpu", torch.float32, steps, bounds, 2e-5)
