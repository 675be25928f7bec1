"""The scan's backends against the float64 reference."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lt25.ops import hgrn_scan
from lt25.ops.scan import _backward, _forward

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}
PACKING = torch.tensor([0, 3, 3, 4, 11])


def make_inputs(batch=3, time=11, channels=37, dtype=torch.float64, cu_seqlens=None, device="cpu", seed=0):
    """x, log_f and initial_state, all of which want gradients."""
    generator = torch.Generator().manual_seed(seed)
    batch, sequences = (batch, batch) if cu_seqlens is None else (1, len(cu_seqlens) - 1)
    x = torch.randn(batch, time, channels, generator=generator, dtype=torch.float64)
    log_f = torch.rand(batch, time, channels, generator=generator, dtype=torch.float64).log()
    state = torch.randn(sequences, channels, generator=generator, dtype=torch.float64)
    return [tensor.to(device, dtype).requires_grad_() for tensor in (x, log_f, state)]


def outcome(inputs, backend=None, **options) -> list[Tensor]:
    """Both results and the gradients of all inputs, from both results."""
    h, final = hgrn_scan(*inputs, output_final_state=True, backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.device, r.dtype) for r in (h, final)]
    return [h, final, *torch.autograd.grad((h, final), inputs, weights)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, a, b in zip(("h", "final", "grad x", "grad log_f", "grad state"), found, expected, strict=True):
        assert a.dtype == b.dtype, name
        error = (a.double() - b.double()).abs().max() / (1 + b.double().abs().max())
        assert error < tolerance, f"{name}: {error:.2e}"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cu_seqlens", [None, PACKING, PACKING.int()], ids=["batch", "packed", "packed-int32"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_reference(dtype, cu_seqlens, reverse):
    inputs = make_inputs(dtype=dtype, cu_seqlens=cu_seqlens)
    options = {"cu_seqlens": cu_seqlens, "reverse": reverse}
    assert_close(outcome(inputs, "numba", **options), outcome(inputs, "reference", **options), TOLERANCE[dtype])


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    channels=st.integers(1, 70),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_packed_sequences_are_scanned_one_by_one(lengths, channels, reverse, seed):
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    x, log_f, state = make_inputs(1, sum(lengths), channels, torch.float32, cu_seqlens, seed=seed)
    packed, packed_final = hgrn_scan(x, log_f, state, cu_seqlens, reverse, output_final_state=True)
    for n, (start, end) in enumerate(itertools.pairwise(cu_seqlens)):
        alone, final = hgrn_scan(
            x[:, start:end], log_f[:, start:end], state[n : n + 1], None, reverse, output_final_state=True
        )
        assert torch.equal(packed[:, start:end], alone)
        assert torch.equal(packed_final[n : n + 1], final)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cu_seqlens", [None, torch.tensor([0, 2, 2, 5])], ids=["batch", "packed"])
def test_gradcheck(cu_seqlens, reverse):
    inputs = make_inputs(batch=2, time=5, channels=3, cu_seqlens=cu_seqlens)

    def scan(x, log_f, state):
        return hgrn_scan(x, log_f, state, cu_seqlens, reverse, output_final_state=True)

    assert torch.autograd.gradcheck(scan, inputs)


def test_a_state_carried_over_continues_the_scan():
    x, log_f, state = make_inputs(dtype=torch.float32)
    whole, _ = hgrn_scan(x, log_f, state)
    first, carried = hgrn_scan(x[:, :4], log_f[:, :4], state, output_final_state=True)
    second, _ = hgrn_scan(x[:, 4:], log_f[:, 4:], carried)
    assert torch.equal(torch.cat((first, second), 1), whole)


def test_states_are_optional():
    x, log_f, state = make_inputs(dtype=torch.float32)
    h, final = hgrn_scan(x, log_f)
    assert final is None
    assert torch.equal(h, hgrn_scan(x, log_f, torch.zeros_like(state))[0])
    (h.sum()).backward()
    assert x.grad is not None and state.grad is None


def test_only_the_final_state_has_a_gradient():
    inputs = make_inputs()
    for backend in ("numba", "reference"):
        _, final = hgrn_scan(*inputs, output_final_state=True, backend=backend)
        gradients = torch.autograd.grad(final.square().sum(), inputs)
        if backend == "numba":
            found = gradients
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_gates(dtype):
    inf, nan = float("inf"), float("nan")
    log_f = torch.tensor([0.0, -inf, -1e30, -87.5, nan, 0.0], dtype=dtype)[None, :, None]
    x = torch.tensor([3.0, 5.0, 7.0, 0.0, 1.0, 1.0], dtype=dtype)[None, :, None]
    h = hgrn_scan(x, log_f, torch.full((1, 1), 2.0, dtype=dtype))[0].flatten()
    assert h[:3].tolist() == [5.0, 5.0, 7.0], "0 keeps the state exactly, very negative gates clear it exactly"
    assert 0 <= h[3] < 1e-36
    assert h[4:].isnan().all(), "NaN must not be lost: a trainer looks for it"


def test_float32_exponential_is_exact_to_the_last_bits():
    log_f = torch.linspace(-87, 0, 100_001)[None, :, None]
    # A scan over one step from a state of 1 is the gate itself.
    gates = hgrn_scan(torch.zeros_like(log_f).transpose(0, 1), log_f.transpose(0, 1), torch.ones(100_001, 1))[0]
    exact = log_f.flatten().double().exp()
    assert ((gates.flatten().double() - exact) / exact).abs().max() < 2e-7


def test_the_same_bits_with_any_number_of_threads():
    before = torch.get_num_threads()
    cases = [(make_inputs(dtype=torch.float32), None), (make_inputs(dtype=torch.float32, cu_seqlens=PACKING), PACKING)]
    try:
        for inputs, cu_seqlens in cases:
            results = []
            for threads in (1, 2, 1):
                torch.set_num_threads(threads)
                results.append(outcome(inputs, cu_seqlens=cu_seqlens))
            assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    finally:
        torch.set_num_threads(before)


def test_leaves_the_number_of_torch_threads_alone():
    code = (
        "import torch; from lt25.ops import hgrn_scan; hgrn_scan(torch.ones(4, 8, 32), -torch.ones(4, 8, 32));"
        "print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"


def test_any_memory_layout():
    x, log_f, state = make_inputs(dtype=torch.float32)
    expected = outcome([x, log_f, state])
    strided = [t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in (x, log_f, state)]
    assert not strided[0].is_contiguous()
    assert_close(outcome(strided), expected, 1e-7)


@pytest.mark.parametrize("cu_seqlens", [None, PACKING], ids=["batch", "packed"])
def test_is_a_well_behaved_operator(cu_seqlens):
    x, log_f, state = make_inputs(dtype=torch.float32, cu_seqlens=cu_seqlens)
    torch.library.opcheck(_forward.registered, (x, log_f, state, cu_seqlens, False, "numba"))
    torch.library.opcheck(_forward.registered, (x, log_f, None, cu_seqlens, True, "numba"))
    detached = [t.detach() for t in (x, state, log_f, x, state)]
    torch.library.opcheck(_backward.registered, (*detached, cu_seqlens, False, "numba"))


def test_compiles_into_one_graph():
    inputs = make_inputs(dtype=torch.float32)

    def run(x, log_f, state):
        h, final = hgrn_scan(x.tanh(), log_f, state, output_final_state=True)
        return (h * 2).sum() + final.sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(run(*inputs), inputs)
    for a, b in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_activation_checkpointing():
    inputs = make_inputs(dtype=torch.float32)

    def run(x, log_f, state):
        h, final = hgrn_scan(x * 2, log_f, state, output_final_state=True)
        return h.sum() + final.sum()

    expected = torch.autograd.grad(run(*inputs), inputs)
    found = torch.autograd.grad(checkpoint(run, *inputs, use_reentrant=False), inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_shapes_on_the_meta_device():
    x = torch.empty(1, 6, 4, device="meta", dtype=torch.bfloat16)
    h, final = hgrn_scan(x, x, cu_seqlens=torch.empty(4, device="meta", dtype=torch.int32), output_final_state=True)
    assert h.shape == x.shape and h.dtype == torch.bfloat16
    assert final.shape == (3, 4) and final.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_f": torch.zeros(2, 3, 5)}, r"must both be \[B, T, D\]"),
        ({"initial_state": torch.zeros(3, 4)}, r"initial_state must be \(2, 4\)"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "batch of 1"),
        ({"backend": "cudnn"}, "unknown backend 'cudnn'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hgrn_scan(**{"x": torch.zeros(2, 3, 4), "log_f": torch.zeros(2, 3, 4), **arguments})


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 2, 1, 3]])
def test_boundaries_must_rise_from_0_to_T(offsets):
    with pytest.raises(ValueError, match="must rise from 0 to T = 3"):
        hgrn_scan(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), cu_seqlens=torch.tensor(offsets))
