"""Gates, scan and gated norm on a CPU, compiled by numba.

One pass computes gates and scan, in parallel over sequences and channels; a second computes the norm, in parallel over rows. As
in :mod:`lt25.ops.backends.numba_scan`, the result does not depend on the number of threads.
"""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from lt25.ops.backends import state_dtype
from lt25.ops.backends.numba_common import (
    AHEAD,
    JIT,
    ROWS,
    block_width,
    dot,
    fetch,
    gates,
    initial,
    mask_rows,
    multiply_add,
    offsets_of,
    put,
    rows,
    sigmoid,
    stored_dtype,
    vector,
    widened,
)


@njit(**JIT)
def _part(item, sequences, span, width):
    """Sequence, first channel, end and direction of a work item; channels beyond the span are scanned backward."""
    n, block = item % sequences, item // sequences
    blocks = (span + width - 1) // width
    half, block = block // blocks, block % blocks
    return n, half * span + block * width, half * span + min(span, (block + 1) * width), half == 1


@njit(parallel=True, **JIT)
def _scan(ifg, lower_bound, mask, offsets, halves, width, h, final_state):
    sequences, channels = final_state.shape
    span = channels // halves
    for item in prange(sequences * halves * ((span + width - 1) // width)):
        n, start, stop, reverse = _part(item, sequences, span, width)
        state, bound = final_state[n, start:stop], lower_bound[start:stop]
        for k in range(offsets[n + 1] - offsets[n]):
            t = offsets[n + 1] - 1 - k if reverse else offsets[n] + k
            ahead = t - AHEAD if reverse else t + AHEAD
            fetch(ifg[ahead, start:stop])
            fetch(ifg[ahead, channels + start : channels + stop])
            fetch(h[ahead, start:stop])
            h_t = h[t, start:stop]
            if len(mask) and not mask[t]:
                for d in range(len(state)):
                    put(h_t, d, state[d])
                continue
            i, f = ifg[t, start:stop], ifg[t, channels + start : channels + stop]
            for d in range(len(state)):
                keep, take, _, _ = gates(widened(f[d]), bound[d])
                x = widened(i[d])
                value = multiply_add(keep, state[d], take * x * sigmoid(x))
                state[d] = value
                put(h_t, d, value)


@njit(parallel=True, **JIT)
def _summarise(ifg, lower_bound, mask, starts, ends, width, product, end):
    """Reduce the steps starts[n, half] to ends[n, half] of each sequence to the product of their gates and their last state."""
    sequences, halves = starts.shape
    channels = end.shape[1]
    span = channels // halves
    for item in prange(sequences * halves * ((span + width - 1) // width)):
        n, start, stop, reverse = _part(item, sequences, span, width)
        first, last, bound = starts[n, int(reverse)], ends[n, int(reverse)], lower_bound[start:stop]
        kept, state = product[n, start:stop], end[n, start:stop]
        for k in range(last - first):
            t = last - 1 - k if reverse else first + k
            if len(mask) and not mask[t]:
                continue
            i, f = ifg[t, start:stop], ifg[t, channels + start : channels + stop]
            for d in range(len(state)):
                keep, take, _, _ = gates(widened(f[d]), bound[d])
                x = widened(i[d])
                state[d] = multiply_add(keep, state[d], take * x * sigmoid(x))
                kept[d] *= keep


@njit(parallel=True, **JIT)
def _norm(h, ifg, weight, eps, y):
    count, channels = h.shape
    one = weight.dtype.type(1)
    for item in prange((count + ROWS - 1) // ROWS):
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            fetch(ifg[t + AHEAD, 2 * channels :])
            h_t, g, y_t = h[t], ifg[t, 2 * channels :], y[t]
            scale = one / np.sqrt(dot(h_t, h_t) / type(one)(channels) + eps)
            for d in range(channels):
                x = widened(g[d])
                put(y_t, d, widened(h_t[d]) * scale * weight[d] * (x * sigmoid(x)))


@njit(parallel=True, **JIT)
def _norm_backward(grad_y, h, ifg, weight, eps, grad_ifg, grad_weights):
    """Write the gradient of g to its part of grad_ifg, and the gradient of h to the part of i, for `_scan_backward`."""
    count, channels = h.shape
    one = weight.dtype.type(1)
    for item in prange((count + ROWS - 1) // ROWS):
        grad_weight, pulled = grad_weights[item], np.empty(channels, weight.dtype)
        for t in range(item * ROWS, min(count, (item + 1) * ROWS)):
            fetch(ifg[t + AHEAD, 2 * channels :])
            fetch(grad_ifg[t + AHEAD, :channels])
            fetch(grad_ifg[t + AHEAD, 2 * channels :])
            grad_y_t, h_t, g = grad_y[t], h[t], ifg[t, 2 * channels :]
            grad_h, grad_g = grad_ifg[t, :channels], grad_ifg[t, 2 * channels :]
            scale = one / np.sqrt(dot(h_t, h_t) / type(one)(channels) + eps)
            for d in range(channels):
                x, grad = widened(g[d]), widened(grad_y_t[d])
                s = sigmoid(x)
                silu = x * s
                normed = widened(h_t[d]) * scale
                grad_weight[d] += grad * silu * normed
                pulled[d] = grad * silu * weight[d]
                put(grad_g, d, grad * normed * weight[d] * (s + silu - silu * s))
            # With n = h * scale and u the gradient of n: grad = scale * (u - n * mean(u * n)).
            pull = dot(pulled, h_t) * scale * scale / type(one)(channels)
            for d in range(channels):
                put(grad_h, d, scale * (pulled[d] - widened(h_t[d]) * pull))


@njit(parallel=True, **JIT)
def _scan_backward(ifg, h, lower_bound, mask, initial_state, offsets, halves, width, grad_ifg, grad_state, grad_bounds):
    """Replace the gradient of h, which `_norm_backward` wrote to the part of i in grad_ifg, by the gradients of i and f."""
    sequences, channels = grad_state.shape
    span = channels // halves
    for item in prange(sequences * halves * ((span + width - 1) // width)):
        n, start, stop, reverse = _part(item, sequences, span, width)
        state, bound, grad_bound = grad_state[n, start:stop], lower_bound[start:stop], grad_bounds[n, start:stop]
        for k in range(offsets[n + 1] - offsets[n] - 1, -1, -1):
            t = offsets[n + 1] - 1 - k if reverse else offsets[n] + k
            ahead = t + AHEAD if reverse else t - AHEAD
            fetch(ifg[ahead, start:stop])
            fetch(ifg[ahead, channels + start : channels + stop])
            fetch(grad_ifg[ahead, start:stop])
            fetch(grad_ifg[ahead, channels + start : channels + stop])
            fetch(h[ahead, start:stop])
            grad_i, grad_f = grad_ifg[t, start:stop], grad_ifg[t, channels + start : channels + stop]
            if len(mask) and not mask[t]:
                for d in range(len(state)):
                    state[d] += widened(grad_i[d])
                    grad_i[d] = grad_f[d] = 0
                continue
            before = initial_state[n, start:stop] if k == 0 else h[t + 1 if reverse else t - 1, start:stop]
            i, f = ifg[t, start:stop], ifg[t, channels + start : channels + stop]
            for d in range(len(state)):
                keep, take, opening, closing = gates(widened(f[d]), bound[d])
                x = widened(i[d])
                s = sigmoid(x)
                silu = x * s
                grad = state[d] + widened(grad_i[d])
                grad_keep = grad * (widened(before[d]) - silu)
                put(grad_i, d, grad * take * (s + silu - silu * s))
                put(grad_f, d, grad_keep * take * opening)
                grad_bound[d] += grad_keep * closing
                state[d] = grad * keep


def forward(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y and h [B, T, D] in ifg's dtype, and the final state [N, D] in float32 (float64 if ifg is float64)."""
    dtype, stored, channels = state_dtype(ifg), stored_dtype(ifg), weight.shape[0]
    offsets = offsets_of(ifg, cu_seqlens)
    ifg_rows = rows(ifg, stored)
    halves = 1 + bidirectional
    h = torch.empty(*ifg.shape[:2], channels, dtype=stored)
    y = torch.empty_like(h)
    state = initial(initial_state, len(offsets) - 1, channels, dtype)
    _scan(
        ifg_rows,
        bound_of(lower_bound, channels, dtype),
        mask_rows(mask),
        offsets,
        halves,
        block_width(ifg.shape[0] * halves, channels // halves, cu_seqlens),
        rows(h),
        state.numpy(),
    )
    weight = vector(weight, dtype)
    _norm(rows(h), ifg_rows, weight, weight.dtype.type(eps), rows(y))
    return y.to(ifg.dtype), h.to(ifg.dtype), state


def summarise(
    ifg: Tensor, lower_bound: Tensor | None, mask: Tensor | None, inner: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """Reduce the steps of each sequence to one map of the state, state -> product * state + end.

    Args:
        ifg, lower_bound, mask, bidirectional: as for `forward`; no sequences are packed.
        inner: int64 [2], the step to begin with, and for channels that are reversed the one to end before; None for all steps.

    Returns:
        product and end, each [B, D] in the state's precision.
    """
    dtype, (batch, time, width) = state_dtype(ifg), ifg.shape
    channels, halves = width // 3, 1 + bidirectional
    starts = np.repeat(offsets_of(ifg, None)[:-1, None], halves, 1)
    ends = starts + time
    if inner is not None:
        begin, stop = inner.tolist()
        starts[0, 0] = begin
        if bidirectional:
            ends[0, 1] = stop
    product, end = torch.ones(batch, channels, dtype=dtype), torch.zeros(batch, channels, dtype=dtype)
    _summarise(
        rows(ifg, stored_dtype(ifg)),
        bound_of(lower_bound, channels, dtype),
        mask_rows(mask),
        starts,
        ends,
        block_width(batch * halves, channels // halves, None),
        product.numpy(),
        end.numpy(),
    )
    return product, end


def backward(
    grad_y: Tensor,
    grad_final: Tensor | None,
    ifg: Tensor,
    h: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ifg, in its dtype, and of weight [D], lower_bound [D] and the initial state [N, D], in the state's."""
    dtype, stored, channels = state_dtype(ifg), stored_dtype(ifg), weight.shape[0]
    offsets = offsets_of(ifg, cu_seqlens)
    ifg_rows, h_rows = rows(ifg, stored), rows(h, stored)
    grad_ifg = torch.empty(ifg.shape, dtype=stored)
    grad_state = initial(grad_final, len(offsets) - 1, channels, dtype)
    grad_weights = torch.zeros(-(-len(h_rows) // ROWS), channels, dtype=dtype)
    grad_bounds = torch.zeros(len(offsets) - 1, channels, dtype=dtype)
    halves = 1 + bidirectional
    width = block_width(ifg.shape[0] * halves, channels // halves, cu_seqlens)
    weight = vector(weight, dtype)
    _norm_backward(
        rows(grad_y, stored), h_rows, ifg_rows, weight, weight.dtype.type(eps), rows(grad_ifg), grad_weights.numpy()
    )
    _scan_backward(
        ifg_rows,
        h_rows,
        bound_of(lower_bound, channels, dtype),
        mask_rows(mask),
        rows(initial(initial_state, len(offsets) - 1, channels, stored)),
        offsets,
        halves,
        width,
        rows(grad_ifg),
        grad_state.numpy(),
        grad_bounds.numpy(),
    )
    return grad_ifg.to(ifg.dtype), grad_weights.sum(0), grad_bounds.sum(0), grad_state


def bound_of(lower_bound: Tensor | None, channels: int, dtype: torch.dtype) -> np.ndarray:
    """The lower bound [D] in the precision of the kernels, 0 if there is none."""
    return vector(torch.zeros(channels) if lower_bound is None else lower_bound, dtype)
