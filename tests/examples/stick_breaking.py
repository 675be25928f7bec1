"""Stick-breaking attention as its definition reads, in float64, and what a backend is compared with it in."""

import torch
from torch import Tensor


def written_out(q: Tensor, k: Tensor, v: Tensor, bounds: list[int]) -> Tensor:
    """Break the stick key by key; [B, T, H, K] to the same."""
    rows = []
    for t in range(q.shape[1]):
        begin = max(bound for bound in bounds if bound <= t)
        left, o = torch.ones_like(q[:, 0, :, :1]), torch.zeros_like(v[:, 0])
        for s in range(t - 1, begin - 1, -1):
            beta = ((q[:, t] * k[:, s]).sum(-1, keepdim=True) * q.shape[-1] ** -0.5).sigmoid()
            o, left = o + left * beta * v[:, s], left * (1 - beta)
        rows.append(o + left * v[:, t])
    return torch.stack(rows, 1)


def check(attention, device: str, dtype: torch.dtype, steps: int, bounds: list[int] | None, tolerance: float) -> None:
    """Compare values and gradients."""
    generator = torch.Generator().manual_seed(steps)
    batch = 2 if bounds is None else 1
    inputs = [torch.randn(batch, steps, 2, 16, generator=generator).to(device, dtype) * 1.5 for _ in range(3)]
    weight = torch.randn(inputs[0].shape, generator=generator).to(device, dtype)
    wide = [x.double().requires_grad_() for x in inputs]
    expected = written_out(*wide, bounds or [0])
    grads = torch.autograd.grad((expected * weight.double()).sum(), wide)
    narrow = [x.clone().requires_grad_() for x in inputs]
    found = attention(*narrow, None if bounds is None else torch.tensor(bounds, device=device))
    own = torch.autograd.grad((found.float() * weight.float()).sum(), narrow)
    for name, a, b in zip(("o", "dq", "dk", "dv"), (found, *own), (expected, *grads), strict=True):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error < tolerance, (name, error)
