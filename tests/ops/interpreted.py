"""The Triton kernels on a CPU, by Triton's interpreter; collected by test_triton.py, in a process of its own."""

from tests.ops import interpret  # isort: skip

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lt25.ops import add_norm_linear, causal, gated_mlp, hgrn_mix, mlp, short_conv
from lt25.ops.backends import (
    numba_mix,
    triton_causal,
    triton_conv,
    triton_cross_entropy,
    triton_mlp,
    triton_products,
    triton_row,
    triton_scan,
    triton_selective,
    triton_summary,
    triton_token,
)
from lt25.ops.backends.triton_products import Cut
from tests.ops import compare, products
from tests.ops.compare import CASES, COMPOSED, Sizes

__all__ = ["interpret"]

MLP = ("x", "gate_weight", "up_weight", "down_weight")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True, scope="module")
def empty_tensors_are_full_of_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@contextmanager
def cut(module: ModuleType, **sizes: Any) -> Iterator[None]:
    """Other sizes of a module of kernels, whose launches are settled anew."""
    with ExitStack() as stack:
        stack.callback(_forget, module)
        stack.enter_context(patch.multiple(module, **sizes))
        _forget(module)
        yield


def _forget(module: ModuleType) -> None:
    for each in vars(module).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


@pytest.mark.parametrize("operator", COMPOSED)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_equals_the_reference(operator, data, dtype):
    case = COMPOSED[operator](lambda low, high: data.draw(st.integers(low, high)), Sizes(3, 12, 20))
    compare.check(case, "triton", dtype)


@pytest.mark.parametrize("operator", ["hgrn_scan", "hgrn_mix"])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_time_cut_into_segments_equals_the_reference(operator, data):
    case = CASES[operator](lambda low, high: data.draw(st.integers(low, high)), Sizes(2, 16, 20))
    with patch.object(triton_scan, "_plan", lambda *_: triton_scan.Plan(rows=2, warps=2, channels=32, segments=3)):
        compare.check(case, "triton", torch.float32)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_selective_scan_over_several_tiles_equals_the_reference(data):
    case = compare.selective_case(lambda low, high: data.draw(st.integers(low, high)), Sizes(2, 50, 20))
    with cut(triton_selective, _TILE=16):
        compare.check(case, "triton", torch.float32)


def test_selective_scan_by_programs_that_take_several_sequences():
    """Of several tiles, which begin and end within one of the whole, and of none."""
    case = compare.selective_case(lambda _, high: high, Sizes(1, 55, 5))
    case = case._replace(options={"cu_seqlens": torch.tensor([0, 0, 30, 30, 35, 55, 55])})
    with cut(triton_selective, _TILE=16, _PROGRAMS=2):
        compare.check(case, "triton", torch.float32)


def test_convolution_over_many_steps_whose_programs_read_one_way_each():
    """As with a hidden size of 128, where 64 channels of a program are half of those of i or f."""
    tensors = {"ifg": torch.randn(2, 21, 48).double(), "weight": torch.randn(32, 9).double()}
    case = compare.Case(short_conv, tensors, {"bidirectional": True})
    with cut(triton_conv, _CHANNELS=8):
        compare.check(case, "triton", torch.float32)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_causal_convolution_over_several_runs_equals_the_reference(data):
    """Of several programs, whose runs begin and end within sequences, with as many lags as a run has steps or more."""
    case = compare.causal_case(lambda low, high: data.draw(st.integers(low, high)), Sizes(2, 20, 40))
    small = triton_causal.Cut(warps=2, channels=16, run=4, chunk=2)
    with cut(triton_causal, FORWARD=small, BACKWARD=small):
        compare.check(case, "triton", torch.float32)


@pytest.mark.parametrize("packed", [False, True])
def test_causal_convolution_keeps_torchs_rules(packed):
    x, weight = (torch.randn(size, requires_grad=True) for size in ((1, 9, 24), (16, 4)))
    bias, bounds = (None, torch.tensor([0, 4, 4, 9])) if packed else (torch.randn(16, requires_grad=True), None)
    torch.library.opcheck(causal._forward.registered, (x[..., 8:], weight, bias, bounds, True))


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("kind", ["whole", "masked", "packed"])
def test_a_sequence_is_reduced_to_one_map(kind, ways):
    """As numba reduces it, in one segment of time and in several."""
    random = torch.Generator().manual_seed(0)
    batch, time, channels = (1 if kind == "packed" else 2), 75, 2 * 35
    ifg, bound = torch.randn(batch, time, 3 * channels, generator=random), torch.rand(channels, generator=random)
    ifg[..., channels : 2 * channels] += 3
    mask = torch.rand(batch, time, generator=random) > 0.3 if kind == "masked" else None
    inner = torch.tensor([9, 70]) if kind == "packed" else None
    expected = numba_mix.summarise(ifg, bound, mask, inner, ways == 2)
    for segment in (512, 20):
        with cut(triton_summary, _SEGMENT=segment):
            found = triton_summary.summarise(ifg, bound, mask, inner, ways == 2)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


def test_gates_that_keep_everything_are_walked_twice():
    """No segment's state becomes equal to the one that started from zero: all that a repair can have to do."""
    x = torch.randn(1, 40, 20)
    with patch.object(triton_scan, "_plan", lambda *_: triton_scan.Plan(rows=2, warps=2, channels=32, segments=4)):
        h, final = triton_scan.forward(x, torch.zeros_like(x), None, None, False)
    torch.testing.assert_close(h, x.cumsum(1))
    torch.testing.assert_close(final, x.sum(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("classes", [37, 128])
def test_cross_entropy_of_rows(dtype, z_loss, classes):
    """In several blocks of columns, the last of them not full, of ordinary and of large logits."""
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(5, classes, generator=random) * torch.tensor([1.0, 1, 30, 1, 1e4])[:, None]).to(dtype)
    labels = torch.tensor([0, -100, 30, 36, 5])
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, labels, reduction="none")
    expected = expected + z_loss * exact.logsumexp(-1).square() * (labels != -100)
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    losses, kept = torch.empty(5), logits.clone()
    with cut(triton_cross_entropy, _BLOCK=16):
        triton_cross_entropy.rows(kept, labels, z_loss, losses, False)
        assert torch.equal(kept, logits)
        torch.testing.assert_close(losses.double(), expected.detach(), rtol=2e-6, atol=2e-6)
        triton_cross_entropy.rows(logits, labels, z_loss, losses, True)
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=2e-6, atol=2e-6)
    # The exponent of a large logit is known to fewer digits.
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(logits[:3].double(), gradient[:3], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(logits[3:].double(), gradient[3:], rtol=tolerance, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 75])
@pytest.mark.parametrize("columns", [16, 32])
def test_products_with_swiglu(columns, rows, dtype):
    """No size is a multiple of a tile's; two programs walk over the rows, or fewer, where there are not so many."""
    cut = Cut(16, columns, warps=4, stages=2)
    with (
        patch.multiple(triton_products, FORWARD=cut, BACKWARD=cut, _STEP=16),
        patch.object(triton_products, "_PROCESSORS", 6),
    ):
        products.check(rows, 48, 80, dtype, seed=rows)


def mlp_arguments(rows, hidden, width, dtype):
    """Leaves: x, and the weights."""
    shapes = (rows, hidden), (width, hidden), (width, hidden), (hidden, width)
    return [(torch.randn(shape) / shape[-1] ** 0.5).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(
    ("hidden", "width", "dtype", "fused"),
    [
        (16, 16, torch.bfloat16, True),
        (48, 80, torch.float16, True),
        (80, 16, torch.bfloat16, False),
        (24, 16, torch.bfloat16, False),
        (16, 24, torch.bfloat16, False),
        (16, 16, torch.float32, False),
    ],
)
def test_which_mlps_are_fused(hidden, width, dtype, fused):
    arguments = mlp_arguments(3, hidden, width, dtype)
    with patch.object(triton_mlp, "forward", wraps=triton_mlp.forward) as kernel:
        y = gated_mlp(*arguments, backend="triton")
    assert kernel.called == fused
    torch.testing.assert_close(y, gated_mlp(*arguments, backend="reference"), atol=3e-2, rtol=3e-2)


def test_generation_computes_its_row_in_kernels_of_its_own():
    """Several programs to a weight, the last of them not full, several warps to one; with gradients nothing is fused."""

    def largest(low, high):
        return 1 if (low, high) in ((0, 3), (1, 2)) else high

    norm, weights = torch.randn(24), [torch.randn(40, 24)] * 2
    names = ["norm_product", "mixer_step", "mlp_step"]
    with ExitStack() as stack:
        stack.enter_context(cut(triton_row, _WARP=256, _PROGRAMS=4))
        kernels = [stack.enter_context(patch.object(triton_row, n, wraps=getattr(triton_row, n))) for n in names]
        compare.check(compare.mixer_step_case(largest, Sizes(1, 1, 24)), "triton", torch.float32)
        compare.check(compare.mlp_step_case(largest, Sizes(1, 1, 70)), "triton", torch.float32)
        add_norm_linear(torch.randn(1, 24), None, norm, 1e-6, weights, backend="triton")
        assert all(kernel.called for kernel in kernels)
        kernels[0].reset_mock()
        add_norm_linear(torch.randn(1, 24, requires_grad=True), None, norm, 1e-6, weights, backend="triton")
        assert not kernels[0].called


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 37, 64])
def test_argmax_is_the_first_of_the_largest(classes, dtype):
    """In several blocks, the last of them not full; of numbers of which many are equal, and of a row of -inf."""
    x = torch.randint(-4, 4, (5, classes)).to(dtype)
    x[3] = -torch.inf
    with cut(triton_token, _BLOCK=16):
        found = triton_token.argmax(x)
    assert found.tolist() == [[row.index(max(row))] for row in x.tolist()]


def test_embedding_of_a_token():
    """Of one that there is not nothing is read."""
    weight = torch.randn(5, 20)
    for token in (0, 4):
        assert torch.equal(triton_token.embedding(torch.tensor([[token]]), weight), weight[None, None, token])
    assert triton_token.embedding(torch.tensor([[5]]), weight).isnan().all()


def test_fused_mlp_over_many_rows():
    """Each program of the backward pass goes through several tiles, the last of them not full."""
    tensors = [each.detach() for each in mlp_arguments(301, 16, 80, torch.float64)]
    case = compare.Case(gated_mlp, dict(zip(MLP, tensors, strict=True)), {})
    with cut(triton_mlp, PROGRAMS=4):
        compare.check(case, "triton", torch.float16)


def test_fused_mlp_under_autocast_is_as_linear():
    """Of any arguments it makes autocast's dtype, and hands each its own dtype back."""
    arguments = mlp_arguments(5, 16, 32, torch.float32)
    arguments[2] = arguments[2].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        results = [gated_mlp(*arguments, backend=backend) for backend in ("triton", "numba")]
    gradients = [torch.autograd.grad(y.float().square().sum(), arguments) for y in results]
    for found, expected in zip((results[0], *gradients[0]), (results[1], *gradients[1]), strict=True):
        torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("rows", [0, 3])
def test_fused_mlp_keeps_torchs_rules(rows):
    torch.library.opcheck(mlp._fused.registered, mlp_arguments(rows, 16, 32, torch.bfloat16))


def test_fused_mlp_compiles_into_one_graph():
    arguments = mlp_arguments(5, 16, 32, torch.float32)

    def run(*arguments):
        with torch.autocast("cpu", torch.bfloat16):
            return gated_mlp(*arguments, backend="triton").float().square().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(run(*arguments), arguments)
    for found, wanted in zip(torch.autograd.grad(compiled(*arguments), arguments), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("hidden", [16, 24])
def test_products_beside_a_norm_compile_into_one_graph(hidden):
    """Fused or not; as a trainer compiles layers."""
    arguments = [torch.randn(*shape).bfloat16().requires_grad_() for shape in ((2, 5, hidden), *[(hidden, hidden)] * 4)]
    weight = torch.ones(hidden, requires_grad=True)

    def run(x, i, f, g, out):
        ifg, total = add_norm_linear(x, None, weight, 1e-6, (i, f, g), backend="triton")
        mixed, _ = hgrn_mix(ifg, weight, 1e-6, out_weight=out, backend="triton")
        return (mixed + gated_mlp(total, i, f, out, backend="triton")).float().square().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(run(*arguments), arguments)
    for found, wanted in zip(torch.autograd.grad(compiled(*arguments), arguments), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
