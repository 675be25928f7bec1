"""The CTC kernels for CUDA, run by Triton's interpreter; collected by test_triton_ctc.py, in a process of its own."""

from tests.ops import interpret  # isort: skip

from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings

from lt25.ops import ctc as operator
from lt25.ops.backends import triton_ctc

__all__ = ["interpret"]
INFINITY = float("inf")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True, scope="module")
def empty_tensors_are_full_of_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pad(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [-100] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(
        len(rows), width
    )


def of_kernels(logits, lengths, labels, blank, upstream=1.0):
    loss, *saved = triton_ctc.forward(logits, lengths, labels, blank, True)
    return loss, triton_ctc.backward(torch.tensor(upstream), logits, labels, blank, *saved)


def of_torch(logits, lengths, labels, blank):
    logits = logits.double().requires_grad_()
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    counts = (labels >= 0).sum(1)
    loss = F.ctc_loss(log_probs, labels.clamp_min(0), lengths, counts, blank=blank, reduction="sum", zero_infinity=True)
    loss.backward()
    return loss.detach(), logits.grad


@st.composite
def problems(draw):
    V, T = draw(st.integers(2, 6)), draw(st.integers(1, 7))
    blank = draw(st.integers(0, V - 1))
    # Few classes, so that labels repeat; the longest rows do not fit into T.
    label = st.sampled_from([v for v in range(V) if v != blank])
    rows = draw(st.lists(st.lists(label, max_size=T // 2 + 1), min_size=1, max_size=3))
    lengths = [draw(st.integers(0, T)) for _ in rows]
    threads = draw(st.sampled_from([4, 32]))
    return T, V, blank, rows, lengths, draw(st.sampled_from([1.0, 30.0, 1e4])), draw(st.integers(0, 99)), threads


@settings(max_examples=8, deadline=None, derandomize=True)
@given(problems())
# Three slots to a thread, and as many repeated labels as fit; then several tiles of slots and of the vocabulary.
@example((16, 5, 4, [[0, 1, 1, 2] * 2 + [2, 2, 3], []], [16, 3], 3.0, 0, 4))
@example((3, 260, 0, [[259, 1] * 130, [200, 128]], [3, 2], 1.0, 0, 128))
def test_loss_and_gradient_are_those_of_torch(problem):
    T, V, blank, rows, lengths, scale, seed, threads = problem
    logits = scale * torch.randn(len(rows), T, V, generator=torch.Generator().manual_seed(seed))
    arguments = (torch.tensor(lengths), pad(rows), blank)
    expected_loss, expected = of_torch(logits, *arguments)
    with mock.patch.object(triton_ctc, "threads", lambda L: threads):
        loss, gradient = of_kernels(logits, *arguments)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=1e-5)
    # Logits in the thousands have so coarse a float32 that the softmax itself is known to fewer digits.
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-3 if scale > 1e3 else 5e-6)


def test_gradient_has_the_dtype_of_the_logits_and_follows_the_upstream_gradient():
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    arguments = (torch.tensor([6, 4]), pad([[1, 2], [3]]), 0)
    gradient = of_kernels(logits, *arguments, upstream=-3.0)[1]
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), -3 * of_torch(logits, *arguments)[1], rtol=2**-7, atol=1e-6)


def test_states_far_less_likely_than_others_are_not_lost():
    """For 8 frames, paths that end nowhere are 2**1000 times as likely as the only ones that end in the labels."""
    logits = torch.zeros(1, 15, 4)
    logits[0, :8, 1] = 100.0
    logits[0, 8:, 1:3] = -100.0
    arguments = (torch.tensor([15]), pad([[2, 3, 1, 2, 3]]), 0)
    expected_loss, expected = of_torch(logits, *arguments)
    loss, gradient = of_kernels(logits, *arguments)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=2e-5)


def test_classes_without_probability():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    logits[0, 2, 1] = -INFINITY
    logits[1, :, 2] = -INFINITY
    loss, gradient = of_kernels(logits, torch.tensor([5, 5]), pad([[1], [2]]), 0)
    torch.testing.assert_close(loss, of_torch(logits, torch.tensor([5, 5]), pad([[1], [2]]), 0)[0].float())
    assert gradient.isfinite().all() and gradient[0, 2, 1] == 0 and gradient[0].any()
    assert not gradient[1].any(), "a label that no frame can be is impossible"


@pytest.mark.parametrize("value", [float("nan"), INFINITY])
def test_what_is_not_a_number_stays_one(value):
    logits = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    logits[0, 2, 1] = value
    logits[1, 7, 1] = value
    loss, gradient = of_kernels(logits, torch.tensor([9, 7]), pad([[1], [2]]), 0)
    assert loss.isnan() and gradient[0, 2].isnan().all()
    assert gradient[1].isfinite().all(), "the frame is past the end of the second utterance"


@pytest.mark.parametrize("differentiable", [False, True])
def test_shapes_promised_to_the_compiler(differentiable):
    logits, lengths, labels = torch.randn(2, 3, 4), torch.tensor([3, 2]), pad([[1, 1, 2], [3]])
    found = operator._forward(logits, lengths, labels, 0, differentiable)
    promised = operator._forward(logits.to("meta"), lengths.to("meta"), labels.to("meta"), 0, differentiable)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in promised]


def test_registered_gradient():
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    arguments = (torch.tensor([6, 4]), pad([[1, 2], [3]]), 0)
    (2 * operator._forward(logits, *arguments, True)[0]).backward()
    torch.testing.assert_close(logits.grad.double(), 2 * of_torch(logits.detach(), *arguments)[1], rtol=0, atol=1e-5)
