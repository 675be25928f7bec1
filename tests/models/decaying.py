"""Gradients of FLA's recurrences with a decay against those of the recurrence written out in float64."""

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.simple_gla import chunk_simple_gla
from torch import Tensor

NAMES = ("q", "k", "v", "g", "beta")


def recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, bounds: list[int]) -> Tensor:
    """S = e^g S + beta k (v - k e^g S), o = q S / sqrt(K); [1, T, H, K], [1, T, H, V], [1, T, H] to [1, T, H, V].

    Without beta, of gated_deltanet, S = e^g S + k v as mamba2 has it, and gla with a decay for each of K, [1, T, H, K].
    """
    rows = []
    for t in range(q.shape[1]):
        if t in bounds:
            state = q.new_zeros(q.shape[2], q.shape[3], v.shape[3])
        state = state * (g[0, t, :, :, None] if g.ndim == 4 else g[0, t, :, None, None]).exp()
        change = v[0, t]
        if beta is not None:
            change = (change - torch.einsum("hk,hkv->hv", k[0, t], state)) * beta[0, t, :, None]
        state = state + torch.einsum("hk,hv->hkv", k[0, t], change)
        rows.append(torch.einsum("hk,hkv->hv", q[0, t], state) * q.shape[3] ** -0.5)
    return torch.stack(rows)[None]


def errors(
    device: str, dtype: torch.dtype, delta_rule: bool, steps: int, heads: int, keys: int, values: int
) -> dict[str, float]:
    """Relative errors in the 2-norm of the gradients of two packed sequences, the larger of both layouts of the state."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(1, steps, heads, *sizes, generator=generator)

    q, k = (torch.nn.functional.normalize(drawn(keys), dim=-1) for _ in range(2))
    inputs = [q, k, drawn(values), torch.nn.functional.logsigmoid(drawn()) * 0.3, drawn().sigmoid()]
    inputs = [x.to(device, dtype) for x in inputs[: 5 if delta_rule else 4]]
    weight = drawn(values).to(device, dtype)
    bounds = [0, steps // 3, steps]
    wide = [x.double().requires_grad_() for x in inputs]
    o = recurrence(*wide, bounds) if delta_rule else recurrence(*wide, None, bounds)
    expected = torch.autograd.grad((o * weight.double()).sum(), wide)
    chunked = chunk_gated_delta_rule if delta_rule else chunk_simple_gla
    largest: dict[str, float] = dict.fromkeys(NAMES[: len(inputs)], 0.0)
    for state_v_first in (False, True):
        narrow = [x.clone().requires_grad_() for x in inputs]
        o, _ = chunked(*narrow, cu_seqlens=torch.tensor(bounds, device=device), state_v_first=state_v_first)
        found = torch.autograd.grad((o.float() * weight.float()).sum(), narrow)
        for name, a, b in zip(largest, found, expected, strict=True):
            largest[name] = max(largest[name], ((a.double() - b).norm() / b.norm()).item())
    return largest


def errors_of_gla(
    device: str, dtype: torch.dtype, logits: bool, steps: int, heads: int, keys: int, values: int
) -> dict[str, float]:
    """Relative errors in the 2-norm of gated linear attention of two packed sequences, and of its gradients.

    With ``logits`` the decays are sigmoid(z)^(1/16), as gla's layers have them, otherwise exp(g), as hgrn2's.
    """
    from lt25.models import fla_gla

    generator = torch.Generator().manual_seed(0)

    def drawn(size: int) -> Tensor:
        return torch.randn(1, steps, heads, size, generator=generator).to(device, dtype)

    inputs = [drawn(keys), drawn(keys), drawn(values), 2 * drawn(keys)]
    if not logits:
        inputs[3] = torch.nn.functional.logsigmoid(inputs[3])
    weight, bounds = drawn(values), [0, steps // 3, steps]
    q, k, v, z = wide = [x.double().requires_grad_() for x in inputs]
    g = torch.nn.functional.logsigmoid(z) / 16 if logits else z
    o = recurrence(q, k, v, g, None, bounds)
    expected = [o, *torch.autograd.grad((o * weight.double()).sum(), wide)]
    narrow, packed = [x.clone().requires_grad_() for x in inputs], torch.tensor(bounds, device=device)
    decays = (1 / 16, True) if logits else (1.0, False)
    o = fla_gla._Chunked.apply(*narrow, keys**-0.5, *decays, packed)
    found = [o, *torch.autograd.grad((o.float() * weight.float()).sum(), narrow)]
    return {
        name: ((a.double() - b).norm() / b.norm()).item()
        for name, a, b in zip(("o", *NAMES[:4]), found, expected, strict=True)
    }
