"""Linear maps of one input, in the layers of flash-linear-attention's models.

A layer maps its input to queries, keys, values and gates. Each map's backward pass makes a gradient of the whole input, and
autograd adds them up in passes of their own. Importing the module lets such maps be computed together, by
`lt25.ops.parallel_linear`, whose products add to what is there; the layer then finds the results where it would have called
the maps. A layer whose maps are more than their weights, that reads a text in pieces or drops padding goes its own way.
"""

from collections.abc import Callable
from functools import wraps
from inspect import unwrap
from typing import Any

import torch
from fla.layers import attn, delta_net, gated_deltanet, gla, gsa, hgrn2, multiscale_retention
from torch import Tensor, nn

# Their layers' forward is another, which calls the maps too.
import lt25.models.fla_gla
import lt25.models.fla_hgrn2  # noqa: F401
from lt25.models.forward import called_instead
from lt25.models.plain import is_plain
from lt25.ops import parallel_linear

_PLAIN = (Tensor, nn.Parameter)

# Of each layer the maps of its input; a map that its options leave out it does not have.
MAPS: dict[Any, tuple[str, ...]] = {
    attn.Attention: ("q_proj", "k_proj", "v_proj"),
    gla.GatedLinearAttention: ("v_proj", "g_proj", "q_proj", "k_proj", "gk_proj"),
    hgrn2.HGRN2Attention: ("i_proj", "q_proj", "f_proj"),
    gsa.GatedSlotAttention: ("q_proj", "k_proj", "v_proj", "f_proj"),
    multiscale_retention.MultiScaleRetention: ("v_proj", "g_proj", "q_proj", "k_proj"),
    delta_net.DeltaNet: ("q_proj", "k_proj", "v_proj", "g_proj", "b_proj"),
    gated_deltanet.GatedDeltaNet: ("v_proj", "g_proj", "q_proj", "k_proj", "a_proj", "b_proj"),
}


def _given(result: Tensor, others: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """What stands for a map, or for one and those that follow it, where its result is there."""

    def call(_: Tensor) -> Tensor:
        y = result
        for other in others:
            y = other(y)
        return y

    return call


def together(own: Any, names: tuple[str, ...]) -> Any:
    """Make what stands for a layer's forward: it has the maps computed together where that can be done.

    Args:
        own: the layer's forward.
        names: of the maps, each an `nn.Linear`, or an `nn.Sequential` that begins with one.
    """

    @wraps(own)
    def forward(
        self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **named: Any
    ) -> Any:
        maps = {name: module for name in names if (module := self._modules.get(name)) is not None}
        rows = [each for each in maps.values() if isinstance(each, nn.Sequential)]
        chains = {name: list(each) if isinstance(each, nn.Sequential) else [each] for name, each in maps.items()}
        firsts: list[Any] = [chain[0] for chain in chains.values()]
        if (
            not torch.is_grad_enabled()
            or (attention_mask is not None and named.get("cu_seqlens") is None)
            or torch.compiler.is_compiling()
            or not is_plain(nn.Linear, *firsts)
            or not is_plain(nn.Sequential, *rows)
            or any(each.bias is not None or type(each.weight) not in _PLAIN for each in firsts)
            or type(hidden_states) not in _PLAIN
        ):
            return own(self, hidden_states, attention_mask, *others, **named)
        results = parallel_linear(hidden_states, [each.weight for each in firsts])
        given = {name: _given(result, chain[1:]) for (name, chain), result in zip(chains.items(), results, strict=True)}
        with called_instead(self, given):
            return own(self, hidden_states, attention_mask, *others, **named)

    return forward


def give_back() -> None:
    """Let FLA's layers compute themselves."""
    for layer in MAPS:
        layer.forward = unwrap(layer.forward)


for layer, names in MAPS.items():
    layer.forward = together(layer.forward, names)
