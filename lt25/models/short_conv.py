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
            y [B, T, D], and the last K - 1 inputs that are not padding [B, K - 1, D] (of no use if packed).
        """
        if mask is not None:
            x = x * mask
        history = self.weight.shape[-1] - 1
        if cu_seqlens is not None:
            return _convolve_packed(x, self.weight, cu_seqlens, reverse=False), x[:, -history:]
        padded = F.pad(x, (0, 0, history, 0)) if state is None else torch.cat((state.to(x.dtype), x), 1)
        if mask is None:
            state = padded[:, x.shape[1] :]
        else:
            # Right padding would push the inputs that count out of the window: let it end at the last that does.
            end = (torch.arange(1, x.shape[1] + 1, device=x.device) * mask[..., 0]).amax(1)
            window = end[:, None] + torch.arange(history, device=x.device)
            state = padded.gather(1, window[..., None].expand(-1, -1, x.shape[2]))
        return _convolve(padded, self.weight), state

    def both_ways(
        self, halves: tuple[Tensor, Tensor], mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Two halves of the channels [B, T, D / 2], the first convolved forward in time and the second backward."""
        results = []
        for x, weight, reverse in zip(halves, self.weight.chunk(2), (False, True), strict=True):
            if mask is not None:
                x = x * mask
            if cu_seqlens is not None:
                results.append(_convolve_packed(x, weight, cu_seqlens, reverse))
                continue
            history = weight.shape[-1] - 1
            padded = F.pad(x, (0, 0, 0, history) if reverse else (0, 0, history, 0))
            results.append(_convolve(padded, weight.flip(-1) if reverse else weight))
        return tuple(results)


def _convolve(padded: Tensor, weight: Tensor) -> Tensor:
    """y_t = sum over k of weight[:, 0, k] * padded_{t+k}, from [B, T + K - 1, D] to [B, T, D].

    In two dimensions, of which one is idle, because a 2-d convolution takes the channels-last layout as it comes: on a
    CPU that is three times as fast as a 1-d convolution, or a sum of shifted products, forward and backward.
    """
    image = padded.transpose(1, 2).unsqueeze(2)
    return F.conv2d(image, weight.unsqueeze(2), groups=weight.shape[0]).squeeze(2).transpose(1, 2)


def _convolve_packed(x: Tensor, weight: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """Convolves packed sequences [1, T, D], spread out so that each has K - 1 zeros before and after it."""
    history = weight.shape[-1] - 1
    step = torch.arange(x.shape[1], device=x.device)
    row = step + history * torch.searchsorted(cu_seqlens.to(step.dtype), step, right=True)
    spread = x.new_zeros(1, x.shape[1] + history * cu_seqlens.shape[0], x.shape[2]).index_copy(1, row, x)
    if reverse:
        return _convolve(spread, weight.flip(-1)).index_select(1, row)
    return _convolve(spread, weight).index_select(1, row - history)
