"""What sees the call of an operator, and what is computed without the dispatcher."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lt25.ops.operator import operator


@operator("lt25_test::scaled_sum")
def scaled_sum(x: Tensor, factor: float, others: Sequence[Tensor]) -> Tensor:
    return factor * (x + sum(others))


@scaled_sum.register_fake
def _(x, factor, others):
    return x.new_empty(x.shape)


@operator("lt25_test::scaled")
def scaled(x: Tensor, factor: float) -> Tensor:
    return factor * x


@scaled.register_fake
def _(x, factor):
    return x.new_empty(x.shape)


def setup_context(ctx, inputs, output):
    _, ctx.factor, others = inputs
    ctx.count = len(others)


def differentiate(ctx, grad):
    grad = scaled(grad, ctx.factor)
    return grad, None, [grad] * ctx.count


scaled_sum.register_autograd(differentiate, setup_context=setup_context)


class Seen(TorchDispatchMode):
    """What the dispatcher is asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def tensors():
    return [torch.randn(3, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("watched", [False, True])
def test_result_and_gradients_of_a_list_are_the_same_watched_or_not(tensors, watched):
    x, *others = tensors
    with Seen() if watched else torch.enable_grad() as seen:
        y = scaled_sum(x, 2.0, others)
        y.sum().backward()
    torch.testing.assert_close(y, 2 * (x + others[0] + others[1]))
    assert all(torch.equal(each.grad, torch.full((3,), 2.0)) for each in tensors)
    if watched:
        assert {"lt25_test.scaled_sum.default", "lt25_test.scaled.default"} <= set(seen.names)


def test_nothing_is_dispatched_where_nobody_looks(tensors, monkeypatch):
    def refuse(*arguments):
        pytest.fail("went through the dispatcher")

    monkeypatch.setattr(scaled_sum, "registered", refuse)
    monkeypatch.setattr(scaled, "registered", refuse)
    x, *others = tensors
    scaled_sum(x, 2.0, others).sum().backward()
    with torch.no_grad():
        assert not scaled_sum(x, 2.0, others).requires_grad


def test_the_compiler_sees_the_operator(tensors):
    found = []

    def backend(graph, inputs):
        found.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    x, *others = tensors
    compiled = torch.compile(lambda *each: scaled_sum(each[0], 2.0, list(each[1:])), backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x, *others), scaled_sum(x, 2.0, others))
    assert any("lt25_test.scaled_sum" in name for name in found)


def test_a_transform_of_torch_func_goes_through_the_dispatcher(tensors, monkeypatch):
    seen = []
    monkeypatch.setattr(scaled, "registered", lambda *arguments: seen.append(arguments) or 2 * arguments[0])
    x = torch.stack(tensors)
    assert torch.equal(torch.func.vmap(lambda each: scaled(each, 2.0))(x), 2 * x)
    assert len(seen) == 1


def test_tensors_without_memory_have_shapes(tensors):
    x, *others = (each.detach().to("meta") for each in tensors)
    assert scaled_sum(x, 2.0, others).shape == (3,)


def test_there_are_no_second_derivatives(tensors):
    """An operator without a gradient of its own must not be taken for a constant."""
    x, *others = tensors
    (gradient,) = torch.autograd.grad(scaled_sum(x * x, 2.0, others).sum(), x, create_graph=True)
    y = scaled(x, 3.0)
    with pytest.raises(RuntimeError):
        y.sum().backward()
    assert gradient.requires_grad
