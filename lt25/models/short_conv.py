"""A short depthwise convolution over time that respects padding, packing and the state of an earlier call."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_t = sum over lags j < K of weight[:, 0, K - 1 - j] * x_{t-j}, each of D channels by itself.

    The weight [D, 1, K] is laid out as that of a depthwise nn.Conv1d, as in flash-linear-attention.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, size))

    def forward(
        self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolves along time.

        Args:
            x: float [B, T, D].
            mask: bool [B, T, 1], False for padding, which is read as zero.
            cu_seqlens: int [N + 1], boundaries of packed sequences, across which nothing is read.
            state: float [B, K - 1, D], the inputs before the first; zero if None.

        Returns:
            y [B, T, D], and the last K - 1 inputs that are not padding [B, K - 1, D].
        """
        if mask is not None:
            x = x * mask
        history = self.weight.shape[-1] - 1
        padded = F.pad(x, (0, 0, history, 0)) if state is None else torch.cat((state.to(x.dtype), x), 1)
        if mask is None:
            state = padded[:, x.shape[1] :]
        else:
            # Right padding would push the inputs that count out of the window: let it end at the last that does.
            end = (torch.arange(1, x.shape[1] + 1, device=x.device) * mask[..., 0]).amax(1)
            window = end[:, None] + torch.arange(history, device=x.device)
            state = padded.gather(1, window[..., None].expand(-1, -1, x.shape[2]))
        return _convolve(padded, self.weight, cu_seqlens, reverse=False), state

    def both_ways(
        self, halves: tuple[Tensor, Tensor], mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Two halves of the channels [B, T, D / 2], the first convolved forward in time and the second backward."""
        if mask is not None:
            halves = tuple(half * mask for half in halves)
        history = self.weight.shape[-1] - 1
        forward, backward = self.weight.chunk(2)
        return (
            _convolve(F.pad(halves[0], (0, 0, history, 0)), forward, cu_seqlens, reverse=False),
            _convolve(F.pad(halves[1], (0, 0, 0, history)), backward, cu_seqlens, reverse=True),
        )


def _convolve(padded: Tensor, weight: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """The sum over lags; `padded` [B, K - 1 + T, D] has its extra steps before the first, or after the last if reverse.

    A sum of shifted products, because a packed sequence may drop a lag at some steps and not at others.
    """
    size = weight.shape[-1]
    time = padded.shape[1] - size + 1
    room = None if cu_seqlens is None else _steps_to_boundary(cu_seqlens, time, reverse)
    y = None
    for lag in range(size):
        start = lag if reverse else size - 1 - lag
        tap = weight[:, 0, size - 1 - lag]
        if room is not None and lag > 0:
            tap = tap * (room >= lag)[:, None]
        shifted = padded[:, start : start + time]
        y = shifted * tap if y is None else torch.addcmul(y, shifted, tap)
    return y


def _steps_to_boundary(cu_seqlens: Tensor, time: int, reverse: bool) -> Tensor:
    """int [T]: how many steps of its own sequence a step has before it (after it, if reverse)."""
    step = torch.arange(time, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens, step, right=True)
    return cu_seqlens[sequence] - 1 - step if reverse else step - cu_seqlens[sequence - 1]
