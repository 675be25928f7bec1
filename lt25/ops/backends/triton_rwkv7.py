"""What RWKV-7 computes elementwise on a GPU: gradients of mixtures x + delta * weight, and max(x, 0)^2.

A layer reads mixtures of each token and the one before, of five or six weights. Tokens' gradients and sums over tokens for the
weights' come of one pass over memory: each program sums over the tokens that it takes, and another kernel sums over programs,
always in the same order.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_rows import sum_parts

# Each with its own sums over tokens: four for every multiprocessor.
_PROGRAMS = 528


@triton.jit
def _part(grad, weight, delta, at, column, mask):
    """Return a mixture's gradient, its part of the gradient of delta, and of its weight's."""
    value = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    return value, value * tl.load(weight + column, mask=mask, other=0.0).to(tl.float32), value * delta


@triton.jit(do_not_specialize=("tokens",))
def _mix_backward(
    grad_r, grad_w, grad_k, grad_v, grad_a, grad_g, x_r, x_w, x_k, x_v, x_a, x_g, delta, grad_x, grad_delta, sums, tokens,
    D: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program takes tokens as far apart as there are programs."""
    column = tl.arange(0, BLOCK)
    mask = column < D
    sum_r = tl.zeros([BLOCK], tl.float32)
    sum_w = tl.zeros([BLOCK], tl.float32)
    sum_k = tl.zeros([BLOCK], tl.float32)
    sum_v = tl.zeros([BLOCK], tl.float32)
    sum_a = tl.zeros([BLOCK], tl.float32)
    sum_g = tl.zeros([BLOCK], tl.float32)
    for token in tl.range(tl.program_id(0), tokens, tl.num_programs(0), num_stages=STAGES):
        at = (token + tl.arange(0, 1)).to(tl.int64) * D + column
        difference = tl.load(delta + at, mask=mask, other=0.0).to(tl.float32)
        r, delta_r, weight_r = _part(grad_r, x_r, difference, at, column, mask)
        w, delta_w, weight_w = _part(grad_w, x_w, difference, at, column, mask)
        k, delta_k, weight_k = _part(grad_k, x_k, difference, at, column, mask)
        v, delta_v, weight_v = _part(grad_v, x_v, difference, at, column, mask)
        a, delta_a, weight_a = _part(grad_a, x_a, difference, at, column, mask)
        of_x, of_delta = r + w + k + v + a, delta_r + delta_w + delta_k + delta_v + delta_a
        if GATED:
            g, delta_g, weight_g = _part(grad_g, x_g, difference, at, column, mask)
            of_x, of_delta = of_x + g, of_delta + delta_g
            sum_g += weight_g
        sum_r += weight_r
        sum_w += weight_w
        sum_k += weight_k
        sum_v += weight_v
        sum_a += weight_a
        tl.store(grad_x + at, of_x.to(grad_x.dtype.element_ty), mask=mask)
        tl.store(grad_delta + at, of_delta.to(grad_delta.dtype.element_ty), mask=mask)
    to = sums + tl.program_id(0) * (5 + GATED) * D + column
    tl.store(to, sum_r, mask=mask)
    tl.store(to + D, sum_w, mask=mask)
    tl.store(to + 2 * D, sum_k, mask=mask)
    tl.store(to + 3 * D, sum_v, mask=mask)
    tl.store(to + 4 * D, sum_a, mask=mask)
    if GATED:
        tl.store(to + 5 * D, sum_g, mask=mask)


@triton.jit
def _relu(x, at, size):
    """Return max(x, 0) in float32; what is no number stays so, as in torch, and is seen in the loss."""
    return tl.maximum(tl.load(x + at, mask=at < size).to(tl.float32), 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _squared_relu(x, y, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = _relu(x, at, size)
    tl.store(y + at, (value * value).to(y.dtype.element_ty), mask=at < size)


@triton.jit
def _squared_relu_backward(grad_y, x, grad_x, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = _relu(x, at, size)
    grad = tl.load(grad_y + at, mask=at < size).to(tl.float32)
    tl.store(grad_x + at, (2.0 * grad * value).to(grad_x.dtype.element_ty), mask=at < size)


@settled
def _mix_gradients(tokens: int, width: int, gated: bool) -> Launch:
    block = triton.next_power_of_2(width)
    sizes = {"D": width, "BLOCK": block, "STAGES": 2, "num_warps": min(max(block // 256, 1), 16)}
    return Launch(_mix_backward, (min(_PROGRAMS, tokens),), tokens, GATED=gated, **sizes)


@settled
def _square(backward: bool, size: int) -> Launch:
    kernel = _squared_relu_backward if backward else _squared_relu
    return Launch(kernel, (triton.cdiv(size, 2048),), size, BLOCK=2048)


def mix_backward(grads: Sequence[Tensor], delta: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate five or six mixtures.

    Args:
        grads: of the mixtures, each [..., D].
        delta: [..., D].
        weights: as many, each of D numbers.

    Returns:
        Gradients of x and of delta [..., D] in delta's dtype, and of the weights, float32 [number of weights, D].
    """
    width, gated = delta.shape[-1], len(weights) > 5
    delta = delta.contiguous()
    grads = [grad.contiguous() for grad in grads]
    grad_x, grad_delta = torch.empty_like(delta), torch.empty_like(delta)
    launch = _mix_gradients(delta.numel() // width, width, gated)
    sums = torch.empty(launch.programs, len(weights) * width, dtype=torch.float32, device=delta.device)
    # What stands for a sixth that is not there is not read.
    none = () if gated else (delta,)
    launch(*grads, *none, *weights, *none, delta, grad_x, grad_delta, sums)
    return grad_x, grad_delta, sum_parts(sums).view(-1, width)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2, in the shape and dtype of x."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _square(False, x.numel())(x, y)
    return y


def squared_relu_backward(grad_y: Tensor, x: Tensor) -> Tensor:
    """The gradient of x, in its dtype."""
    grad_y, x = grad_y.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    _square(True, x.numel())(grad_y, x, grad_x)
    return grad_x
