"""What all HGRN models share: gates, padding, packing, initialisation, and how training handles them."""

import copy

import numpy as np
import pytest
import torch

from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNModel
from lt25.models.hgrn import Dropout, StochasticDepth
from lt25.models.short_conv import last_inputs
from tests.models import tiny

OPTIONS = {
    "plain": {},
    "convolved": {"use_short_conv": True},
    "two-way": {"bidirectional": True},
    "two-way-convolved": {"bidirectional": True, "use_short_conv": True},
    "no-bounds": {"use_lower_bound": False, "expand_ratio": 2},
}
every_kind = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def encoder(**options) -> HGRNModel:
    torch.manual_seed(0)
    return tiny.randomised(HGRNModel(HGRNConfig(**{**tiny.SIZES, "vocab_size": 50, **options})))


def hidden(model, embeds, **options):
    return model(inputs_embeds=embeds, use_cache=False, **options).last_hidden_state


@every_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(options, side):
    model = encoder(**options)
    lengths = (9, 5, 1)
    alone = [torch.randn(1, length, 24) for length in lengths]
    # What stands in the padding must not matter, so it is made conspicuous.
    embeds, mask = torch.full((3, 9, 24), 1e3), torch.zeros(3, 9, dtype=torch.int64)
    place = [slice(9 - n, 9) if side == "left" else slice(0, n) for n in lengths]
    for n, where in enumerate(place):
        embeds[n, where], mask[n, where] = alone[n][0], 1
    embeds.requires_grad_()
    found = hidden(model, embeds, attention_mask=mask)
    for n, where in enumerate(place):
        torch.testing.assert_close(found[n, where], hidden(model, alone[n])[0], atol=2e-5, rtol=1e-4)
    (found * mask[..., None]).sum().backward()
    assert not embeds.grad[mask == 0].any(), "a gradient reaches the padding"


@every_kind
def test_packed_sequences_do_not_meet(options):
    model = encoder(**options)
    lengths = [4, 1, 9, 2]
    alone = [torch.randn(1, length, 24) for length in lengths]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    for dtype in (torch.int64, torch.int32):
        packed = hidden(model, torch.cat(alone, 1), cu_seqlens=cu_seqlens.to(dtype))
        expected = torch.cat([hidden(model, embeds) for embeds in alone], 1)
        torch.testing.assert_close(packed, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("convolved", [False, True])
@torch.no_grad()
def test_frame_by_frame(convolved):
    model = tiny.randomised(HGRNModel(HGRNConfig(**tiny.SIZES, input_size=8, use_short_conv=convolved)))
    frames = torch.randn(2, 40, 8)
    cache, found = None, []
    for frame in frames.split(1, 1):
        output = model(input_features=frame, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.last_hidden_state)
    expected = model(input_features=frames).last_hidden_state
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-4, rtol=1e-4)


@every_kind
def test_hidden_states_are_what_goes_into_each_layer(options):
    model = encoder(**options)
    embeds = torch.randn(2, 9, 24)
    states = model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True).hidden_states
    assert len(states) == 4 and states[0] is embeds
    added = []
    for layer, bound, before in zip(model.layers, model._lower_bounds(), states, strict=False):
        branch, residual = layer(before, None, bound)
        added.append(branch + residual)
    for found, expected in zip(states[1:], (*added[:-1], model.norm(added[-1])), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("both", [False, True], ids=["one-way", "two-way"])
def test_which_way_information_flows(both):
    model = encoder(bidirectional=both, use_short_conv=True)
    embeds = torch.randn(1, 9, 24)
    changed = embeds.clone()
    changed[:, 4] += 1
    moved = (hidden(model, changed) - hidden(model, embeds)).abs().amax(-1)[0] > 1e-6
    assert moved[4:].all()
    assert moved[:4].all() if both else not moved[:4].any()


def test_the_last_inputs_are_those_before_the_padding():
    x = torch.randn(3, 12, 6)
    assert torch.equal(last_inputs(x, None, 3), x[:, 9:])
    # Three steps of the past, and nine, none, and five of which count.
    mask = torch.arange(12) < torch.tensor([[12], [3], [8]])
    assert torch.equal(last_inputs(x, mask, 3), torch.stack((x[0, 9:], x[1, :3], x[2, 5:8])))


def test_initial_weights_have_the_scale_that_the_config_asks_for():
    torch.manual_seed(0)
    model = HGRNForCausalLM(HGRNConfig(hidden_size=128, num_hidden_layers=2, vocab_size=500, use_short_conv=True))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all()
        elif "lower_bounds" in name:
            assert (parameter == 0).all()
        elif "conv1d" in name:
            assert 0.45 < parameter.abs().max() <= 0.5
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_lower_bounds_rise_from_none_to_less_than_one():
    model = encoder()
    bounds = model._lower_bounds()
    assert bounds[0] is None
    stack = torch.stack([torch.zeros(24), *bounds[1:]])
    assert (stack.diff(dim=0) > 0).all() and (stack < 1).all()


@every_kind
def test_gradients_reach_every_parameter(options):
    model = encoder(**options)
    hidden(model, torch.randn(2, 9, 24)).square().sum().backward()
    without = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    assert without == {"embeddings.weight"}, "embeddings were given, all else must learn"


@every_kind
def test_a_layer_compiles_into_one_graph(options):
    model = encoder(**options)
    torch.compiler.reset()
    layer, embeds = model.layers[1], torch.randn(2, 9, 24)
    bound = model._lower_bounds()[1]
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(embeds, embeds, bound), layer(embeds, embeds, bound), atol=1e-5, rtol=1e-5)
    cu_seqlens = torch.tensor([0, 4, 9])
    arguments = (embeds[:1], embeds[:1], bound, None, cu_seqlens)
    torch.testing.assert_close(compiled(*arguments), layer(*arguments), atol=1e-5, rtol=1e-5)


def test_layers_compiled_one_by_one_share_their_graphs():
    """Ten compilations would hit torch's limit of eight, and fall back to eager layers, were they not shared."""
    torch.compiler.reset()
    model = encoder(num_hidden_layers=10)
    embeds = torch.randn(2, 9, 24)
    expected = hidden(model, embeds)
    for n, layer in enumerate(model.layers):
        model.layers[n] = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(hidden(model, embeds), expected, atol=1e-4, rtol=1e-4)


def test_activation_checkpointing_gives_the_same_gradients():
    model = encoder(use_short_conv=True, dropout=0.2).train()
    embeds = torch.randn(2, 9, 24)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        hidden(model, embeds).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.layers.parameters()]

    expected = gradients()
    model.activation_checkpointing_enable()
    for found, grad in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, grad)


def test_tied_dropout_leaves_out_the_same_channels_at_all_steps():
    drop = Dropout(0.5, tied=True).train()
    kept = drop(torch.ones(3, 7, 64))
    assert (kept == kept[:, :1]).all() and set(kept.unique().tolist()) == {0.0, 2.0}
    assert not (kept[0] == kept[1]).all()
    assert (drop.eval()(torch.ones(3, 7, 64)) == 1).all()


def test_stochastic_depth_leaves_branches_out_of_whole_sequences_and_grows_with_depth():
    model = encoder(stochastic_depth=0.5)
    assert [layer.depth.p for layer in model.layers] == pytest.approx(
        [0.5 * (n + 1) / len(model.layers) for n in range(len(model.layers))]
    )
    branch = StochasticDepth(0.5).train()(torch.ones(256, 3, 4))
    assert set(branch.unique().tolist()) == {0.0, 2.0} and (branch == branch[:, :1, :1]).all()
    assert 80 < (branch[:, 0, 0] == 0).sum() < 176
    x = torch.randn(2, 5, 3)
    assert (StochasticDepth(0.5).eval()(x) == x).all()


def test_time_constants_are_those_of_the_gates_that_the_scan_applies():
    model = encoder(use_short_conv=True, bidirectional=True).eval()
    embeds, mask = torch.randn(2, 9, model.config.hidden_size), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    found = model.time_constants(inputs_embeds=embeds, attention_mask=mask)
    assert [one.shape for one in found] == [(model.config.channels,)] * len(model.layers)
    alone = [model.time_constants(inputs_embeds=embeds[n : n + 1, :steps]) for n, steps in ((0, 9), (1, 6))]
    for layer, one in enumerate(found):
        mean = (9 / alone[0][layer] + 6 / alone[1][layer]) / 15
        torch.testing.assert_close(one, 1 / mean, rtol=1e-4, atol=1e-4)
    # Without a lower bound and with no weights a gate is a half.
    plain = encoder(use_lower_bound=False)
    torch.nn.init.zeros_(plain.layers[0].attn.f_proj.weight)
    expected = torch.full((plain.config.channels,), 1 / np.log(2))
    torch.testing.assert_close(
        plain.time_constants(inputs_embeds=embeds)[0].double(), expected.double(), rtol=1e-5, atol=1e-5
    )


def test_dropout_only_while_training():
    model = encoder(dropout=0.5)
    embeds = torch.randn(1, 5, 24)
    assert torch.equal(hidden(model, embeds), hidden(model, embeds))
    model.train()
    assert not torch.equal(hidden(model, embeds), hidden(model, embeds))


def test_wrong_calls_are_named():
    model, ids = encoder(), torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="exactly one of"):
        model(input_ids=ids, inputs_embeds=torch.zeros(1, 3, 24))
    with pytest.raises(ValueError, match="neither an attention mask nor a cache"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), cu_seqlens=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="has no cache"):
        encoder(bidirectional=True)(input_ids=ids, past_key_values=model(input_ids=ids).past_key_values)
