"""Every operator's CUDA kernels against the float64 reference: inputs drawn afresh in each run, in poisoned memory."""

import os
import random

import pytest
import torch
import torch.nn.functional as F

from lt25.ops import gated_mlp, hgrn_mix, hgrn_scan, hgrn_step, linear_cross_entropy
from lt25.ops.backends import on_hopper
from tests.ops import compare, products
from tests.ops.compare import COMPOSED, Sizes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

# Of each the largest: what a kernel does with many sequences, long ones, and wide ones.
SIZES = {
    "small": Sizes(4, 40, 70),
    "many": Sizes(40, 200, 40),
    "long": Sizes(2, 3000, 100),
    "wide": Sizes(3, 60, 3000),
}
HALVES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture
def seed():
    """Another one each time; pytest shows it where a test fails."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed = {seed}")
    return seed


def test_freed_memory_is_poisoned():
    compare.poison("cuda")
    # All are allocated before one is looked at: what looking allocates and frees again is no longer NaN.
    given = [torch.empty(size, device="cuda") for size in (10, 1000, 2**20)]
    assert all(tensor.isnan().all() for tensor in given)


@pytest.mark.parametrize("repeat", range(6))
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("operator", COMPOSED)
def test_equals_the_reference(operator, dtype, sizes, repeat, seed):
    case = COMPOSED[operator](random.Random(seed).randint, SIZES[sizes])
    compare.check(case, "triton", dtype, "cuda")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("channels", [64, 1000])
def test_step_by_step_equals_all_at_once(channels, dtype, seed):
    torch.manual_seed(seed)
    ifg = torch.randn(3, 50, 3 * channels, device="cuda").to(dtype)
    weight, bound = torch.randn(channels, device="cuda"), torch.rand(channels, device="cuda")
    state = torch.randn(3, channels, device="cuda")
    expected, last = hgrn_mix(ifg, weight, 1e-6, bound, None, state, output_final_state=True)
    steps = []
    for step in ifg.unbind(1):
        y, state = hgrn_step(step, weight, 1e-6, state, bound)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), expected)
    torch.testing.assert_close(state, last)


def test_both_devices_agree(seed):
    """The kernels of one device against those of the other, at a size where the reference would take minutes."""
    torch.manual_seed(seed)
    x, log_f = torch.randn(2, 20_000, 64), torch.rand(2, 20_000, 64).log()
    on_cuda, _ = hgrn_scan(x.cuda(), log_f.cuda())
    torch.testing.assert_close(on_cuda.cpu(), hgrn_scan(x, log_f)[0], atol=1e-5, rtol=1e-5)
    ifg, weight = torch.randn(2, 20_000, 192), torch.randn(64)
    on_cuda, _ = hgrn_mix(ifg.cuda(), weight.cuda(), 1e-6, bidirectional=True)
    torch.testing.assert_close(on_cuda.cpu(), hgrn_mix(ifg, weight, 1e-6, bidirectional=True)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("hidden", "width"), [(64, 256), (128, 512), (48, 80)])
def test_fused_mlp_over_many_rows(hidden, width, seed):
    """At a size where every program walks many rows, and the reference would take minutes on a CPU."""
    torch.manual_seed(seed)
    shapes = (50_001, hidden), (width, hidden), (width, hidden), (hidden, width)
    arguments = [(torch.randn(shape, device="cuda") / shape[1] ** 0.5).bfloat16().requires_grad_() for shape in shapes]
    upstream = torch.randn(shapes[0], device="cuda").bfloat16()
    outcomes = []
    for backend in ("triton", "reference"):
        y = gated_mlp(*arguments, backend=backend)
        outcomes.append((y, *torch.autograd.grad(y, arguments, upstream)))
    for found, expected in zip(*outcomes, strict=True):
        assert (found.double() - expected.double()).norm() <= 1e-2 * expected.double().norm()


def test_float64_goes_to_the_reference():
    x = torch.randn(1, 5, 4, dtype=torch.float64, device="cuda")
    h, _ = hgrn_scan(x, -x.abs())
    torch.testing.assert_close(h.cpu(), hgrn_scan(x.cpu(), -x.abs().cpu())[0])


def test_extreme_gates():
    """0 keeps the state exactly, very negative gates clear it exactly, and NaN is not lost: a trainer looks for it."""
    inf, nan = float("inf"), float("nan")
    log_f = torch.tensor([0.0, -inf, -1e30, -87.5, nan, 0.0], device="cuda")[None, :, None]
    x = torch.tensor([3.0, 5.0, 7.0, 0.0, 1.0, 1.0], device="cuda")[None, :, None]
    h = hgrn_scan(x, log_f, torch.full((1, 1), 2.0, device="cuda"))[0].flatten()
    assert h[:3].tolist() == [5.0, 5.0, 7.0]
    assert 0 <= h[3] < 1e-36
    assert h[4:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 4001, 20000])
@pytest.mark.parametrize(("hidden", "width"), [(64, 256), (176, 432), (256, 768)])
def test_products_with_swiglu(hidden, width, rows, dtype, seed):
    if not on_hopper():
        pytest.skip("made for Hopper GPUs")
    products.check(rows, hidden, width, dtype, seed, "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("rows", "classes"), [(70, 37), (10_000, 32_000), (5_000, 50_257)])
def test_cross_entropy_of_a_linear_layer(rows, classes, dtype, seed):
    """In several pieces at the larger sizes, against whole logits in float64."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(rows, 64, device="cuda"), torch.randn(classes, 64, device="cuda") / 8
    hidden, weight = (part.to(dtype).requires_grad_() for part in (hidden, weight))
    labels = torch.randint(classes, (rows,), device="cuda")
    labels[::7] = -100
    loss = linear_cross_entropy(hidden, weight, labels, 1e-2)
    exact = [part.detach().double().requires_grad_() for part in (hidden, weight)]
    logits = F.linear(*exact)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    expected = expected + 1e-2 * (logits.logsumexp(-1).square() * (labels != -100)).sum()
    (loss / 100).backward()
    (expected / 100).backward()
    tolerance = 1e-2 if dtype == torch.bfloat16 else 2e-3  # products of float32 may be done as TF32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=0)
    for one, other in zip((hidden, weight), exact, strict=True):
        scale = other.grad.abs().max()
        torch.testing.assert_close(one.grad.double() / scale, other.grad / scale, rtol=0, atol=tolerance)
    again = linear_cross_entropy(hidden, weight, labels, 1e-2)
    assert torch.equal(again, loss)
