"""Steps that are left out, the schedule that waits for them, and where both are kept."""

import pytest
import torch
from torch import nn

from lt25.errors import UserError

# isort: off
from lt25.training import torchtitan  # noqa: F401 before any other import of torchtitan
from torchtitan.config import LRScheduler, Optimizer
from torchtitan.components.lr_scheduler import build_lr_schedulers

from lt25.training.steps import build_optimizers, build_schedule
# isort: on

RATES = LRScheduler(warmup_steps=3, decay_type="cosine")


def make(steps=10, **options):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizers = build_optimizers([model], Optimizer(lr=1e-2, **options), None)
    return model, optimizers, build_schedule(optimizers, RATES, steps)


def step(model, optimizers, bad=False, seed=0):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    if bad:
        model.weight.grad[0, 0] = float("nan")
    optimizers.step(torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]))


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_steps_and_rates_are_torchs_own_with_the_bad_ones_left_out(name):
    model, optimizers, _ = make(name=name)
    torch.manual_seed(0)
    other = nn.Linear(4, 3)
    own = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
    optimizer = own(other.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    (schedule,) = build_lr_schedulers([optimizer], RATES, 10)
    for n in range(8):
        bad = n in (0, 4, 5)
        step(model, optimizers, bad, seed=n)
        assert optimizers.rate.item() == schedule.get_last_lr()[0]
        if not bad:
            for parameter, twin in zip(other.parameters(), model.parameters(), strict=True):
                parameter.grad = twin.grad.clone()
            optimizer.step()
            schedule.step()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert (optimizers.taken.item(), optimizers.skipped.item()) == (5, 3)


def test_a_checkpoint_holds_numbers_and_brings_back_the_place_in_the_schedule():
    model, optimizers, schedule = make()
    for n in range(4):
        step(model, optimizers, bad=n == 1, seed=n)
    saved, weights = optimizers.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    assert {type(saved[f"param_groups.{name}.lr"]) for name in ("weight", "bias")} == {float}
    assert saved["state.weight.step"] == 3
    assert schedule.state_dict() == {"last_epoch": 3}
    saved = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in saved.items()}

    again, resumed, place = make()
    again.load_state_dict(weights)
    resumed.load_state_dict(saved)
    place.load_state_dict({"last_epoch": 3})
    for trained in ((model, optimizers), (again, resumed)):
        step(*trained, seed=9)
    assert optimizers.rate == resumed.rate
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_last_rate_stays():
    model, optimizers, _ = make(steps=4)
    for n in range(7):
        step(model, optimizers, seed=n)
    assert optimizers.rate == optimizers.rates[-1]


@pytest.mark.parametrize(
    ("key", "value"), [("implementation", "foreach"), ("early_step_in_backward", True)], ids=["foreach", "in backward"]
)
def test_an_optimizer_that_cannot_leave_out_a_step_is_refused(key, value):
    with pytest.raises(UserError, match=f"optimizer.{key}: found {value}"):
        make(**{key: value})
