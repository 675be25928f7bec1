"""The gated MLP against torch's own products."""

import pytest
import torch
import torch.nn.functional as F

from lt25.ops import gated_mlp


def weights(hidden=16, width=24, dtype=torch.float32):
    return [torch.randn(shape).to(dtype) for shape in ((width, hidden), (width, hidden), (hidden, width))]


def test_is_what_torch_calls_it():
    x, (gate, up, down) = torch.randn(3, 5, 16), weights()
    torch.testing.assert_close(
        gated_mlp(x, gate, up, down), F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
    )


def test_under_autocast_the_result_is_autocasts_and_gradients_are_the_arguments():
    arguments = [each.requires_grad_() for each in (torch.randn(3, 16), *weights())]
    with torch.autocast("cpu", torch.bfloat16):
        y = gated_mlp(*arguments)
    gradients = torch.autograd.grad(y.sum(), arguments)
    assert y.dtype == torch.bfloat16 and all(each.dtype == torch.float32 for each in gradients)


def test_nothing_to_do():
    assert gated_mlp(torch.empty(0, 5, 16), *weights()).shape == (0, 5, 16)


def test_wrong_arguments_are_named():
    gate, up, down = weights()
    with pytest.raises(ValueError, match=r"down \[H, I\], got \(3, 8\), \(24, 16\), \(24, 16\), \(16, 24\)"):
        gated_mlp(torch.zeros(3, 8), gate, up, down)
    with pytest.raises(ValueError, match="gate and up"):
        gated_mlp(torch.zeros(3, 16), gate, up, gate)
