"""The losses that differ between training and validation."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lt25.training.losses import classification, speech_recognition
from tests.models import tiny


def test_soft_targets_of_a_classifier() -> None:
    logits, labels, partners = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 0, 0, 1, 1])
    shares = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    hard = F.one_hot(labels, 4) * (1 - shares)[:, None] + F.one_hot(partners, 4) * shares[:, None]
    expected = F.cross_entropy(logits, 0.9 * hard + 0.1 / 4, reduction="sum")
    run = partial(SimpleNamespace, logits=logits)
    torch.testing.assert_close(classification.of_training(run, labels, 0.1, partners, shares), expected)
    plain = classification.of_training(run, labels, 0.0)
    torch.testing.assert_close(plain, classification.loss(logits, labels))
    assert classification.loss(plain, labels) is plain


BATCH = {
    "input_features": torch.randn(4, 12, 8, generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.tensor([[1] * 12, [1] * 9 + [0] * 3] * 2),
}
LABELS = torch.tensor([[1, 2, 3], [4, 5, -100]] * 2)


def plain_ctc(logits, lengths):
    """The sum over the batch, an utterance at a time."""
    losses = [
        F.ctc_loss(
            row[:length].log_softmax(-1), target[target >= 0], length[None], (target >= 0).sum()[None], reduction="sum"
        )
        for row, length, target in zip(logits, lengths, LABELS, strict=True)
    ]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("layers", [2, 3])
def test_the_middle_layer_has_a_ctc_loss_of_the_same_head(layers):
    model = tiny.ctc(num_hidden_layers=layers).train()
    run = partial(model, **BATCH)
    found = speech_recognition.of_training(run, LABELS, intermediate_ctc=0.3)
    output = run(output_hidden_states=True)
    # The input of the second layer is what the first one leaves.
    middle = model.ctc_head(model.model.norm(output.hidden_states[1]))
    last, inner = (plain_ctc(logits, output.logit_lengths) for logits in (output.logits, middle))
    torch.testing.assert_close(found, 0.7 * last + 0.3 * inner)
    assert speech_recognition.loss(found, LABELS) is found

    found.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (0.7 * last + 0.3 * inner).backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-4, rtol=1e-4)


def test_without_further_terms_the_loss_in_training_is_that_of_validation_bit_for_bit():
    model = tiny.ctc().train()
    plain = speech_recognition.loss(speech_recognition.select(model(**BATCH)), LABELS)
    plain.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    found = speech_recognition.of_training(partial(model, **BATCH), LABELS)
    found.backward()
    assert torch.equal(found, plain)
    assert all(torch.equal(*pair) for pair in zip(gradients, (p.grad for p in model.parameters()), strict=True))


def test_two_views_learn_from_each_other():
    model = tiny.ctc(subsampling=2).train()
    output = model(**BATCH)
    found = speech_recognition.of_training(partial(model, **BATCH), LABELS, consistency=0.2)
    views = output.logits.log_softmax(-1).chunk(2)
    apart, learned = torch.zeros(()), torch.zeros(())
    for row, length in enumerate(output.logit_lengths[:2]):
        one, other = (view[row, :length] for view in views)
        for own, target in ((one, other.detach()), (other, one.detach())):
            apart = apart + F.kl_div(own, target, reduction="sum", log_target=True)
            learned = learned + F.cross_entropy(own.exp().log(), target.exp(), reduction="sum")
    torch.testing.assert_close(found, plain_ctc(output.logits, output.logit_lengths) + 0.2 * apart)
    divergence = speech_recognition.divergence(output.logits, output.logit_lengths)
    wanted = [model.ctc_head.weight, model.model.features.convs[0].weight]
    # With nothing flowing through the targets, the gradient is that of their cross entropies.
    for gradients in zip(
        *(torch.autograd.grad(x, wanted, retain_graph=True) for x in (divergence, learned)), strict=True
    ):
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_what_lies_past_the_end_of_a_view_does_not_count():
    logits, lengths = torch.randn(4, 5, 7), torch.tensor([5, 3, 5, 3])
    before = speech_recognition.divergence(logits, lengths)
    changed = logits.clone()
    changed[1, 3:], changed[3, 3:] = 1e4, -1e4
    assert torch.equal(speech_recognition.divergence(changed, lengths), before) and before > 0
    same = logits[:2].repeat(2, 1, 1)
    assert speech_recognition.divergence(same, lengths) == 0
