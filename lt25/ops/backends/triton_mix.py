"""The token mixer on a GPU: one kernel for gates and scan, then one for the gated norm. The backward pass reverses the order.

Memory traffic per channel and step, in elements of two bytes: forward, the scan reads i and f and writes h, and the norm reads
h and g and writes y; backward, the norm reads dy, h and g and writes dh and dg, and the scan reads dh, i, f and h and writes
di and df. That is 34 bytes.
"""

import torch
from torch import Tensor

from lt25.ops.backends import triton_norm_linear
from lt25.ops.backends.triton_rows import norm_backward, norm_forward
from lt25.ops.backends.triton_scan import launch_backward, launch_forward
from lt25.ops.backends.triton_summary import summarise

__all__ = ["backward", "forward", "summarise"]


def forward(
    ifg: Tensor,
    weight: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    out_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, D], or y @ out_weight^T [B, T, H], and h [B, T, D] in ifg's dtype, and the final state [N, D] in float32."""
    ifg, lower_bound, mask, initial_state, cu_seqlens = _contiguous(ifg, lower_bound, mask, initial_state, cu_seqlens)
    i, f, g = ifg.chunk(3, -1)
    channels = _forward_channels(weight, bidirectional)
    h, final_state = launch_forward(i, f, _bound(lower_bound, weight), mask, initial_state, cu_seqlens, channels, True)
    if out_weight is None:
        y, _ = norm_forward(h, None, g, weight, eps)
    else:
        y, _ = triton_norm_linear.forward(h, None, g, weight, eps, [out_weight.contiguous()])
    return y, h, final_state


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
    out_weight: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Backward pass of `forward`.

    Returns:
        Gradients of ifg in its dtype; of weight [D], lower_bound [D] and the initial state [N, D] in float32; and of out_weight
        if it was given.
    """
    grad_y, grad_final, ifg, h, lower_bound, mask, initial_state, cu_seqlens = _contiguous(
        grad_y, grad_final, ifg, h, lower_bound, mask, initial_state, cu_seqlens
    )
    i, f, g = ifg.chunk(3, -1)
    grad_ifg = torch.empty_like(ifg)
    grad_i, grad_f, grad_g = grad_ifg.chunk(3, -1)
    grad_out_weight: tuple[Tensor, ...] = ()
    if out_weight is None:
        grad_h, grad_weight = norm_backward(grad_y, None, h, g, grad_g, weight, eps)
    else:
        out_weights = [out_weight.contiguous()]
        grad_h, grad_weight, *grad_out_weight = triton_norm_linear.backward(
            grad_y, None, h, g, grad_g, weight, eps, out_weights
        )
    channels = _forward_channels(weight, bidirectional)
    bound = _bound(lower_bound, weight)
    grad_bound, grad_state = launch_backward(
        grad_h, grad_final, i, f, h, bound, mask, initial_state, cu_seqlens, channels, True, grad_i, grad_f
    )
    return grad_ifg, grad_weight, grad_bound, grad_state, *grad_out_weight


def _bound(lower_bound: Tensor | None, weight: Tensor) -> Tensor:
    """The lower bound, or zeros, so that one compiled kernel serves layers with and without a bound."""
    return torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if lower_bound is None else lower_bound


def _forward_channels(weight: Tensor, bidirectional: bool) -> int:
    return weight.shape[0] // 2 if bidirectional else weight.shape[0]


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]
