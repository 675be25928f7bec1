"""The short convolutions against torch's own."""

import itertools

import pytest
import torch

from lt25.ops import short_conv
from tests.models.restatement import causal_convolution


def test_is_a_depthwise_convolution_of_i_and_f():
    ifg, weight = torch.randn(2, 9, 18), torch.randn(12, 4)
    found = short_conv(ifg, weight)
    torch.testing.assert_close(found[..., :12], causal_convolution(ifg[..., :12], weight[:, None]))
    assert torch.equal(found[..., 12:], ifg[..., 12:])


def test_half_of_the_channels_may_look_ahead():
    ifg, weight = torch.randn(2, 9, 18), torch.randn(12, 4)
    found = short_conv(ifg, weight, bidirectional=True)
    backward = causal_convolution(ifg[..., :12].flip(1), weight[:, None]).flip(1)
    forward = causal_convolution(ifg[..., :12], weight[:, None])
    parts = (forward[..., :3], backward[..., 3:6], forward[..., 6:9], backward[..., 9:])
    torch.testing.assert_close(found[..., :12], torch.cat(parts, -1))


@pytest.mark.parametrize(
    ("mask", "cu_seqlens"),
    [(torch.arange(9)[None] < 7, None), (None, torch.tensor([0, 3, 4, 9]))],
    ids=["padded", "packed"],
)
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_all_channels_may_look_ahead(mask, cu_seqlens, backend):
    ifg, weight = torch.randn(1, 9, 24), torch.randn(16, 4)
    expected = short_conv(ifg, weight, mask, cu_seqlens, bidirectional=True)
    found = short_conv(ifg, weight, mask, cu_seqlens, reverse=True, backend=backend)
    # The halves of i and of f that read later steps.
    for half in (slice(4, 8), slice(12, 16)):
        torch.testing.assert_close(found[..., half], expected[..., half])


@pytest.mark.parametrize("size", [1, 4, 5, 29])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_kernels_of_any_size_agree_with_the_reference(size, bidirectional, masked):
    ifg, weight = torch.randn(2, 150, 24, dtype=torch.float64), torch.randn(16, size, dtype=torch.float64)
    mask = torch.rand(2, 150) < 0.8 if masked else None
    grad, found = torch.randn_like(ifg), {}
    for backend in ("numba", "reference"):
        inputs = [tensor.clone().requires_grad_() for tensor in (ifg, weight)]
        y = short_conv(*inputs, mask, None, bidirectional, backend=backend)
        # What is computed of padding is of no account.
        y = y if mask is None else y * mask[..., None]
        found[backend] = y, *torch.autograd.grad(y, inputs, grad)
    torch.testing.assert_close(found["numba"], found["reference"])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_convolved_one_by_one(bidirectional):
    lengths = (70, 0, 1, 2, 90)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    ifg, weight = torch.randn(1, sum(lengths), 24), torch.randn(16, 4)
    packed = short_conv(ifg, weight, None, cu_seqlens, bidirectional)
    for start, end in itertools.pairwise(cu_seqlens):
        assert torch.equal(packed[:, start:end], short_conv(ifg[:, start:end], weight, bidirectional=bidirectional))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.zeros(15, 4)}, r"weight \[2 D, K\], got \(2, 9, 24\) and \(15, 4\)"),
        ({"mask": torch.ones(9, dtype=torch.bool)}, r"mask must be bool \(2, 9\), got torch.bool \(9,\)"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "needs a batch of 1"),
        ({"ifg": torch.zeros(2, 9, 9), "weight": torch.zeros(6, 4), "bidirectional": True}, "even number of channels"),
        ({"bidirectional": True, "reverse": True}, "not with bidirectional"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        short_conv(**{"ifg": torch.zeros(2, 9, 24), "weight": torch.zeros(16, 4), **arguments})
