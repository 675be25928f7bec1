"""Gradients of FLA's gated delta rule against those of the recurrence written out in float64."""

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from torch import Tensor

NAMES = ("q", "k", "v", "g", "beta")


def recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, bounds: list[int]) -> Tensor:
    """S = e^g S + beta k (v - k e^g S), o = q S / sqrt(K); [1, T, H, K], [1, T, H, V], [1, T, H] to [1, T, H, V]."""
    rows = []
    for t in range(q.shape[1]):
        if t in bounds:
            state = q.new_zeros(q.shape[2], q.shape[3], v.shape[3])
        state = state * g[0, t, :, None, None].exp()
        change = v[0, t] - torch.einsum("hk,hkv->hv", k[0, t], state)
        state = state + torch.einsum("hk,hv->hkv", k[0, t] * beta[0, t, :, None], change)
        rows.append(torch.einsum("hk,hkv->hv", q[0, t], state) * q.shape[3] ** -0.5)
    return torch.stack(rows)[None]


def errors(device: str, dtype: torch.dtype, steps: int, heads: int, keys: int, values: int) -> dict[str, float]:
    """Relative errors in the 2-norm of the gradients of two packed sequences."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(1, steps, heads, *sizes, generator=generator)

    q, k = (torch.nn.functional.normalize(drawn(keys), dim=-1) for _ in range(2))
    inputs = [q, k, drawn(values), torch.nn.functional.logsigmoid(drawn()) * 0.3, drawn().sigmoid()]
    inputs, weight = [x.to(device, dtype) for x in inputs], drawn(values).to(device, dtype)
    bounds = [0, steps // 3, steps]
    wide = [x.double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad((recurrence(*wide, bounds) * weight.double()).sum(), wide)
    narrow = [x.clone().requires_grad_() for x in inputs]
    for state_v_first in (False, True):
        o, _ = chunk_gated_delta_rule(
            *narrow, cu_seqlens=torch.tensor(bounds, device=device), state_v_first=state_v_first
        )
        found = torch.autograd.grad((o.float() * weight.float()).sum(), narrow)
    return {
        name: ((a.double() - b).norm() / b.norm()).item() for name, a, b in zip(NAMES, found, expected, strict=True)
    }
