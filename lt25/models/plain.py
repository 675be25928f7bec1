"""Whether a module may be computed without being called, in one operator with its neighbours.

The layers read the weights of their linear maps and norms, and hand them to fused operators. That is right only as long as such
a module is nothing but its weights. Adapters and quantisation put another module in its place, hooks want to see what goes in
and out, and some tools replace `forward`: such a module is called.

So are computed the linear maps at a model's ends too, where the data says how many channels or classes there are: a GPU's matrix
units want sizes that are multiples of 8, and products of others take several times as long.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_UNIT = 8
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Of all modules, as profilers and counters of operations set them.
_GLOBAL_HOOKS = [getattr(nn.modules.module, f"_global{hooks}") for hooks in _HOOKS]


def is_plain(kind: type[nn.Module], *modules: nn.Module) -> bool:
    """Tell whether all modules are exactly of a class, with its own forward and without hooks.

    A class that only reads its weights in another way names the class it was made of as ``plain_kind``.
    """
    if any(_GLOBAL_HOOKS):
        return False
    for module in modules:
        own = vars(module)
        if (
            getattr(type(module), "plain_kind", type(module)) is not kind
            or "forward" in own
            or any(own[hooks] for hooks in _HOOKS)
        ):
            return False
    return True


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the type of input that a module takes, whatever stands in its place: that of its first weight, else float32."""
    return next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), torch.float32)


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
