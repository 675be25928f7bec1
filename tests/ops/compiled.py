"""The Triton kernels compiled for a Hopper GPU, where there may be none; collected by test_triton.py, in a process of its own.

The interpreter runs what the compiler refuses: names that change their type in a loop, tiles that do not fit into shared memory.
"""

import re
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from lt25.models import fla_hopper
from lt25.ops import (
    add_norm_linear,
    add_rms_norm,
    causal_conv,
    gated_mlp,
    hgrn_mix,
    hgrn_scan,
    hgrn_step,
    mlp,
    selective_scan,
    short_conv,
)
from lt25.ops.backends import (
    triton_cross_entropy,
    triton_ctc,
    triton_gla,
    triton_hgrn2,
    triton_products,
    triton_row,
    triton_rwkv7,
    triton_ssd,
    triton_summary,
    triton_token,
)

# Bytes of shared memory that a program may have.
SHARED = 227 * 1024


class Driver:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture(autouse=True)
def kernels() -> Iterator[dict]:
    """Name and kernel of all that is launched, which is compiled instead."""
    triton.runtime.driver.set_active(Driver())
    launch, compiled = JITFunction.run, {}

    def only_compile(self, *arguments, grid, warmup, **options):
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        compiled[self.__name__] = kernel
        return kernel

    with patch.object(JITFunction, "run", only_compile):
        yield compiled
    assert compiled
    for name, kernel in compiled.items():
        assert "cubin" in kernel.asm and kernel.metadata.shared <= SHARED, f"{name}: {kernel.metadata.shared} bytes"


def half(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16().requires_grad_()


def run(results: torch.Tensor | tuple) -> None:
    """The backward pass of results that nothing was written to."""
    results = [results] if isinstance(results, torch.Tensor) else [each for each in results if each is not None]
    torch.autograd.backward(
        [each for each in results if each.requires_grad], [torch.ones_like(each) for each in results]
    )


def test_scan():
    run(hgrn_scan(half(2, 70, 64), half(2, 70, 64), backend="triton"))


@pytest.mark.parametrize("channels", [64, 256])
@pytest.mark.parametrize("masked", [False, True])
def test_mix(channels, masked):
    """With the product after it and without a gradient of the final state, as in training."""
    bound, out = torch.rand(channels, requires_grad=True), half(channels, channels)
    mask = torch.ones(2, 70, dtype=torch.bool) if masked else None
    ifg = half(2, 70, 3 * channels)
    run(hgrn_mix(ifg, torch.ones(channels), 1e-6, bound, mask, out_weight=out, backend="triton")[0])


@pytest.mark.parametrize("ways", [1, 2])
def test_summary(ways):
    ifg, mask = half(2, 70, 3 * 256).detach(), torch.ones(2, 70, dtype=torch.bool)
    triton_summary.summarise(ifg, None, mask, None, ways == 2)
    triton_summary.summarise(ifg[:1], torch.rand(256), None, torch.tensor([9, 60]), ways == 2)


@pytest.mark.parametrize("channels", [64, 256, 2048])
def test_norms(channels):
    weight = torch.ones(channels, requires_grad=True)
    run(add_rms_norm(half(70, channels), half(70, channels), weight, 1e-6, backend="triton"))
    weights = [half(channels, channels) for _ in range(3)]
    run(add_norm_linear(half(70, channels), half(70, channels), weight, 1e-6, weights, backend="triton"))


@pytest.mark.parametrize(("hidden", "width"), [(64, 256), (128, 512), (256, 768)])
def test_mlp(hidden, width):
    weights = half(width, hidden), half(width, hidden), half(hidden, width)
    run(gated_mlp(half(70, hidden), *weights, backend="triton"))
    # What wide networks take on a GPU, of a single row.
    run(mlp._wide(half(hidden), *weights)[0])
    x, gate, up, down = (each.detach() for each in (half(70, hidden), *weights))
    gate_up, _ = triton_products.gate_up_swiglu(x, gate, up)
    triton_products.swiglu_product_backward(x, gate_up, down)


@pytest.mark.parametrize("width", [64, 1024])
@pytest.mark.parametrize("mixtures", [5, 6])
def test_mixtures_and_square_of_rwkv7(width, mixtures):
    """With weights in float32, as under mixed precision where they are not cast."""
    grads, weights = [half(2, 70, width).detach() for _ in range(mixtures)], [torch.rand(1, 1, width)] * mixtures
    triton_rwkv7.mix_backward(grads, grads[0], weights)
    triton_rwkv7.squared_relu_backward(grads[0], triton_rwkv7.squared_relu(grads[1]))


@pytest.mark.slow
def test_selective_scan():
    """With gates and boundaries, as in a layer; the compiler takes half a minute."""
    steps, few = [half(1, 70, 2048) for _ in range(3)], [half(1, 70, 16) for _ in range(2)]
    parameters, bounds = (-torch.rand(2048, 16), *few, *torch.ones(2, 2048)), torch.tensor([0, 9, 70])
    run(selective_scan(*steps[:2], *parameters, steps[2], bounds, backend="triton")[0])


@pytest.mark.parametrize("packed", [False, True])
def test_causal_convolution(packed, kernels):
    """A thread has the same channels in all tiles: nothing is handed from thread to thread but, in the end, sums."""
    x, weight, bias = half(1, 300, 320), half(192, 4), half(192)
    run(causal_conv(x[..., 64:256], weight, bias, torch.tensor([0, 9, 300]) if packed else None, backend="triton"))
    assert "convert_layout" not in kernels["_forward"].asm["ttgir"]
    assert "convert_layout" not in kernels["_backward"].asm["ttgir"].split("tt.reduce")[0]


def test_convolution_and_step():
    run(short_conv(half(2, 70, 192), torch.randn(128, 4, requires_grad=True), backend="triton"))
    hgrn_step(half(2, 192).detach(), torch.ones(64), 1e-6, torch.zeros(2, 64), backend="triton")


@pytest.mark.parametrize(("hidden", "width"), [(64, 96), (1024, 2816), (4096, 11008)])
def test_products_of_a_row(hidden, width):
    """As generation launches them on a Hopper GPU, ahead of the row."""
    x, weight, gate, up, down = (
        half(1, hidden),
        half(hidden, hidden),
        *(half(width, hidden) for _ in "gu"),
        half(hidden, width),
    )
    norm = torch.ones(hidden)
    state = torch.zeros(1, hidden)
    triton_row.norm_product(x, x, norm, 1e-6, [gate, up], early=True)
    triton_row.mixer_step(x, norm, 1e-6, [weight] * 3, norm, 1e-6, state, norm, weight, early=True)
    triton_token.argmax(x)
    triton_token.embedding(torch.zeros(1, 1, dtype=torch.int64), weight)
    triton_row.mlp_step(x, norm, 1e-6, gate, up, down, early=True)


@pytest.mark.parametrize(("classes", "labels"), [(39, 150), (1024, 150)])
def test_ctc(classes, labels):
    logits, lengths = half(2, 300, classes).detach(), torch.tensor([300, 200])
    targets = torch.randint(1, classes, (2, labels))
    _, *saved = triton_ctc.forward(logits, lengths, targets, 0, True)
    triton_ctc.backward(torch.ones(()), logits, targets, 0, *saved)


@pytest.mark.parametrize("classes", [320, 32000])
@pytest.mark.parametrize("differentiable", [False, True])
def test_cross_entropy(classes, differentiable):
    labels, losses = torch.randint(classes, (8,)), torch.empty(8)
    triton_cross_entropy.rows(half(8, classes).detach(), labels, 1e-4, losses, differentiable)


@pytest.mark.parametrize(
    ("keys", "values", "delta_rule", "states"),
    [(256, 512, True, torch.bfloat16), (128, 64, False, torch.float32), (128, 128, False, torch.bfloat16)],
)
@pytest.mark.parametrize("state_v_first", [False, True])
def test_backward_of_recurrences_with_a_decay(keys, values, delta_rule, states, state_v_first, kernels):
    """Triton gives tiles of a loop that are not only multiplied one buffer, and fills it while products still read it."""
    q, k, w = (half(1, 150, 2, keys).detach() for _ in range(3))
    v, do, dv = (half(1, 150, 2, values).detach() for _ in range(3))
    size = (1, 3, 2, values, keys) if state_v_first else (1, 3, 2, keys, values)
    h, dh = torch.randn(size, dtype=states), torch.randn(size, dtype=states)
    w, dv = (w, dv) if delta_rule else (None, None)
    fla_hopper.gradients(q, k, v, do, h, dh, w, torch.randn(1, 150, 2), dv, 0.3, state_v_first, None, 64, None)
    assert "memdesc<1x" not in kernels["_gradients"].asm["ttgir"]


@pytest.mark.parametrize(
    ("keys", "values", "packed"), [(128, 256, False), (128, 256, True), (128, 128, True), (16, 32, True)]
)
def test_gated_linear_attention(keys, values, packed, kernels):
    """As above."""
    z, q, k = (half(1, 150, 2, keys).detach() for _ in range(3))
    v, do = (half(1, 150, 2, values).detach() for _ in range(2))
    h, dh = (half(1, 3, 2, values, keys).detach() for _ in range(2))
    bounds = (torch.tensor([0, 150]), torch.zeros(3, 2, dtype=torch.int64)) if packed else (None, None)
    g = triton_gla.decays(z, 0.1, True, *bounds)
    triton_gla.values_backward(k, g, torch.randn(1, 150, 2, triton_gla.CHUNK), do, dh, *bounds)
    triton_gla.keys_backward(q, k, v, z if keys < values else None, g, h, do, dh, g, g, 0.1, 0.1, *bounds)
    assert len(kernels) == 3
    for kernel in kernels.values():
        assert "memdesc<1x" not in kernel.asm["ttgir"]


@pytest.mark.parametrize(
    ("values", "columns", "dtype"),
    [(64, 128, torch.bfloat16), (16, 24, torch.float16), (128, 128, torch.bfloat16)],
)
def test_mamba2(values, columns, dtype, kernels):
    """As above, with the largest states too."""
    heads, groups = 8, 2
    widths = heads * values + 2 * groups * columns, heads * values
    x, do = (torch.randn(2, 150, width, dtype=dtype) for width in widths)
    given = x, torch.rand(2, 150, heads), torch.randn(2, 150, heads), torch.randn(heads, values), groups
    _, last, h = triton_ssd.forward(*given)
    triton_ssd.backward(do, last, *given, h)
    assert len(kernels) == 5
    for kernel in kernels.values():
        # A number that is loaded ahead is no tile.
        assert not re.search(r"memdesc<1x\d", kernel.asm["ttgir"])


@pytest.mark.parametrize("bounded", [False, True])
def test_gates_of_hgrn2(bounded):
    z, bound = half(2, 70, 1024).detach(), torch.rand(1024) if bounded else None
    k, g = triton_hgrn2.forward(z, bound)
    triton_hgrn2.backward(z, bound, k, g)
