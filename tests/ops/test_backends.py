"""Every operator on a CPU: against the float64 reference, and as an operator of torch."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from lt25.ops import conv as conv_operator
from lt25.ops import hgrn_scan
from lt25.ops import mix as mix_operator
from lt25.ops import rows as rows_operators
from lt25.ops import step as step_operator
from lt25.ops.backends import numba_common
from tests.ops import compare
from tests.ops.compare import CASES, Case, Sizes

REPOSITORY = Path(__file__).parents[2]

every_operator = pytest.mark.parametrize("operator", CASES)
differentiable = pytest.mark.parametrize("operator", [name for name in CASES if not name.endswith("_step")])


@pytest.fixture(scope="module", autouse=True)
def empty_tensors_are_full_of_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def threads():
    """Sets the number of threads, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def plain(operator: str, batch: int = 3, time: int = 12, channels: int = 38) -> Case:
    """Of these sizes, with every optional tensor, neither packed nor reversed."""
    sizes = {batch, time, channels, 2 * time, channels // 2, 6}

    def largest(low, high):
        return high if high in sizes else 1

    return CASES[operator](largest, Sizes(batch, time, channels))


@every_operator
@pytest.mark.parametrize("dtype", compare.TOLERANCE, ids=str)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_equals_the_reference(operator, dtype, data):
    case = CASES[operator](lambda low, high: data.draw(st.integers(low, high)), Sizes(4, 40, 70))
    compare.check(case, "numba", dtype)


def test_kernels_from_the_cache_give_the_bits_of_those_just_compiled(tmp_path):
    """Otherwise a training run stopped in its first process would not resume with the same numbers."""
    script = (
        "import random, sys, torch\n"
        "from tests.ops import compare\n"
        "found = {}\n"
        "for operator, make in compare.CASES.items():\n"
        "    case = make(random.Random(0).randint, compare.Sizes(4, 60, 70))\n"
        "    tensors = {name: each.float() for name, each in case.tensors.items()}\n"
        "    found[operator] = compare._outcome(case, tensors, 'numba', 'cpu')\n"
        "torch.save(found, sys.argv[1])\n"
    )
    found = []
    for name in ("compiled", "cached"):
        file = tmp_path / name
        subprocess.run(
            [sys.executable, "-c", script, str(file)],
            check=True, cwd=REPOSITORY, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
        found.append(torch.load(file))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@every_operator
def test_equals_the_reference_over_many_rows(operator):
    """Several work items to each kernel, the last of them not full."""
    compare.check(plain(operator, 5, 333, 50), "numba", torch.float32)


@differentiable
def test_gradcheck(operator):
    case = plain(operator, 2, 5, 4)
    tensors = [each.requires_grad_() for each in case.tensors.values()]

    def call(*values):
        return case.operator(**dict(zip(case.tensors, values, strict=True)), **case.options)

    assert torch.autograd.gradcheck(call, tensors)


def outcome(case, dtype=torch.float32):
    """Results and gradients, as a list."""
    return list(compare._outcome(case, {k: v.to(dtype) for k, v in case.tensors.items()}, "numba", "cpu").values())


@every_operator
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_same_bits_with_any_number_of_threads(operator, batch, threads, monkeypatch):
    """Of the kernels: products of matrices are torch's, and on some processors depend on it. They get one thread here."""
    case = plain(operator, batch, 150, 300)
    results = []
    threads(1)
    for count in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        results.append(outcome(case))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@every_operator
def test_any_memory_layout(operator):
    case = plain(operator)
    expected = outcome(case)
    strided = {name: torch.stack((each, each), -1)[..., 0] for name, each in case.tensors.items()}
    assert not any(each.is_contiguous() for each in strided.values())
    found = outcome(case._replace(tensors=strided))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bfloat16_is_rounded_as_torch_rounds():
    """Every upper half of a float32, with lower halves around what is rounded up, NaN and infinity among them."""
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    bits = (torch.arange(-(2**15), 2**15)[:, None] * 2**16 + lower).to(torch.int32)
    x = bits.view(torch.float32).reshape(1, -1)
    y, back = torch.empty(x.shape, dtype=torch.bfloat16), torch.empty_like(x)

    @numba.njit
    def copy(x, y, back):
        for d in range(x.shape[1]):
            numba_common.put(y[0], d, x[0, d])
            back[0, d] = numba_common.widened(y[0, d])

    copy(*map(numba_common.rows, (x, y, back)))
    torch.testing.assert_close(y, x.bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(back, y.float(), rtol=0, atol=0, equal_nan=True)


def test_loops_take_512_bits_where_a_processor_has_them():
    """The compiler is set up once in a process: whatever asks numba for anything before it is told would keep it at 256."""
    script = (
        "from lt25.ops.backends import numba_common\n"
        "from numba.core.registry import cpu_target\n"
        "print(cpu_target.target_context.codegen().magic_tuple())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "+avx512vl" not in done.stdout or "-prefer-256-bit" in done.stdout


@every_operator
def test_nan_is_not_lost(operator):
    """A trainer looks for it."""
    case = plain(operator)
    for name, tensor in case.tensors.items():
        poisoned = tensor.float()
        poisoned.view(-1)[-1] = torch.nan
        arguments = {k: v.float() for k, v in case.tensors.items()} | {name: poisoned}
        results = case.operator(**arguments, **case.options)
        assert (results if isinstance(results, torch.Tensor) else results[0]).isnan().any(), name


@differentiable
def test_compiles_into_one_graph(operator):
    case = plain(operator)
    names, tensors = list(case.tensors), [each.float().requires_grad_() for each in case.tensors.values()]

    def run(*values):
        values = (values[0] * 2, *values[1:])
        results = case.operator(**dict(zip(names, values, strict=True)), **case.options)
        results = (results,) if isinstance(results, torch.Tensor) else results
        return sum((each * 3).sum() for each in results)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(run(*tensors), tensors)
    for a, b in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(a, b)
    found = torch.autograd.grad(checkpoint(run, *tensors, use_reentrant=False), tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), "activation checkpointing"


@every_operator
def test_shapes_and_dtypes_on_the_meta_device(operator):
    case = plain(operator)
    arguments = {name: each.bfloat16() for name, each in case.tensors.items()}
    for name in {"state", "residual"} & set(arguments):
        arguments[name] = arguments[name].float()
    found = case.operator(**{name: each.to("meta") for name, each in arguments.items()}, **case.options)
    expected = case.operator(**arguments, **case.options)
    pairs = [(found, expected)] if isinstance(found, torch.Tensor) else zip(found, expected, strict=True)
    assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)


def test_operators_keep_torchs_rules():
    ifg, weight, bound, state = torch.randn(2, 5, 12), torch.randn(4), torch.rand(4), torch.randn(2, 4)
    mask, packing = torch.rand(2, 5) < 0.7, torch.tensor([0, 2, 5])

    def check(operator, arguments):
        torch.library.opcheck(operator.registered, arguments)

    grad = [each.requires_grad_() for each in (ifg, weight, bound, state)]
    check(mix_operator._forward, (grad[0], grad[1], 1e-5, grad[2], mask, grad[3], None, True, None, "numba"))
    check(
        mix_operator._forward,
        (grad[0][:1], grad[1], 1e-5, None, None, grad[3], packing, False, None, "numba"),
    )
    ifg, weight, bound, state = (each.detach() for each in grad)
    y = torch.randn(2, 5, 4)
    check(
        mix_operator._backward,
        (y, state, ifg, y, weight, 1e-5, bound, mask, state, None, True, None, "numba"),
    )
    check(step_operator._step, (ifg[:, 0], weight, 1e-5, state, bound, "numba"))
    taps = torch.randn(8, 3)
    check(
        conv_operator._forward,
        (ifg.clone().requires_grad_(), taps.clone().requires_grad_(), mask, None, True, "numba"),
    )
    check(conv_operator._backward, (ifg[:1], ifg[:1], taps, None, packing, False, "numba"))
    check(rows_operators._swiglu, (ifg.clone().requires_grad_(), "numba"))
    check(rows_operators._swiglu_backward, (y[..., :2], y, "numba"))
    check(
        rows_operators._add_norm,
        (y.clone().requires_grad_(), y.clone().requires_grad_(), grad[1], 1e-5, "numba"),
    )
    check(rows_operators._add_norm, (y.clone().requires_grad_(), None, grad[1], 1e-5, "numba"))
    check(rows_operators._norm_backward, (y, y, y, weight, 1e-5, "numba"))


def test_only_one_of_the_results_has_a_gradient():
    """Unused results of an operator have no gradient, and no memory is filled with zeros for them."""
    for operator in ("hgrn_scan", "hgrn_mix", "add_rms_norm"):
        case = plain(operator)
        for used in (0, 1):
            gradients = []
            for backend in ("numba", "reference"):
                tensors = {name: each.clone().requires_grad_() for name, each in case.tensors.items()}
                results = case.operator(**tensors, **case.options, backend=backend)
                gradients.append(
                    torch.autograd.grad(
                        results[used].square().sum(), list(tensors.values()), allow_unused=True, materialize_grads=True
                    )
                )
            for a, b in zip(*gradients, strict=True):
                torch.testing.assert_close(a, b)


def test_float64_is_kept():
    h, final = hgrn_scan(torch.ones(1, 2, 3, dtype=torch.float64), -torch.ones(1, 2, 3), output_final_state=True)
    assert h.dtype == final.dtype == torch.float64


@every_operator
def test_an_unknown_backend_is_named(operator):
    case = plain(operator)
    with pytest.raises(ValueError, match=f"{operator}: unknown backend 'cudnn'"):
        case.operator(**case.tensors, **case.options, backend="cudnn")


NOWHERE = """
import os, sys
import numba.core.caching
from pathlib import Path

def nobody():
    raise RuntimeError("Could not determine home directory.")

# A user who cannot write to the package and has no home: as root, which can write anywhere, only this shows it.
writable, os.access = os.access, lambda path, mode: mode != os.W_OK
if sys.argv[1] == "no home":
    Path.home = nobody
else:
    numba.core.caching.CacheImpl._locator_classes = []
import torch
from lt25.ops import swiglu
from lt25.ops.backends import numba_common
assert numba_common.JIT["cache"] is False
x = torch.randn(3, 8)
torch.testing.assert_close(swiglu(x), swiglu(x, backend="reference"))
from lt25.compiling import keep_kernels
keep_kernels()
print("computed")
"""


@pytest.mark.parametrize("lack", ["no home", "no folder"])
def test_kernels_run_where_nothing_can_be_kept(lack, tmp_path):
    environment = {
        key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    command = [sys.executable, "-c", NOWHERE, lack]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert done.stdout.strip() == "computed", done.stderr
    assert not list(tmp_path.iterdir())
