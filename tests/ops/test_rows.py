"""SwiGLU and the norm with its residual against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from lt25.ops import add_rms_norm, swiglu


def test_are_what_torch_calls_them():
    x, residual, weight = torch.randn(3, 5, 16), torch.randn(3, 5, 16), torch.randn(16)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(swiglu(x), F.silu(gate) * up)
    normed, total = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(normed, F.rms_norm(total, (16,), weight, 1e-6))


def test_without_a_residual_the_sum_is_x():
    """And gradients of both results reach it."""
    x, weight = torch.randn(3, 16, requires_grad=True), torch.ones(16)
    normed, total = add_rms_norm(x, None, weight, 1e-6)
    assert torch.equal(total, x)
    torch.testing.assert_close(normed, F.rms_norm(x, (16,), None, 1e-6))
    (found,) = torch.autograd.grad(normed.sin().sum() + total.square().sum(), x)
    (expected,) = torch.autograd.grad(F.rms_norm(x, (16,), None, 1e-6).sin().sum() + x.square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_the_residual_stream_keeps_its_precision():
    x, residual = torch.randn(3, 16).bfloat16(), torch.randn(3, 16)
    normed, total = add_rms_norm(x, residual, torch.ones(16), 1e-6)
    assert normed.dtype == torch.bfloat16 and torch.equal(total, x + residual)


def test_extreme_gates():
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    y = swiglu(torch.stack((gate, torch.ones(5)), -1)).flatten()
    torch.testing.assert_close(y, torch.tensor([0.0, 0.0, 0.0, 100.0, 1e4]))
    (slope,) = torch.autograd.grad(y.sum(), gate)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_nothing_to_do():
    assert swiglu(torch.empty(0, 5, 8)).shape == (0, 5, 4)
    assert add_rms_norm(torch.empty(0, 8), torch.empty(0, 8), torch.ones(8), 1e-6)[0].shape == (0, 8)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"gate_up must be \[..., 2 I\], got \(3, 5\)"):
        swiglu(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"got \(3, 4\), None and \(5,\)"):
        add_rms_norm(torch.zeros(3, 4), None, torch.ones(5), 1e-6)
    with pytest.raises(ValueError, match=r"got \(3, 4\), \(4,\) and \(4,\)"):
        add_rms_norm(torch.zeros(3, 4), torch.zeros(4), torch.ones(4), 1e-6)
