"""The operators as they are defined, in plain torch and float64, differentiated by autograd. Slow; tests compare with it.

Graphs for other programs (ONNX) are made of them, in the precision of their inputs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import is_exported


def scan(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.hgrn_scan`; the final state comes in float64, h in x's dtype."""
    h, final_state = _recur(_exact(x), _exact(log_f).exp(), initial_state, cu_seqlens, reverse)
    return h.to(x.dtype), final_state


def mix(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    out_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.hgrn_mix`; the final state comes in float64, y in ifg's dtype."""
    i, f, g = _exact(ifg).chunk(3, -1)
    bound = f.new_zeros(f.shape[-1]) if lower_bound is None else _exact(lower_bound)
    forget = bound + (1 - bound) * f.sigmoid()
    x = F.silu(i) * (1 - bound) * (-f).sigmoid()
    if mask is not None:
        forget = torch.where(mask[..., None], forget, 1.0)
        x = torch.where(mask[..., None], x, 0.0)
    if bidirectional:
        states = (None, None) if initial_state is None else initial_state.chunk(2, -1)
        halves = zip(x.chunk(2, -1), forget.chunk(2, -1), states, (False, True), strict=True)
        scanned = [_recur(x, forget, state, cu_seqlens, reverse) for x, forget, state, reverse in halves]
        h, final_state = (torch.cat(both, -1) for both in zip(*scanned, strict=True))
    else:
        h, final_state = _recur(x, forget, initial_state, cu_seqlens, False)
    y = _rms_norm(h, eps) * _exact(weight) * F.silu(g)
    if out_weight is not None:
        y = F.linear(y, _exact(out_weight))
    return y.to(ifg.dtype), final_state


def short_conv(
    ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool
) -> Tensor:
    """Arguments and result of :func:`lt25.ops.short_conv`."""
    channels, size = weight.shape
    x, g = ifg.split([channels, channels // 2], -1)
    x = _exact(x) if mask is None else torch.where(mask[..., None], _exact(x), 0.0)
    step = torch.arange(x.shape[1], device=x.device)
    sequence = torch.zeros_like(step) if cu_seqlens is None else torch.searchsorted(cu_seqlens.long(), step, right=True)
    backward = torch.zeros(2, channels // 2, dtype=torch.bool, device=x.device)
    backward[:, channels // 4 :] = bidirectional
    y = torch.zeros_like(x)
    for lag in range(size):
        for direction, here in ((-1, ~backward), (1, backward)):
            source = (step + direction * lag).clamp(0, max(0, len(step) - 1))
            inside = (source == step + direction * lag) & (sequence[source] == sequence)
            inside = inside[:, None] & here.flatten()
            y = y + torch.where(inside, x[:, source] * _exact(weight[:, size - 1 - lag]), 0.0)
    return torch.cat((y.to(ifg.dtype), g), -1)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool) -> Tensor:
    """Arguments and result of :func:`lt25.ops.causal_conv`."""
    if cu_seqlens is not None:
        texts = x.split(cu_seqlens.diff().tolist(), 1)
        return torch.cat([causal_conv(text, weight, bias, None, silu) for text in texts], 1)
    taps = _exact(weight).unbind(1)
    padded = F.pad(_exact(x), (0, 0, len(taps) - 1, 0))
    y = padded.new_zeros(()) if bias is None else _exact(bias)
    for first, tap in enumerate(taps):
        y = y + padded[:, first : first + x.shape[1]] * tap
    return (F.silu(y) if silu else y).to(x.dtype)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    z: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.selective_scan`."""
    if cu_seqlens is not None:
        lengths = cu_seqlens.diff().tolist()
        steps = zip(*(each.split(lengths, 1) for each in (x, dt, B, C, x if z is None else z)), strict=True)
        results = [
            selective_scan(x, dt, A, B, C, D, dt_bias, None if z is None else gate, None) for x, dt, B, C, gate in steps
        ]
        y, state = zip(*results, strict=True)
        return torch.cat(y, 1), torch.cat(state)
    value, rate, write, read = map(_exact, (x, A, B, C))
    passed = F.softplus(_exact(dt) + _exact(dt_bias))
    state, rows = value.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        decay = (passed[:, t, :, None] * rate).exp()
        state = decay * state + (passed * value)[:, t, :, None] * write[:, t, None]
        rows.append((state * read[:, t, None]).sum(-1))
    y = (torch.stack(rows, 1) if rows else value) + _exact(D) * value
    return (y if z is None else y * F.silu(_exact(z))).to(x.dtype), state


def ssd_scan(xBC: Tensor, dt: Tensor, log_decay: Tensor, D: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.ssd_scan`, some steps at once; the states come in float64."""
    heads, size = D.shape
    x, B, C = _exact(xBC).tensor_split([heads * size, (heads * size + xBC.shape[-1]) // 2], -1)
    x = x.unflatten(-1, (heads, size))
    B, C = (each.unflatten(-1, (groups, -1)).repeat_interleave(heads // groups, 2) for each in (B, C))
    written, rows = x * _exact(dt)[..., None], []
    state = x.new_zeros(len(x), heads, size, B.shape[-1])
    for first in range(0, x.shape[1], 32):
        part = slice(first, first + 32)
        passed = _exact(log_decay)[:, part].cumsum(1)
        between = (passed[:, :, None] - passed[:, None]).movedim(-1, 1)
        decay = between.masked_fill(between.new_ones(between.shape[-2:]).triu(1).bool(), -torch.inf).exp()
        scores = torch.einsum("bthn,bshn->bhts", C[:, part], B[:, part]) * decay
        read = torch.einsum("bthn,bhpn->bthp", C[:, part], state) * passed.exp()[..., None]
        rows.append(read + torch.einsum("bhts,bshp->bthp", scores, written[:, part]))
        left = (passed[:, -1:] - passed).exp()[..., None]
        change = torch.einsum("bshp,bshn->bhpn", written[:, part] * left, B[:, part])
        state = state * passed[:, -1, :, None, None].exp() + change
    y = (torch.cat(rows, 1) if rows else x) + x * _exact(D)
    return y.flatten(2).to(xBC.dtype), state


def swiglu(gate_up: Tensor) -> Tensor:
    """Argument and result of :func:`lt25.ops.swiglu`."""
    gate, up = _exact(gate_up).chunk(2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def swiglu_linear(gate_up: Tensor, weight: Tensor) -> Tensor:
    """Arguments and result of :func:`lt25.ops.swiglu_linear`."""
    gate, up = _exact(gate_up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, _exact(weight)).to(gate_up.dtype)


def gated_mlp(x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor) -> Tensor:
    """Arguments and result of :func:`lt25.ops.gated_mlp`."""
    gate, up = F.linear(_exact(x), _exact(gate_weight)), F.linear(_exact(x), _exact(up_weight))
    return F.linear(F.silu(gate) * up, _exact(down_weight)).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.add_rms_norm`."""
    total = x if residual is None else x + residual
    return (_rms_norm(_exact(total), eps) * _exact(weight)).to(x.dtype), total


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, gate_first: bool) -> Tensor:
    """Arguments and result of :func:`lt25.ops.gated_rms_norm`."""
    y, opened = _exact(x), F.silu(_exact(gate))
    y = _rms_norm(y * opened, eps) if gate_first else _rms_norm(y, eps) * opened
    return (y * _exact(weight)).to(x.dtype)


def add_norm_linear(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.add_norm_linear`."""
    total = x if residual is None else x + residual
    normed = _rms_norm(_exact(total), eps) * _exact(norm_weight)
    return F.linear(normed, _exact(torch.cat(tuple(weights)))).to(x.dtype), total


def dropout(x: Tensor, p: float, seed: Tensor) -> Tensor:
    """Arguments and result of :func:`lt25.ops.dropout`."""
    bits = torch.arange(x.numel(), device=x.device).view(x.shape) & 0xFFFFFFFF
    for part in (int(seed) & 0xFFFFFFFF, int(seed) >> 32):
        bits = bits ^ part
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            bits = (bits ^ (bits >> shift)) * factor & 0xFFFFFFFF
    return (_exact(x) * (bits >= int(p * 2**32)) / (1 - p)).to(x.dtype)


def _recur(
    x: Tensor, f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h_t = f_t h_{t-1} + x_t, a loop over time; all float64."""
    if cu_seqlens is None:
        sequences = list(zip(x, f, strict=True))
    else:
        lengths = cu_seqlens.diff().tolist()
        sequences = list(zip(x[0].split(lengths), f[0].split(lengths), strict=True))

    outputs, finals = [], []
    for n, (x_n, f_n) in enumerate(sequences):
        state = x_n.new_zeros(x.shape[-1]) if initial_state is None else _exact(initial_state[n])
        rows: list[Tensor] = [state] * len(x_n)
        for t in reversed(range(len(x_n))) if reverse else range(len(x_n)):
            state = f_n[t] * state + x_n[t]
            rows[t] = state
        outputs.append(torch.stack(rows) if rows else x_n)
        finals.append(state)
    h = torch.stack(outputs) if cu_seqlens is None else torch.cat(outputs)[None]
    return h, torch.stack(finals)


def _rms_norm(x: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def _exact(x: Tensor) -> Tensor:
    return x if is_exported() else x.double()
