"""Comparison of the products of a gated MLP that are fused with SwiGLU with the same in float64."""

import torch
import torch.nn.functional as F

from lt25.ops.backends import reference, triton_products
from tests.ops.compare import TOLERANCE, poison


def check(rows: int, hidden: int, width: int, dtype: torch.dtype, seed: int, device: str = "cpu") -> None:
    """Results and gradients, in memory full of NaN; x and its gradient start at odd places, a row at an odd one after it."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        wide = torch.randn(shape[0], shape[1] + 1, generator=random, dtype=torch.float64) * scale
        return wide.to(device, dtype)[:, 1:]

    x, grad_y = draw(rows, hidden), draw(rows, hidden)
    weights = [draw(*shape, scale=shape[1] ** -0.5) for shape in ((width, hidden), (width, hidden), (hidden, width))]

    def run() -> dict[str, torch.Tensor]:
        poison(device)
        y, gate_up, act = triton_products.forward(x, *weights)
        poison(device)
        gradients = triton_products.backward(grad_y, x, gate_up, act, *weights)
        names = ("gradient of x", "of gate and up", "of down")
        return {"y": y, "gate_up": gate_up, "act": act, **dict(zip(names, gradients, strict=True))}

    found, again = run(), run()
    differentiable = [each.double().requires_grad_() for each in (x, *weights)]
    wide_x, gate, up, down = differentiable
    gate_up = F.linear(wide_x, torch.cat((gate, up)))
    act = F.silu(gate_up[:, :width]) * gate_up[:, width:]
    y = F.linear(act, down)
    grad_x, grad_gate, grad_up, grad_down = torch.autograd.grad(y, differentiable, grad_y.double())
    expected = [y, gate_up, act, grad_x, torch.cat((grad_gate, grad_up)), grad_down]
    for (name, each), right in zip(found.items(), expected, strict=True):
        assert each.dtype == dtype and each.shape == right.shape, f"{name}: {each.dtype}, {each.shape}"
        assert torch.equal(each, again[name]), f"{name}: other bits in the second run"
        if right.numel():
            error = ((each.double() - right).abs().max() / (1 + right.abs().max())).item()
            assert error <= TOLERANCE[dtype], f"{name}: off by {error:.1e} of the largest element"
    if dtype == torch.float16 and rows:  # Triton's interpreter cuts bfloat16 off where it should round
        # A value between two neighbours may go to either. Of unrounded gates a third would be others.
        same = found["act"] == reference.swiglu(found["gate_up"])
        assert same.double().mean() > 0.97, "the activation is not that of the gates as they are saved"
