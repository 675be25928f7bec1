"""A linear layer's cross entropy, in pieces, against the one from whole logits."""

import pytest
import torch
import torch.nn.functional as F

from lt25.ops import cross_entropy, linear_cross_entropy

# Relative to the largest element. In bfloat16 both sides round logits and gradients, in another order.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}


def problem(dtype=torch.float32, rows=(2, 15), width=16, classes=37):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(*rows, width, generator=random).to(dtype).requires_grad_()
    weight = torch.randn(classes, width, generator=random).to(dtype).requires_grad_()
    labels = torch.randint(classes, rows, generator=random)
    labels.view(-1)[::7] = -100
    return hidden, weight, labels


def of_whole_logits(hidden, weight, labels, z_loss):
    logits = (hidden @ weight.T).flatten(0, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(logits, labels.flatten(), reduction="sum")
    return loss + z_loss * (logits.logsumexp(-1).square() * (labels.flatten() != -100)).sum()


def assert_equal(found, expected, dtype):
    scale = expected.detach().abs().max().clamp_min(1e-30)
    torch.testing.assert_close(found / scale, expected / scale, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("pieces", [1, 7])
def test_loss_and_gradients_are_those_of_whole_logits(dtype, z_loss, pieces, monkeypatch):
    hidden, weight, labels = problem(dtype)
    monkeypatch.setattr(cross_entropy, "ON_CPU", -(-30 * 37 // pieces))
    loss, expected = (of(hidden, weight, labels, z_loss) for of in (linear_cross_entropy, of_whole_logits))
    assert loss.dtype == expected.dtype
    assert_equal(loss, expected, dtype)
    # As the trainer divides by the labels of all processes.
    found, wanted = (torch.autograd.grad(each / 13, (hidden, weight)) for each in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert_equal(one, other, dtype)


def test_without_gradients_nothing_is_computed_for_them():
    hidden, weight, labels = problem()
    with torch.no_grad():
        loss, *kept = cross_entropy._forward(hidden.flatten(0, 1), weight, labels.flatten(), 0.0, False)
    torch.testing.assert_close(loss, of_whole_logits(hidden, weight, labels, 0.0))
    assert [each.numel() for each in kept] == [0, 0]


def test_without_labels_loss_and_gradients_are_zero():
    hidden, weight, labels = problem()
    loss = linear_cross_entropy(hidden, weight, labels.fill_(-100), 1e-3)
    loss.backward()
    assert loss == 0 and not hidden.grad.any() and not weight.grad.any()
    assert linear_cross_entropy(hidden[:0], weight, labels[:0]) == 0


def test_under_autocast_it_is_the_loss_of_a_linear_layer_there():
    hidden, weight, labels = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels)
        expected = F.cross_entropy(F.linear(hidden, weight).float().flatten(0, 1), labels.flatten(), reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


def test_torchs_checks_of_an_operator():
    hidden, weight, labels = problem()
    for z_loss in (0.0, 1e-3):
        arguments = hidden.flatten(0, 1), weight, labels.flatten(), z_loss, True
        torch.library.opcheck(
            cross_entropy._forward.registered, arguments, test_utils=("test_schema", "test_faketensor")
        )


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3), (3,)), ((4, 3), (5, 2), (4,)), ((4, 3), (5,), (4,))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    hidden, weight, labels = map(torch.zeros, shapes)
    with pytest.raises(ValueError, match="hidden must be"):
        linear_cross_entropy(hidden, weight, labels.long())
