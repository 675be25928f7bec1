"""The scan of Mamba-2, h_t = exp(a_t) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t, as one differentiable operation.

One number decays the whole state of a head, so that steps within a chunk are products of matrices ("Transformers are SSMs:
Generalized Models and Efficient Algorithms Through Structured State Space Duality", https://arxiv.org/abs/2405.21060).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import check_shapes, choose, kernels, reference, state_dtype
from lt25.ops.operator import operator

CHUNK = 64
"""Steps of a chunk."""

_LARGEST = 2**15
"""Bytes of a state, with sides rounded up to powers of 2, of which two fit beside the rest into a GPU's shared memory."""


def ssd_scan(
    xBC: Tensor, dt: Tensor, log_decay: Tensor, D: Tensor, groups: int = 1, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Scan a state [P, N] of each of H heads over time, from zero, and read it.

    Args:
        xBC: x of all heads, then B and then C of all groups, [B, T, H P + 2 G N], as the convolution before it leaves them.
        dt: what each step writes is multiplied by it, [B, T, H].
        log_decay: natural logarithms of the decays, at most 0, [B, T, H].
        D: what goes past the states, [H, P].
        groups: G, of as many heads each, which share B and C.
        backend: "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        y [B, T, H P] in xBC's dtype, and the states after the last step [B, H, P, N] (float32, or float64 if xBC is). Gradients
        flow from both and are bitwise reproducible.

    Raises:
        ValueError: shapes that do not fit together, an unknown backend; on a GPU, states larger than 32 KiB in xBC's dtype with
            both sides rounded up to powers of 2, in half precision from 64 on.
    """
    heads, size = D.shape
    channels = xBC.shape[-1] - heads * size
    if heads % groups or channels <= 0 or channels % (2 * groups):
        raise ValueError(
            f"ssd_scan: xBC must be [B, T, H P + 2 G N] and G divide H, got {tuple(xBC.shape)}, "
            f"H = {heads}, P = {size}, G = {groups}"
        )
    of_heads = (*xBC.shape[:2], heads)
    check_shapes("ssd_scan", {"dt": (dt, of_heads), "log_decay": (log_decay, of_heads)})
    if choose("ssd_scan", xBC, backend, ("triton", "reference")) == "reference":
        y, state = reference.ssd_scan(xBC, dt, log_decay, D, groups)
        return y, state.to(state_dtype(xBC))
    least = least_side(xBC.dtype)
    rounded = [max(1 << (side - 1).bit_length(), least) for side in (size, channels // (2 * groups))]
    if rounded[0] * rounded[1] * xBC.element_size() > _LARGEST:
        raise ValueError(
            f"ssd_scan: states of {size} by {channels // (2 * groups)} numbers in {xBC.dtype} are too large for a GPU: "
            f"at most {_LARGEST // xBC.element_size():,} numbers, with both sides rounded up to powers of 2 from {least} on"
        )
    y, state, _ = _forward(xBC, dt.float(), _sums(log_decay.float()), D.float(), groups)
    return y, state


def least_side(dtype: torch.dtype) -> int:
    """Columns that a tile of a state has at least on a GPU: products need 16.

    Of half precision, Triton compiles fewer than 64 wrongly for Hopper GPUs, https://github.com/triton-lang/triton/issues/11366.
    """
    return 16 if dtype == torch.float32 else 64


def _sums(log_decay: Tensor) -> Tensor:
    """Sums of [B, T, H] from the start of each chunk."""
    steps = log_decay.shape[1]
    padded = F.pad(log_decay, (0, 0, 0, -steps % CHUNK)).unflatten(1, (-1, CHUNK))
    return padded.cumsum(2).flatten(1, 2)[:, :steps]


@operator("lt25::ssd_scan")
def _forward(xBC: Tensor, dt: Tensor, g: Tensor, D: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    return kernels("triton", "ssd").forward(xBC, dt, g, D, groups)


@_forward.register_fake
def _(xBC, dt, g, D, groups):
    (batch, steps, channels), (heads, size) = xBC.shape, D.shape
    states = heads, size, (channels - heads * size) // (2 * groups)
    kept = xBC.new_empty(batch, -(-steps // CHUNK), *states)
    return xBC.new_empty(batch, steps, heads * size), dt.new_empty(batch, *states), kept


@operator("lt25::ssd_scan_backward")
def _backward(
    grad_y: Tensor,
    grad_final: Tensor | None,
    xBC: Tensor,
    dt: Tensor,
    g: Tensor,
    D: Tensor,
    groups: int,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return kernels("triton", "ssd").backward(grad_y, grad_final, xBC, dt, g, D, groups, states)


@_backward.register_fake
def _(grad_y, grad_final, xBC, dt, g, D, groups, states):
    return tuple(each.new_empty(each.shape) for each in (xBC, dt, g, D))


def _setup_context(ctx, inputs, output):
    *tensors, ctx.groups = inputs
    ctx.save_for_backward(*tensors, output[2])
    # The gradient of the states is then None where nothing reads the last.
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_final, _):
    *tensors, states = ctx.saved_tensors
    if grad_y is None:
        grad_y = tensors[0].new_zeros(*tensors[0].shape[:2], tensors[3].numel())
    return *_backward(grad_y, grad_final, *tensors, ctx.groups, states), None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
