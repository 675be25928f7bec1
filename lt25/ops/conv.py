"""The short depthwise convolutions over time that precede the gates of an HGRN layer, for i and f together.

They equal the convolutions of flash-linear-attention's HGRN with `use_short_conv`.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import choose, kernels, reference
from lt25.ops.context import neighbour, part_of
from lt25.ops.operator import operator
from lt25.ops.scan import check_sequences, check_shared


def short_conv(
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    bidirectional: bool = False,
    reverse: bool = False,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor:
    """y_t = sum over lags j < K of weight[:, K - 1 - j] * x_{t-j}, channel by channel, for i and f; g is copied.

    Args:
        ifg: float [B, T, 3 D], i | f | g along the last axis.
        weight: float [2 D, K], rows for i and then for f, laid out as in a depthwise nn.Conv1d.
        mask: bool [B, T], False where a step is padding, which is read as zero.
        cu_seqlens: int32 or int64 [N + 1], boundaries 0 = c_0 <= ... <= c_N = T of sequences packed along time; then B is 1.
            No step reads across a boundary.
        bidirectional: the second half of the channels of i, and of f, reads later steps, x_{t+j}.
        reverse: all channels read later steps; not with bidirectional.
        group: processes that share the sequences, as for :func:`lt25.ops.hgrn_scan`.
        backend: "numba" (CPU), "triton" (CUDA) or "reference" (float64, anywhere); by default chosen by the device.

    Returns:
        [B, T, 3 D] in ifg's dtype. Gradients flow to ifg and weight and are bitwise reproducible.

    Raises:
        ValueError: shapes that do not fit together, boundaries that do not rise from 0 to T, an unknown backend.
    """
    backend = choose("short_conv", ifg, backend)
    if ifg.ndim != 3 or weight.ndim != 2 or 2 * ifg.shape[2] != 3 * weight.shape[0]:
        raise ValueError(
            f"short_conv: ifg must be [B, T, 3 D] and weight [2 D, K], got {tuple(ifg.shape)} and {tuple(weight.shape)}"
        )
    if mask is not None and (mask.shape != ifg.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"short_conv: mask must be bool {tuple(ifg.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    if bidirectional and reverse:
        raise ValueError("short_conv: reverse is for channels of one direction, and not with bidirectional")
    if bidirectional and weight.shape[0] % 4:
        raise ValueError(f"short_conv: bidirectional needs an even number of channels, got {weight.shape[0] // 2}")
    check_sequences("short_conv", ifg, weight.shape[0] // 2, None, cu_seqlens)
    if group is not None:
        check_shared("short_conv", backend, False)
    if reverse:
        ifg, mask, cu_seqlens = _turn(ifg, mask, cu_seqlens, 1 if group is None else dist.get_world_size(group))
    if group is not None:
        y = _shared(ifg, weight, mask, cu_seqlens, bidirectional, reverse, group, backend)
    elif backend == "reference":
        y = reference.short_conv(ifg, weight, mask, cu_seqlens, bidirectional)
    else:
        y = _forward(ifg, weight, mask, cu_seqlens, bidirectional, backend)
    return y.flip(1) if reverse else y


def _turn(
    x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, parts: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reverse time: steps [B, T, D], the mask [B, T], and the boundaries [N + 1], counted over so many parts of T steps."""
    bounds = None if cu_seqlens is None else parts * x.shape[1] - cu_seqlens.flip(0)
    return x.flip(1), None if mask is None else mask.flip(1), bounds


def _shared(
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    is_turned: bool,
    group: dist.ProcessGroup,
    backend: str,
) -> Tensor:
    """Convolve a part of sequences that a group shares: first without its neighbours, then add what its ends read of these.

    Where time is turned, in every part, the last rank has the first one.
    """
    (_, steps, _), (channels, size) = ifg.shape, weight.shape
    rank, earlier = (
        (dist.get_world_size(group) - 1 - dist.get_rank(group), 1) if is_turned else (dist.get_rank(group), -1)
    )
    reach, start = size - 1, rank * steps
    if steps < reach:
        raise ValueError(f"short_conv: each process needs {reach} steps at least, got {steps}")
    own = None if cu_seqlens is None else part_of(cu_seqlens, start, steps)
    y = _forward(ifg, weight, mask, own, bidirectional, backend)
    if not reach:
        return y
    x = ifg[..., :channels] if mask is None else ifg[..., :channels].masked_fill(~mask[..., None], 0)

    def around(border: int, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Convolve two times K - 1 steps that meet at a border of the part, [B, 2 K - 2, 2 D]."""
        window = F.pad(torch.cat(pair, 1), (0, channels // 2))
        bounds = None if cu_seqlens is None else part_of(cu_seqlens[1:-1], border - reach, 2 * reach)
        bounds = None if bounds is None else F.pad(F.pad(bounds, (1, 0)), (0, 1), value=2 * reach)
        return _forward(window, weight, None, bounds, bidirectional, backend)[..., :channels]

    before = neighbour(x[:, steps - reach :], earlier, group)
    y[:, :reach, :channels] += around(start, (before, torch.zeros_like(before)))[:, reach:]
    if bidirectional:
        after = neighbour(x[:, :reach], 1, group)
        y[:, steps - reach :, :channels] += around(start + steps, (torch.zeros_like(after), after))[:, :reach]
    return y


@operator("lt25::short_conv")
def _forward(
    ifg: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, bidirectional: bool, backend: str
) -> Tensor:
    return kernels(backend, "conv").forward(ifg, weight, mask, cu_seqlens, bidirectional)


@_forward.register_fake
def _(ifg, weight, mask, cu_seqlens, bidirectional, backend):
    return ifg.new_empty(ifg.shape)


@operator("lt25::short_conv_backward")
def _backward(
    grad_y: Tensor,
    ifg: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    bidirectional: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return kernels(backend, "conv").backward(grad_y, ifg, weight, mask, cu_seqlens, bidirectional)


@_backward.register_fake
def _(grad_y, ifg, weight, mask, cu_seqlens, bidirectional, backend):
    return ifg.new_empty(ifg.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output):
    ifg, weight, mask, cu_seqlens, ctx.bidirectional, ctx.backend = inputs
    ctx.save_for_backward(ifg, weight, mask, cu_seqlens)


def _differentiate(ctx, grad_y):
    return *_backward(grad_y, *ctx.saved_tensors, ctx.bidirectional, ctx.backend), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
