"""CTC against a sum over all alignments."""

import itertools

import pytest
import torch

from lt25.ops import ctc_loss


def collapse(path, blank):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def enumerate_loss(logits, labels, blank):
    """-log of the summed probability of every path [T] that collapses to the labels."""
    probabilities = logits.double().softmax(-1)
    paths = itertools.product(range(logits.shape[1]), repeat=logits.shape[0])
    total = sum(
        torch.stack([probabilities[t, symbol] for t, symbol in enumerate(path)]).prod()
        for path in paths
        if collapse(path, blank) == labels
    )
    return -torch.as_tensor(total).log()


@pytest.mark.parametrize("blank", [0, 2])
def test_sums_over_all_alignments(blank):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 3)
    targets = [[1, 1], [1], []]
    lengths = [5, 3, 2]
    labels = torch.tensor([[1, 1], [1, -100], [-100, -100]])
    expected = sum(enumerate_loss(logits[n, :length], targets[n], blank) for n, length in enumerate(lengths))
    found = ctc_loss(logits, torch.tensor(lengths), labels, blank)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_and_impossible_targets_have_no_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 4, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([4, 2]), torch.tensor([[1, 2, -100], [1, 1, 1]]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert logits.grad[0, :4].any() and not logits.grad[0, 4:].any()
    assert not logits.grad[1].any(), "three equal labels need five frames, two are there"


def test_half_precision_logits_are_normalised_in_float32():
    logits = torch.randn(1, 4, 3, dtype=torch.bfloat16)
    arguments = (torch.tensor([4]), torch.tensor([[1]]))
    assert torch.equal(ctc_loss(logits, *arguments), ctc_loss(logits.float(), *arguments))


def test_gradcheck():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tensor([4, 3]), torch.tensor([[1, 2], [2, -100]]))
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x, *arguments), logits)
