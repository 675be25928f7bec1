"""Products of several weights at once."""

import pytest
import torch
from torch import nn

from lt25.ops import linear
from lt25.ops.backends import joined


def weights_in_a_row(count=3, rows=16, columns=8):
    return [part.view(rows, columns) for part in torch.randn(count * rows * columns).split(rows * columns)]


def test_weights_in_a_row_are_not_copied():
    weights = weights_in_a_row()
    assert joined(weights).data_ptr() == weights[0].data_ptr()
    assert torch.equal(joined(weights), torch.cat(weights))


def test_other_weights_are_copied():
    first, second, third = weights_in_a_row()
    for weights in ([first, third], [second, first], [first, first], [first, second.clone()], [first.T, second.T]):
        found = joined(weights)
        assert torch.equal(found, torch.cat(weights))
        assert found.data_ptr() not in {weight.data_ptr() for weight in weights}


@pytest.mark.parametrize("shape", [(2, 5), (4,), (), (0,)])
def test_a_joint_product_is_that_of_each(shape):
    weights = [weight.requires_grad_() for weight in weights_in_a_row()]
    x = torch.randn(*shape, 8, requires_grad=True)
    torch.library.opcheck(linear._joint.registered, (x, weights))
    y = linear._joint(x, weights)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, *weights], grad)
    expected = torch.autograd.grad(
        torch.cat([nn.functional.linear(x, each) for each in weights], -1), [x, *weights], grad
    )
    torch.testing.assert_close(found, expected)
