"""Launches of kernels that were launched before, where there is neither a GPU nor Triton's compiler."""

from unittest.mock import patch

import pytest
import torch

from lt25.ops.backends import triton_launch
from lt25.ops.backends.triton_launch import Launch


class Compiled:
    """A kernel that notes what it is launched with."""

    def __init__(self):
        self.launched = []

    def __getitem__(self, grid):
        return lambda *arguments: self.launched.append((grid, arguments))


class Kernel:
    """As much of a function of triton.jit as a launch asks for; it notes what Triton would have to look at."""

    arg_names = ("x", "y", "count", "eps", "WIDTH", "EVEN")

    def __init__(self):
        self.compiled, self.inspected = Compiled(), []

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            self.inspected.append((grid, arguments, constants))
            return self.compiled

        return launch


@pytest.fixture
def kernel():
    """The tensors of a CPU are taken for those of a GPU."""
    with (
        patch.object(triton_launch, "_device", lambda tensor: 0),
        patch.object(torch.cuda, "current_device", return_value=0),
    ):
        yield Kernel()


def test_triton_looks_at_a_launch_once(kernel):
    launch = Launch(kernel, (7,), 30, 0.5, EVEN=True, num_warps=4, WIDTH=16)
    tensors = [torch.zeros(16), torch.zeros(16).half()]
    for _ in range(3):
        launch(*tensors)
    assert kernel.inspected == [((7,), (*tensors, 30, 0.5), {"EVEN": True, "num_warps": 4, "WIDTH": 16})]
    addresses = [each.data_ptr() for each in tensors]
    assert kernel.compiled.launched == [((7, 1, 1), (*addresses, 30, 0.5, 16, True))] * 2


@pytest.mark.parametrize("other", [torch.zeros(16).double(), torch.zeros(17)[1:]], ids=["dtype", "alignment"])
def test_triton_looks_at_tensors_of_another_kind(kernel, other):
    launch, x = Launch(kernel, (7, 2, 3), 30, 0.5, WIDTH=16, EVEN=True), torch.zeros(16)
    for y in (x, other, x):
        launch(x, y)
    assert [arguments[1] is x for _, arguments, _ in kernel.inspected] == [True, False]
    ((grid, arguments),) = kernel.compiled.launched
    assert grid == (7, 2, 3) and arguments[:2] == (x.data_ptr(), x.data_ptr())


def test_no_program_is_launched(kernel):
    Launch(kernel, (3, 0), WIDTH=1, EVEN=True)(torch.zeros(0))
    assert not kernel.inspected


def test_a_launch_is_made_on_the_device_of_its_tensors(kernel):
    with (
        patch.object(torch.cuda, "current_device", side_effect=[1, 0]),
        patch.object(torch.cuda, "device") as device,
    ):
        Launch(kernel, (7,), 30, 0.5, WIDTH=16, EVEN=True)(torch.zeros(16), torch.zeros(16))
    device.assert_called_once_with(0)
    assert len(kernel.inspected) == 1
