"""Dropout: which elements, how many, and the same ones in the backward pass."""

import pytest
import torch

from lt25.ops import dropout
from tests.ops.compare import TOLERANCE

SEED = torch.tensor(0x123456789ABCDEF)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 70, 41)], ids=str)
def test_equals_the_reference(shape, dtype):
    x, upstream = torch.randn(shape, dtype=torch.float64).to(dtype), torch.randn(shape).to(dtype)
    outcomes = []
    for backend in ("numba", "reference"):
        leaf = x.clone().requires_grad_()
        y = dropout(leaf, 0.3, SEED, backend)
        outcomes.append((y, *torch.autograd.grad(y, leaf, upstream)))
    for found, expected in zip(*outcomes, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found == 0, expected == 0)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_drops_as_many_as_it_should_independently_of_place_and_seed(p):
    """Within five standard deviations: of each row and column, of neighbours alike, and of two seeds."""
    kept = [dropout(torch.ones(512, 1024), p, SEED + n) > 0 for n in (0, 1, 2**32)]
    for axis, count in ((0, 512), (1, 1024)):
        shares = kept[0].double().mean(axis)
        assert (shares - (1 - p)).abs().max() <= 5 * (p * (1 - p) / count) ** 0.5
    pairs = [(kept[0], kept[1]), (kept[0], kept[2]), (kept[0][:, 1:], kept[0][:, :-1]), (kept[0][1:], kept[0][:-1])]
    q = (1 - p) ** 2
    for a, b in pairs:
        assert abs((a & b).double().mean() - q) <= 5 * (q * (1 - q) / a.numel()) ** 0.5 + 1e-12


def test_the_seed_comes_from_the_default_generator_and_threads_do_not_count():
    x, before, found = torch.randn(3, 5000), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        found.append((dropout(x, 0.5), dropout(x, 0.5)))
    torch.set_num_threads(before)
    assert not torch.equal(*found[0])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_compiles_and_keeps_nan():
    x = torch.randn(4, 6, requires_grad=True)
    compiled = torch.compile(lambda x: dropout(x * 2, 0.5, SEED), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), dropout(x * 2, 0.5, SEED))
    assert torch.equal(
        *(torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, lambda x: dropout(x * 2, 0.5, SEED)))
    )
    assert dropout(torch.full((100,), torch.nan), 0.5).isnan().all()
    torch.library.opcheck(torch.ops.lt25.dropout.default, (x, 0.5, SEED, "numba"))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\), got 1.0"):
        dropout(torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="dropout: unknown backend 'cudnn'"):
        dropout(torch.ones(3), 0.5, backend="cudnn")
