"""The linear maps at a model's ends, where the data says how many channels or classes there are.

A GPU's matrix units want sizes that are multiples of 8, and products of others take several times as long.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt25.models.plain import dtype_of, is_plain

_UNIT = 8


def from_channels(x: Tensor, linear: nn.Linear) -> Tensor:
    """linear(x), [..., channels] in any dtype to [..., H], for few channels.

    The bias is the weight of one more channel that is always 1: its gradient then comes with that of the weight, and is not a
    sum over all steps of its own, which would take longer than the product.
    """
    if not is_plain(nn.Linear, linear):
        return linear(x.to(dtype_of(linear)))
    weight = torch.cat((linear.weight, linear.bias[:, None]), 1)
    weight = F.pad(weight, (0, -weight.shape[1] % _UNIT))
    padded = weight.new_ones(*x.shape[:-1], weight.shape[1])
    padded[..., : x.shape[-1]] = x
    return F.linear(padded, weight)


def to_classes(x: Tensor, linear: nn.Linear) -> Tensor:
    """linear(x), [..., H] to [..., classes], for few classes."""
    if not is_plain(nn.Linear, linear):
        return linear(x)
    classes = linear.weight.shape[0]
    products = F.linear(x, F.pad(linear.weight, (0, 0, 0, -classes % _UNIT)))[..., :classes]
    return products + linear.bias.to(products.dtype)
