"""What lt25 computes in FLA's place, and HGRN's checkpoints, beside FLA by Triton's interpreter; run by test_fla.py."""

from tests.models import interpret  # isort: skip

import math
from contextlib import ExitStack
from functools import partial
from inspect import unwrap

import pytest
import torch
from fla.layers import gla, hgrn2, mamba, mamba2
from fla.models import GLAConfig, GLAModel, Mamba2Config, Mamba2Model
from fla.models import HGRNConfig as FLAConfig
from fla.models import HGRNForCausalLM as FLAModel
from fla.modules import ShortConvolution, activations
from fla.modules.causal_conv1d import ops as conv_ops
from fla.modules.mlp import GatedMLP
from fla.modules.norm import RMSNorm, fused_norm_gate, layernorm
from fla.modules.rotary import RotaryEmbedding, ops
from fla.ops.common import chunk_h
from fla.ops.common.chunk_o import chunk_bwd_dqkwg
from fla.ops.rwkv7 import fused_addcmul

from lt25.models import (
    HGRNConfig,
    HGRNForCausalLM,
    fla,
    fla_chunks,
    fla_conv,
    fla_gla,
    fla_hgrn2,
    fla_hopper,
    fla_mamba,
    fla_mamba2,
    fla_maps,
    fla_rotary,
    fla_rows,
)
from lt25.ops import gated_rms_norm
from lt25.replaced import replaced
from tests.models import decaying

__all__ = ["interpret"]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("delta_rule", [pytest.param(True, marks=pytest.mark.slow), False])
def test_gradients_are_those_of_the_recurrence(delta_rule, monkeypatch):
    """All of the gated delta rule's kernels, interpreted, take a minute; a GPU, in test_fla.py, needs none."""
    calls = []
    own = fla_hopper.gradients
    monkeypatch.setattr(fla_hopper.HopperBackend, "is_available", classmethod(lambda cls: True))
    monkeypatch.setattr(fla_hopper, "gradients", lambda **given: calls.append(1) or own(**given))
    errors = decaying.errors("cpu", torch.float32, delta_rule, steps=75, heads=1, keys=16, values=16)
    assert calls and max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize(
    ("packed", "state_v_first", "delta_rule", "keys", "values", "chunk", "dtypes"),
    [
        (False, False, True, 16, 32, 64, (torch.float32, torch.float32)),
        (True, True, True, 80, 96, 64, (torch.float32, torch.float32)),
        (True, False, False, 80, 48, 32, (torch.float32, torch.float32)),
        (False, True, False, 128, 64, 64, (torch.bfloat16, torch.float32)),
        (True, False, True, 32, 128, 16, (torch.bfloat16, torch.bfloat16)),
    ],
)
def test_it_computes_what_the_kernel_does(packed, state_v_first, delta_rule, keys, values, chunk, dtypes):
    """Two heads share a query, sequences end within a chunk, and nothing is left of a state after a few steps."""
    torch.manual_seed(0)
    batch, steps = (1, 150) if packed else (2, 75)
    bounds = torch.tensor([0, 5, 75, 150]) if packed else None
    counts = [-(-length // chunk) for length in ([5, 70, 75] if packed else [75])]
    chunks = (batch, sum(counts), 2)
    states = (*chunks, values, keys) if state_v_first else (*chunks, keys, values)
    given = {
        **{name: torch.randn(batch, steps, 1, keys, dtype=dtypes[0]) for name in ("q", "k")},
        **{name: torch.randn(batch, steps, 2, values, dtype=dtypes[0]) for name in ("v", "do")},
        **{name: torch.randn(states, dtype=dtypes[1]) for name in ("h", "dh")},
        "g": -torch.rand(batch, steps, 2).cumsum(1) * torch.tensor([0.1, 40]),
        "scale": 0.3,
        "state_v_first": state_v_first,
        "cu_seqlens": bounds,
        "chunk_size": chunk,
    }
    if delta_rule:
        given["w"] = torch.randn(batch, steps, 2, keys, dtype=dtypes[0])
        given["dv"] = torch.randn(batch, steps, 2, values, dtype=dtypes[0])
    found = fla_hopper.HopperBackend().chunk_bwd_dqkwg(**given)
    # The interpreter multiplies numbers of 16 bits wrongly, which FLA's kernel does.
    wide = {
        name: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for name, x in given.items()
    }
    expected = unwrap(chunk_bwd_dqkwg)(**wide)
    error = 1e-5 if dtypes[0] == torch.float32 else 1e-2
    for name, mine, theirs in zip(("q", "k", "w", "g"), found, expected, strict=True):
        if name in given:
            assert mine.dtype == given[name].dtype
            assert (mine.float() - theirs).norm() < error * theirs.norm(), name
        else:
            assert mine is None and theirs is None


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with a residual"])
@pytest.mark.parametrize("prenorm", [False, True], ids=["norm", "norm and sum"])
def test_a_norm_is_what_fla_computes(beside, prenorm):
    torch.manual_seed(0)
    norm = RMSNorm(48, eps=1e-3)
    weight, *inputs = (torch.randn(*shape, requires_grad=True) for shape in ((48,), (2, 5, 48), (2, 5, 48)))
    norm.weight = torch.nn.Parameter(weight.detach().clone())
    inputs, found = inputs[: 1 + beside], []
    for call in (fla_rows.rms_norm, fla_rows._rms_norm):
        with replaced(layernorm, "rms_norm", call):
            results = norm(*inputs, prenorm=prenorm)
        results = results if prenorm else (results,)
        loss = sum((result * (n + torch.arange(48).cos())).sum() for n, result in enumerate(results))
        found.append([*results, *torch.autograd.grad(loss, [*inputs, norm.weight])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (
            partial(GLAModel, GLAConfig(hidden_size=32, num_heads=2, num_hidden_layers=1, intermediate_size=48)),
            "attn_norm",
        ),
        (partial(Mamba2Model, Mamba2Config(hidden_size=32, head_dim=16, num_hidden_layers=1, state_size=16)), "norm"),
    ],
    ids=["gla", "mamba2"],
)
@pytest.mark.parametrize("kept", [True, False], ids=["plain", "with a hook"])
def test_a_block_adds_to_the_input_of_its_norm(kept, model, name):
    torch.manual_seed(0)
    model = model().train()
    block, x, seen, found = model.layers[0], torch.randn(2, 5, 32, requires_grad=True), [], []
    if not kept:
        getattr(block, name).register_forward_hook(lambda *_: seen.append(1))
    for call in (type(block).forward, unwrap(type(block).forward)):
        y = call(block, x)[0]
        found.append([y, *torch.autograd.grad((y * torch.arange(32).cos()).sum(), [x, *block.parameters()])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert len(seen) == (0 if kept else 2) and name not in vars(block)


@pytest.mark.parametrize("outer", [(2, 5, 3), ()], ids=["rows", "one row"])
@pytest.mark.parametrize("gate_first", [False, True])
def test_a_gated_norm_is_what_fla_computes(gate_first, outer):
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((*outer, 48), (*outer, 100), (48,))]
    x, wide, weight = inputs
    # As a part of what a product has computed.
    gate = wide[..., 12:60]
    expected = fla_rows._rmsnorm_fn(x, weight, None, gate, 1e-3, norm_before_gate=not gate_first)
    if not gate_first:
        # FLA has this norm twice, and lt25 stands for both.
        torch.testing.assert_close(fla_rows._rms_norm_gated(x, gate, weight, None, eps=1e-3), expected)
    for backend in ("triton", "reference"):
        found = gated_rms_norm(x, gate, weight, 1e-3, gate_first, backend)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        grads = [
            torch.autograd.grad((y * torch.arange(48).cos()).sum(), inputs, retain_graph=True)
            for y in (found, expected)
        ]
        for mine, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("bounds", "activation"), [(None, "silu"), ([0, 5, 5, 40], "swish"), (None, None)])
def test_a_short_convolution_is_what_fla_computes(bounds, activation):
    torch.manual_seed(0)
    layer, found = ShortConvolution(48, 4, bias=True, activation=activation), []
    x = torch.randn(1, 40, 48, requires_grad=True)
    cu_seqlens = torch.tensor(bounds) if bounds else None
    for call in (fla_conv.causal_conv1d, fla_conv._causal_conv1d):
        with replaced(conv_ops, "causal_conv1d", call):
            y, state = layer(x, cu_seqlens=cu_seqlens)
        assert state is None
        found.append([y, *torch.autograd.grad((y * torch.arange(48).cos()).sum(), [x, *layer.parameters()])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_a_gated_mlp_is_what_fla_computes():
    torch.manual_seed(0)
    mlp, x, found = GatedMLP(16, intermediate_size=24), torch.randn(2, 5, 16, requires_grad=True), []
    for call in (fla_rows.forward, fla_rows._gated_mlp):
        y = call(mlp, x)
        found.append([y, *torch.autograd.grad((y * torch.arange(16).cos()).sum(), [x, *mlp.parameters()])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("steps", "bounds", "offset"), [(5, None, 3), (150, None, 0), (150, [0, 5, 5, 150], 0)])
def test_a_rotary_embedding_is_what_fla_computes(steps, bounds, offset):
    torch.manual_seed(0)
    rotary, shape = RotaryEmbedding(16), (1 if bounds else 2, steps, 3, 16)
    inputs, found = [torch.randn(shape, requires_grad=True) for _ in "qk"], []
    cu_seqlens = torch.tensor(bounds) if bounds else None
    for call in (fla_rotary.rotary_embedding, fla_rotary._rotary_embedding):
        with replaced(ops, "rotary_embedding", call):
            results = rotary(*inputs, seqlen_offset=offset, max_seqlen=200, cu_seqlens=cu_seqlens)
        loss = sum((result * torch.arange(16).cos()).sum() for result in results)
        found.append([*results, *torch.autograd.grad(loss, inputs)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_what_lt25_has_no_operator_for_goes_flas_own_way():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    plain = RMSNorm(16, elementwise_affine=False)
    torch.testing.assert_close(plain(x), x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt())
    mlp = GatedMLP(16, intermediate_size=24)
    before, seen = mlp(x), []
    mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(mlp(x), before)
    assert seen


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_mamba2_by_the_scan_is_what_its_layer_computes(backend):
    torch.manual_seed(0)
    sizes = {"num_heads": 2, "head_dim": 16, "hidden_size": 16, "state_size": 16, "chunk_size": 16}
    layer = mamba2.Mamba2(**sizes, layer_idx=0)
    x, weight = torch.randn(2, 21, 16, requires_grad=True), torch.randn(2, 21, 16)
    mask = torch.ones(2, 21)
    mask[1, :4] = 0
    ways = [
        fla_mamba2.scanned(layer, x, use_cache=True, mask=mask, backend=backend),
        fla_mamba2._plain(layer, x, use_cache=True, attention_mask=mask),
    ]
    wanted = (x, *(parameter for parameter in layer.parameters() if parameter.requires_grad))
    for found, expected in zip(*ways, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    grads = [torch.autograd.grad((y * weight).sum(), wanted) for y, *_ in ways]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_mamba2_of_several_groups_reads_a_text_as_it_does_token_by_token():
    torch.manual_seed(0)
    sizes = {"num_heads": 4, "head_dim": 8, "hidden_size": 16, "state_size": 16, "n_groups": 2, "D_has_hdim": True}
    layer = mamba2.Mamba2(**sizes, layer_idx=0)
    x = torch.randn(2, 9, 16)
    whole, _, state = fla_mamba2.scanned(layer, x, use_cache=True)
    _, conv, ssm = fla_mamba2.scanned(layer, x[:, :4], use_cache=True)
    rows = []
    for token in x[:, 4:].split(1, 1):
        y, conv, ssm = fla_mamba2.forward(layer, token, {"conv_state": conv, "recurrent_state": ssm}, True)
        rows.append(y)
    torch.testing.assert_close(torch.cat(rows, 1), whole[:, 4:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ssm, state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "scanned"), [(mamba.Mamba, fla_mamba.scanned), (mamba2.Mamba2, fla_mamba2.scanned)])
def test_padding_leaves_the_mambas_in_half_precision(kind, scanned):
    """What follows the first product is read and written in the dtype in which autocast computes it."""
    layer = kind(
        hidden_size=16, state_size=16, layer_idx=0, **({} if kind is mamba.Mamba else {"num_heads": 2, "head_dim": 16})
    )
    mask = torch.ones(2, 5)
    mask[1, :2] = 0
    with torch.autocast("cpu", torch.bfloat16):
        _, last, _ = scanned(layer, torch.randn(2, 5, 16), use_cache=True, mask=mask)
    assert last.dtype == torch.bfloat16


def test_mamba_by_the_selective_scan_is_what_its_layer_computes():
    torch.manual_seed(0)
    layer = mamba.Mamba(hidden_size=16, intermediate_size=32, state_size=16, layer_idx=0, use_bias=True)
    x, weight = torch.randn(2, 70, 16, requires_grad=True), torch.randn(2, 70, 16)
    mask = torch.ones(2, 70)
    mask[1, :4] = 0
    ways = [
        fla_mamba.scanned(layer, x, use_cache=True, mask=mask, backend="triton"),
        fla_mamba._plain(layer, x, use_cache=True, attention_mask=mask),
    ]
    for found, expected in zip(*ways, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    grads = [torch.autograd.grad((y * weight).sum(), (x, *layer.parameters())) for y, *_ in ways]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


HOMES = {gla.GatedLinearAttention: gla, hgrn2.HGRN2Attention: hgrn2}
GLA, HGRN2 = gla.GatedLinearAttention, hgrn2.HGRN2Attention
SIZES_OF = {
    fla_maps.attn.Attention: {"num_heads": 2},
    GLA: {"num_heads": 2, "expand_k": 1},
    HGRN2: {"expand_ratio": 16},
    fla_maps.gsa.GatedSlotAttention: {"num_heads": 2, "num_slots": 16},
    fla_maps.multiscale_retention.MultiScaleRetention: {"num_heads": 2, "expand_k": 1, "expand_v": 1},
    fla_maps.delta_net.DeltaNet: {"num_heads": 2},
    fla_maps.gated_deltanet.GatedDeltaNet: {"num_heads": 1, "head_dim": 16, "expand_v": 1},
}


def both_ways(layer, own, mine, dtype, x, bounds, **named):
    """Results and all gradients of a layer, by a forward and a function `chunk_gla` each."""
    torch.manual_seed(1)
    weight, ways = torch.randn(x.shape), []
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for forward, chunked in (own, mine):
        with (
            replaced(HOMES.get(type(layer), gla), "chunk_gla", chunked),
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        ):
            y = forward(layer, hidden_states=x, cu_seqlens=bounds, **named)[0]
        inputs = [x, *named.values(), *layer.parameters()]
        ways.append([y, *torch.autograd.grad((y.float() * weight).sum(), inputs)])
    return zip(["y", "x", *named, *(name for name, _ in layer.named_parameters())], *ways, strict=True)


@pytest.mark.parametrize(
    ("kind", "dtype", "packed"),
    [(GLA, torch.float32, True), (GLA, torch.float16, False), (HGRN2, torch.float32, False)],
)
def test_gated_linear_attention_is_what_fla_computes(kind, dtype, packed):
    """Over three chunks, whose states are kept in half precision where queries and keys have it."""
    torch.manual_seed(0)
    layer = kind(hidden_size=32, **SIZES_OF[kind], layer_idx=1)
    named = {"lower_bound": torch.rand(32, requires_grad=True)} if kind is HGRN2 else {}
    x = torch.randn(1, 215, 32, requires_grad=True) if packed else torch.randn(2, 130, 32, requires_grad=True)
    bounds = torch.tensor([0, 5, 75, 215, 215]) if packed else None
    own, calls = fla_gla._Chunked.apply, []
    with replaced(fla_gla._Chunked, "apply", lambda *given: calls.append(1) or own(*given)):
        ways = both_ways(
            layer, (unwrap(kind.forward), fla_gla._own), (kind.forward, fla_gla.chunk_gla), dtype, x, bounds, **named
        )
    assert calls == [1]
    for name, theirs, mine in ways:
        assert mine.dtype == theirs.dtype, name
        error = 1e-5 if dtype == torch.float32 else 1e-3
        found = ((mine.float() - theirs.float()).norm() / theirs.float().norm()).item()
        assert found < error, f"{name}: {found}"


@pytest.mark.parametrize("bounded", [False, True])
def test_gates_of_hgrn2_are_what_their_definition_says(bounded):
    torch.manual_seed(0)
    z = (3 * torch.randn(2, 21, 40)).requires_grad_()
    with torch.no_grad():
        z[0, 0, :4] = torch.tensor([-120.0, -30, 30, 120])
    bound = torch.rand(40).requires_grad_() if bounded else None
    inputs = [each for each in (z, bound) if each is not None]
    s, least = z.double().sigmoid(), bound.double() if bounded else 0.0
    weights = torch.randn(2, *z.shape)
    gate = least + (1 - least) * s
    expected = [1 - gate, gate.log().clamp_min(-126 * math.log(2))]
    found = fla_hgrn2._Gates.apply(z, bound)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-6, rtol=1e-5)
    grads = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(way, weights, strict=True)), inputs)
        for way in (found, expected)
    ]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_gated_linear_attention_is_the_recurrence():
    errors = decaying.errors_of_gla("cpu", torch.float32, True, steps=140, heads=1, keys=16, values=16)
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("kind", SIZES_OF, ids=lambda kind: kind.__name__)
def test_maps_of_one_input_are_computed_together(kind):
    torch.manual_seed(0)
    assert fla_maps.MAPS.keys() == SIZES_OF.keys()
    layer = kind(hidden_size=32, **SIZES_OF[kind], layer_idx=0).train()
    x, called, call = torch.randn(1, 5, 32, requires_grad=True), [], torch.nn.Linear.forward
    names = {part: name for name, part in layer.named_modules()}

    def counted(*given, **named):
        with replaced(torch.nn.Linear, "forward", lambda part, x: called.append(names[part]) or call(part, x)):
            return kind.forward(*given, **named)

    ways = both_ways(layer, (unwrap(kind.forward), gla.chunk_gla), (counted, gla.chunk_gla), torch.float32, x, None)
    for name, theirs, mine in ways:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert {"o_proj", "gk_proj.1"}.issuperset(called)
    assert not any(name in vars(layer) for name in fla_maps.MAPS[kind])


def test_the_host_knows_how_many_chunks_there_are():
    torch.manual_seed(0)
    bounds = torch.tensor([0, 5, 75, 130, 130])
    offsets, expected = fla_chunks.offsets(bounds, 64), fla_chunks._own(bounds, 64)
    assert offsets.tolist() == expected.tolist() == [0, 1, 3, 4, 4]
    assert offsets[-1].item() == 4 and offsets[2].item() == 3
    k, v, g = (torch.randn(1, 130, 1, size) for size in (16, 16, 16))
    states = []
    for prepare in (fla_chunks.offsets, fla_chunks._own):
        with replaced(chunk_h, "prepare_chunk_offsets", prepare):
            states.append(chunk_h.chunk_fwd_h(k, v, gk=-g.abs(), cu_seqlens=bounds)[0])
    torch.testing.assert_close(*states, atol=0, rtol=0)


@pytest.mark.parametrize("gated", [True, False])
def test_the_gradient_of_rwkv7s_mixtures_is_that_of_their_definition(gated):
    torch.manual_seed(0)
    x, delta = (torch.randn(2, 300, 24, requires_grad=True) for _ in range(2))
    weights = [torch.randn(1, 1, 24, requires_grad=True) if gated or at < 5 else None for at in range(6)]
    given, found = [x, delta, *(weight for weight in weights if weight is not None)], []
    grads = [torch.randn(2, 300, 24) for _ in given[2:]]
    for mix in (fused_addcmul.fused_addcmul_rwkv7, fused_addcmul.torch_addcmul_rwkv7):
        mixtures = [each for each in mix(x, delta, *weights) if each is not None]
        found.append(torch.autograd.grad(mixtures, given, grads))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)


def test_the_square_of_what_is_positive():
    x = torch.randn(3, 1000, requires_grad=True)
    grad, found = torch.randn(3, 1000), []
    for y in (activations.sqrelu(x), x.relu().square()):
        found.append((y, *torch.autograd.grad(y, x, grad)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiler_sees_the_square_of_what_is_positive(dtype):
    x, grad = torch.randn(1000).to(dtype).requires_grad_(), torch.randn(1000).to(dtype)
    found = []
    for square in (torch.compile(activations.sqrelu, fullgraph=True, backend="aot_eager"), activations.sqrelu):
        y = square(x)
        found.append((y, *torch.autograd.grad(y, x, grad)))
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_what_is_no_number_is_not_hidden_by_the_square():
    x = torch.tensor([torch.nan, -1.0, 2.0], requires_grad=True)
    y = activations.sqrelu(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert [each.isnan().tolist() for each in (y, grad)] == [[True, False, False]] * 2


def test_fla_has_its_own_again():
    places = [(kind, "forward") for kind in SIZES_OF] + [(gla, "chunk_gla"), (hgrn2, "chunk_gla")]
    places += [
        (ops, "rotary_embedding"),
        (layernorm, "rms_norm"),
        (fused_norm_gate, "rms_norm_gated"),
        (GatedMLP, "forward"),
        (activations.ops, "sqrelu_fwd"),
        (activations.ops, "sqrelu_bwd"),
        (fused_addcmul.Rwkv7FusedAddcmul, "backward"),
    ]
    places += [*((block, "forward") for block, _ in fla_rows._blocks)]
    with ExitStack() as kept:
        for owner, name in places:
            kept.enter_context(replaced(owner, name, getattr(owner, name)))
        fla.give_back()
        assert all(unwrap(getattr(owner, name)).__module__.startswith("fla.") for owner, name in places)
        assert not any(hasattr(kind.forward, "__wrapped__") for kind in SIZES_OF)


def test_maps_that_are_more_than_their_weights_are_called():
    torch.manual_seed(0)
    layer, x, seen = GLA(hidden_size=32, **SIZES_OF[GLA]), torch.randn(1, 5, 32), []
    before = layer(x)[0]
    layer.k_proj.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(layer(x)[0], before)
    assert seen


OPTIONS = [{"expand_ratio": 2}, {"use_short_conv": True, "tie_word_embeddings": True, "use_lower_bound": False}]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 20, "initializer_range": 0.3}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("direction", ["from FLA", "to FLA"])
def test_hgrn_and_lt25_hgrn_read_each_others_checkpoints(direction, options, tmp_path):
    torch.manual_seed(0)
    if direction == "from FLA":
        model, other = FLAModel(FLAConfig(**SIZES, **options)), HGRNForCausalLM
    else:
        model, other = HGRNForCausalLM(HGRNConfig(**SIZES, **options, dropout=0.1)), FLAModel
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(tmp_path)
    again, faults = other.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(faults.values()), faults
    tokens = torch.randint(20, (2, 17))
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        torch.testing.assert_close(again.eval()(tokens, use_cache=False).logits, expected, atol=1e-5, rtol=1e-4)
