"""Whether a module may be computed without being called, in one operator with its neighbours.

The layers read the weights of their linear maps and norms, and hand them to fused operators. That is right only as long as such
a module is nothing but its weights. Adapters and quantisation put another module in its place, hooks want to see what goes in
and out, and some tools replace `forward`: such a module is called.
"""

import torch
from torch import nn

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
