"""Steps that are left out, the schedule that waits for them, and where both are kept."""

import pytest
import torch
from torch import nn

from lt25.errors import UserError

# isort: off
from lt25.training import torchtitan  # noqa: F401 before any other import of torchtitan
from torchtitan.config import ConfigManager, JobConfig, LRScheduler
from torchtitan.components.lr_scheduler import build_lr_schedulers

from lt25.training.job_config import JobConfig as Added
from lt25.training.steps import FiniteOptimizers, build_optimizers, build_schedule
# isort: on

# The section as the trainer sees it.
Optimizer = type(ConfigManager._merge_configs(JobConfig, Added)().optimizer)
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


def test_gates_have_a_rate_and_a_decay_of_their_own():
    optimizers = FiniteOptimizers(
        [model := nn.Linear(4, 3)],
        "AdamW",
        {"lr": 1e-2, "weight_decay": 0.1},
        (("bias",), {"lr": 1e-3, "weight_decay": 0.0}),
    )
    build_schedule(optimizers, RATES, 10)
    torch.manual_seed(0)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for n in range(2):
        step(model, optimizers, seed=n)
    twins = {name: nn.Parameter(one) for name, one in before.items()}
    groups = [{"params": [twins["weight"]], "weight_decay": 0.1}, {"params": [twins["bias"]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for n in range(2):
        rate = optimizers.rates[n].item()
        for group, factor in zip(optimizer.param_groups, (1, 0.1), strict=True):
            group["lr"] = rate * factor
        torch.manual_seed(n)
        for name in ("weight", "bias"):
            twins[name].grad = torch.randn_like(twins[name])
        optimizer.step()
    for name, one in model.named_parameters():
        torch.testing.assert_close(one, twins[name])
    saved = optimizers.state_dict()
    assert saved["param_groups.bias.lr"] == 1e-3 and saved["param_groups.weight.lr"] == 1e-2


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


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_checkpoint_has_the_state_of_weights_that_never_have_a_gradient(name, ema_decay):
    model, optimizers, _ = make(name=name, ema_decay=ema_decay)
    model.weight.grad = torch.ones_like(model.weight)
    optimizers.step(torch.ones(()))
    saved = {key: value.clone() for key, value in optimizers.state_dict().items() if isinstance(value, torch.Tensor)}
    _, resumed, _ = make(name=name, ema_decay=ema_decay)
    # What a checkpoint is asked for when a run goes on.
    wanted = {key for key, value in resumed.state_dict().items() if isinstance(value, torch.Tensor)}
    assert wanted == saved.keys()
    assert (saved["state.weight.step"], saved["state.bias.step"]) == (1, 0)


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


def network():
    """Layers with two shapes of matrices, between an embedding and a head."""
    torch.manual_seed(0)
    layers = nn.ModuleList(
        [nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8, bias=False), nn.LayerNorm(8)) for _ in "12"]
    )
    return nn.ModuleDict({"embedding": nn.Embedding(5, 8), "layers": layers, "head": nn.Linear(8, 5, bias=False)})


def give_gradients(model, seed):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])


def test_muon_is_torchs_for_the_matrices_of_layers_and_adamw_for_the_rest():
    model, twin = network(), network()
    optimizers = build_optimizers([model], Optimizer(name="Muon", lr=1e-2), None)
    matrices = [part.weight for layer in twin["layers"] for part in layer if isinstance(part, nn.Linear)]
    others = [parameter for parameter in twin.parameters() if all(parameter is not matrix for matrix in matrices)]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for n in range(3):
        norm = give_gradients(model, n)
        give_gradients(twin, n)
        optimizers.step(norm)
        muon.step()
        adamw.step()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        if any(other is matrix for matrix in matrices):
            # Both iterate in bfloat16, in another order.
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0, msg=name)
        else:
            assert torch.equal(one, other), name


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_a_step_left_out_changes_neither_weights_nor_state_nor_means(name):
    model = network()
    optimizers = build_optimizers([model], Optimizer(name=name, lr=1e-2, ema_decay=0.9), None)
    # After the first step means are still the weights.
    for n in range(2):
        optimizers.step(give_gradients(model, n))

    def everything():
        state = {key: value for key, value in optimizers.state_dict().items() if isinstance(value, torch.Tensor)}
        return {key: value.clone() for key, value in {**model.state_dict(), **state}.items()}

    before = everything()
    norm = give_gradients(model, 1)
    model["layers"][0][0].weight.grad[0, 0] = float("nan")
    optimizers.step(norm * float("nan"))
    after = everything()
    assert {key.split(".")[-1] for key in after} >= {"ema", "momentum_buffer" if name == "Muon" else "exp_avg"}
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    optimizers.step(give_gradients(model, 1))
    assert not any(torch.equal(value, everything()[key]) for key, value in before.items() if key.endswith(".ema"))


def test_a_checkpoint_of_muon_and_means_goes_on_where_it_was():
    settings = {"name": "Muon", "lr": 1e-2, "ema_decay": 0.9}
    model, again = network(), network()
    optimizers, resumed = (build_optimizers([one], Optimizer(**settings), None) for one in (model, again))
    for n in range(2):
        optimizers.step(give_gradients(model, n))
    resumed.load_state_dict(
        {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in optimizers.state_dict().items()}
    )
    again.load_state_dict(model.state_dict())
    resumed.taken.copy_(optimizers.taken)
    for one, of in ((model, optimizers), (again, resumed)):
        of.step(give_gradients(one, 9))
    kept, other = optimizers.state_dict(), resumed.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in kept.items() if isinstance(value, torch.Tensor))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


def test_means_follow_the_weights_and_stand_in_their_place_for_a_while():
    model = nn.Linear(4, 3)
    optimizers = build_optimizers([model], Optimizer(lr=1e-2, ema_decay=0.3), None)
    mean = None
    for n in range(4):
        optimizers.step(give_gradients(model, n))
        weight = model.weight.detach().clone()
        share = 1 - min(0.3, (1 + n) / (10 + n))
        mean = weight if mean is None else mean + share * (weight - mean)
    with optimizers.averaged():
        torch.testing.assert_close(model.weight.detach(), mean)
    assert torch.equal(model.weight, weight)


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_means_of_weights_in_bfloat16_are_finer_than_these_and_stay_so_when_a_run_goes_on(name):
    model, again = network().bfloat16(), network().bfloat16()
    optimizers, resumed = (
        build_optimizers([one], Optimizer(name=name, lr=1e-2, ema_decay=0.999), None) for one in (model, again)
    )
    weight, mean = model["layers"][0][0].weight, None
    for n in range(300):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizers.step(torch.ones(()))
        share = 1 - min(0.999, (1 + n) / (10 + n))
        mean = weight.detach().double() if mean is None else mean + share * (weight.detach().double() - mean)
    kept = optimizers.optimizers[0].state[weight]["ema"]
    torch.testing.assert_close(kept.double(), mean, atol=1e-5, rtol=1e-5)
    resumed.load_state_dict(
        {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in optimizers.state_dict().items()}
    )
    assert torch.equal(resumed.optimizers[0].state[again["layers"][0][0].weight]["ema"], kept)
    with optimizers.averaged():
        assert torch.equal(weight, kept.bfloat16())


def test_rates_of_gates_suit_muon_which_has_matrices_among_them():
    model = network()
    wanted = {"lr": 2e-3, "weight_decay": 0.0}
    optimizers = FiniteOptimizers([model], "Muon", {"lr": 1e-2, "weight_decay": 0.1}, (("0.weight", "bias"), wanted))
    groups = [
        (names, group["lr"], group["muon"])
        for group in optimizers.optimizers[0].param_groups
        if (names := [name for name, one in model.named_parameters() if any(one is own for own in group["params"])])
    ]
    own = {name for names, lr, _ in groups for name in names if lr == 2e-3}
    assert own == {name for name, _ in model.named_parameters() if name.endswith(("0.weight", "bias"))}
    assert {muon for _, lr, muon in groups if lr == 2e-3} == {True, False}
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(torch.zeros(()))
    # Without gradients, what moves is what has a weight decay.
    assert {name for name, one in model.named_parameters() if torch.equal(one, before[name])} == own


@pytest.mark.parametrize("decay_type", ["linear", "sqrt", "cosine"])
def test_rates_rise_stay_and_fall_to_the_lowest(decay_type):
    """Warm-up, stable, decay; without a share for the decay, it begins after the warm-up."""
    optimizers = build_optimizers([nn.Linear(4, 3)], Optimizer(lr=1.0), None)
    shape = {"decay_type": decay_type, "min_lr_factor": 0.1}
    rates = build_schedule(optimizers, LRScheduler(warmup_steps=5, decay_ratio=0.25, **shape), 40).optimizers.rates
    assert rates[:5].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:30].tolist() == pytest.approx([1.0] * 25)
    falling = rates[31:41].diff()
    assert (falling < 0).all() and rates[40] == pytest.approx(0.1)
    whole = build_schedule(optimizers, LRScheduler(warmup_steps=5, **shape), 40).optimizers.rates
    assert (whole[6:].diff() < 0).all() and whole[40] == pytest.approx(0.1)
