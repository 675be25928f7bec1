"""The gates at their limits, and the properties that an HGRN layer relies on."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from lt25.ops import hgrn_mix, hgrn_step


def make(batch=2, time=9, channels=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ifg = torch.randn(batch, time, 3 * channels, generator=generator).to(dtype)
    weight, bound = torch.randn(channels, generator=generator), torch.rand(channels, generator=generator)
    return ifg, weight, bound, torch.randn(batch, channels, generator=generator)


def final_state(i, f, state, bound=None, mask=None, dtype=torch.float32):
    """One channel over one step from a state: the recurrence by itself."""
    ifg = torch.tensor([[[i, f, 1.0]]], dtype=dtype, requires_grad=True)
    bound = None if bound is None else torch.tensor([bound], dtype=dtype)
    start = torch.tensor([[state]], dtype=dtype)
    y, final = hgrn_mix(ifg, torch.ones(1, dtype=dtype), 1e-6, bound, mask, start, output_final_state=True)
    (y.sum() + final.sum()).backward()
    assert ifg.grad.isfinite().all()
    return final.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bound", [None, 0.25])
def test_gates_at_their_limits(bound, dtype):
    kept = bound or 0.0
    for f in (200.0, 1e4):
        assert final_state(2.0, f, 3.0, bound, dtype=dtype) == 3.0, "an open gate keeps the state exactly"
    silu = F.silu(torch.tensor(2.0, dtype=dtype)).item()
    for f in (-200.0, -1e4):
        assert final_state(2.0, f, 3.0, bound, dtype=dtype) == pytest.approx(3 * kept + silu * (1 - kept), rel=1e-6)
    assert final_state(-1e4, 0.0, 0.0, bound, dtype=dtype) == pytest.approx(0.0, abs=1e-30)
    assert final_state(1e4, -1e4, 0.0, bound, dtype=dtype) == pytest.approx(1e4 * (1 - kept), rel=1e-6)


@pytest.mark.parametrize("bound", [None, 0.3])
def test_a_masked_step_keeps_the_state_exactly(bound):
    assert final_state(1e4, -3.0, 0.123456789, bound, torch.zeros(1, 1, dtype=torch.bool)) == pytest.approx(
        torch.tensor(0.123456789).item(), abs=0
    )


@pytest.mark.parametrize("which", range(3), ids=["i", "f", "g"])
def test_nan_is_not_lost(which):
    ifg, weight, bound, _ = make()
    ifg.unflatten(-1, (3, 8))[0, 3, which, 5] = torch.nan
    ifg.requires_grad_()
    y, final = hgrn_mix(ifg, weight, 1e-6, bound, output_final_state=True)
    assert y[0, 3].isnan().any() and not y[0, :3].isnan().any() and not y[1].isnan().any()
    assert final[0].isnan().any() == (which < 2)
    y.sum().backward()
    assert ifg.grad[0].isnan().any() and not ifg.grad[1].isnan().any()


def test_a_long_memory_is_not_forgotten():
    """1 - f' of 1e-6 over ten thousand steps: a gate rounded as f' itself would be off by six per cent."""
    time, slow = 10_000, 1e-6
    f = torch.logit(torch.tensor(1 - slow, dtype=torch.float64)).float()
    ifg = torch.tensor([-1e4, f.item(), 0.0]).expand(1, time, 3).contiguous()
    options = {"initial_state": torch.ones(1, 1), "output_final_state": True}
    _, found = hgrn_mix(ifg, torch.ones(1), 1e-6, **options)
    exact = (-torch.nn.functional.softplus(-f.double()) * time).exp().item()
    assert found.item() == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("lengths", [[4, 1, 9, 2], [0, 3, 0], [5]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_packed_sequences_are_mixed_one_by_one(lengths, bidirectional):
    ifg, weight, bound, _ = make(1, sum(lengths))
    state = torch.randn(len(lengths), 8)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    packed, packed_final = hgrn_mix(ifg, weight, 1e-6, bound, None, state, cu_seqlens, bidirectional, True)
    for n, (start, end) in enumerate(itertools.pairwise(cu_seqlens)):
        arguments = (ifg[:, start:end], weight, 1e-6, bound, None, state[n : n + 1], None, bidirectional, True)
        alone, final = hgrn_mix(*arguments)
        assert torch.equal(packed[:, start:end], alone)
        assert torch.equal(packed_final[n : n + 1], final)


def test_a_state_carried_over_continues():
    ifg, weight, bound, state = make()
    whole, last = hgrn_mix(ifg, weight, 1e-6, bound, None, state, output_final_state=True)
    first, carried = hgrn_mix(ifg[:, :4], weight, 1e-6, bound, None, state, output_final_state=True)
    second, end = hgrn_mix(ifg[:, 4:], weight, 1e-6, bound, None, carried, output_final_state=True)
    assert torch.equal(torch.cat((first, second), 1), whole) and torch.equal(end, last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_step_by_step_equals_all_at_once(dtype):
    ifg, weight, bound, state = make(dtype=dtype, time=200)
    state = state.to(torch.promote_types(dtype, torch.float32))
    expected, last = hgrn_mix(ifg, weight, 1e-6, bound, None, state, output_final_state=True)
    steps = []
    for step in ifg.unbind(1):
        y, state = hgrn_step(step, weight, 1e-6, state, bound)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), expected)
    torch.testing.assert_close(state, last)


def test_states_are_optional():
    ifg, weight, bound, state = make()
    y, final = hgrn_mix(ifg, weight, 1e-6, bound)
    assert final is None
    assert torch.equal(y, hgrn_mix(ifg, weight, 1e-6, bound, initial_state=torch.zeros_like(state))[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ifg": torch.zeros(2, 9, 23)}, r"ifg must be \[B, T, 3 D\] and weight \[D\], got \(2, 9, 23\) and \(8,\)"),
        ({"lower_bound": torch.zeros(7)}, r"lower_bound must be \(8,\), got \(7,\)"),
        ({"mask": torch.ones(2, 9)}, r"mask must be bool \(2, 9\), got torch.float32 \(2, 9\)"),
        ({"initial_state": torch.zeros(3, 8)}, r"initial_state must be \(2, 8\), got \(3, 8\)"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "needs a batch of 1"),
        ({"ifg": torch.zeros(2, 9, 9), "weight": torch.zeros(3), "bidirectional": True}, "even number of channels"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hgrn_mix(**{"ifg": torch.zeros(2, 9, 24), "weight": torch.zeros(8), "eps": 1e-6, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": torch.zeros(2, 7)}, r"state \[B, D\], got \(2, 24\), \(8,\) and \(2, 7\)"),
        ({"state": torch.zeros(2, 8, dtype=torch.float64)}, "state must be torch.float32, got torch.float64"),
        ({"lower_bound": torch.zeros(7)}, r"lower_bound must be \(8,\)"),
    ],
)
def test_wrong_arguments_of_a_step_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hgrn_step(
            **{"ifg": torch.zeros(2, 24), "weight": torch.zeros(8), "eps": 1e-6, "state": torch.zeros(2, 8)} | arguments
        )
