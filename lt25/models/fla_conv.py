"""The short convolutions of flash-linear-attention's layers by `lt25.ops.causal_conv`, which reads every step once.

Importing the module puts `causal_conv1d` in the place of FLA's, for `ShortConvolution` and for gated_deltanet's three in one.
Calls with states or residuals go on to FLA's; single tokens, and sequences that several processes share, FLA convolves by other
functions. The Mambas' layers are computed elsewhere, and convolve by `of_mamba`.
"""

from typing import Any

from fla.layers import gated_deltanet
from fla.modules.causal_conv1d import ops
from torch import Tensor

from lt25.ops import causal_conv

# FLA's names of it.
SILU = ("silu", "swish")

_callers: tuple[Any, ...] = ops, gated_deltanet
_causal_conv1d: Any = ops.causal_conv1d
# Arguments that say in another way what the boundaries say.
_FORMS = {"cu_seqlens_cpu", "chunk_indices"}


def causal_conv1d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Stand for FLA's function of this name, whose arguments and results it has.

    Returns:
        [B, T, D] in x's dtype, and the final state or None.
    """
    activated = activation in SILU
    usual = (activated or activation is None) and backend == "triton"
    # Residuals, states and contexts.
    more = any(value is not None and value is not False for name, value in others.items() if name not in _FORMS)
    if weight is None or not usual or more:
        given = {"activation": activation, "backend": backend, "cu_seqlens": cu_seqlens}
        return _causal_conv1d(x, weight, bias, **given, **others)
    return causal_conv(x, weight, bias, cu_seqlens, activated), None


def of_mamba(
    layer: Any, x: Tensor, here: Tensor | None, cu_seqlens: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Convolve and activate as a layer of Mamba or Mamba-2 does.

    Args:
        layer: an ``fla.layers.mamba.Mamba`` or ``fla.layers.mamba2.Mamba2``.
        x: [B, T, C].
        here: [B, T, 1], 0 for padding, which stays 0; or None.
        cu_seqlens, backend: as for `lt25.ops.causal_conv`.

    Returns:
        [B, T, C].
    """
    fused = layer.activation in SILU
    x = causal_conv(x, layer.conv1d.weight.squeeze(1), layer.conv1d.bias, cu_seqlens, fused, backend)
    x = x if fused else layer.act(x)
    return x if here is None else x * here


def give_back() -> None:
    """Let FLA convolve itself."""
    for caller in _callers:
        caller.causal_conv1d = _causal_conv1d


for caller in _callers:
    caller.causal_conv1d = causal_conv1d
