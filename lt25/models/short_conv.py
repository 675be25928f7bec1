"""What an HGRN layer with short convolutions adds: their weights, and the inputs that they remember between calls."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lt25.ops import short_conv


class ShortConvolution(nn.Module):
    """The weight [D, 1, K] of :func:`lt25.ops.short_conv` for i or for f, named as in flash-linear-attention."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, size))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        bidirectional: bool = False,
        reverse: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> Tensor:
        """Convolve i alone, or f alone, [B, T, D]; the other arguments are those of :func:`lt25.ops.short_conv`."""
        weight, nothing = self.weight.squeeze(1), torch.zeros_like(x)
        both = torch.cat((weight, torch.zeros_like(weight)))
        ifg = torch.cat((x, nothing, nothing), -1)
        return short_conv(ifg, both, mask, cu_seqlens, bidirectional, reverse, group)[..., : x.shape[2]]


def last_inputs(x: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """The `count` steps of x [B, count + T, D] that precede what comes next, [B, count, D].

    These are the last, but for padding on the right. mask: bool [B, count + T], False for padding, which is read as zero.
    """
    if mask is None:
        return x[:, x.shape[1] - count :]
    x = x * mask[..., None]
    last = (torch.arange(x.shape[1], device=x.device) * mask).amax(1)
    window = last[:, None] + torch.arange(1 - count, 1, device=x.device)
    return x.gather(1, window[..., None].expand(-1, -1, x.shape[2]))
