"""The norms of gradients and weights, layer by layer."""

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lt25.training.shards import square_of

_LAYER = re.compile(r"layers\.\d+")


def by_layer(model_parts: Iterable[nn.Module]) -> dict[str, list[nn.Parameter]]:
    """Return the trained parameters of each layer, "layers.3", and of each module beside these, such as "model.embeddings"."""
    layers: dict[str, list[nn.Parameter]] = defaultdict(list)
    for part in model_parts:
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                layer = _LAYER.search(name)
                layers[layer[0] if layer else name.removeprefix("hf.").rpartition(".")[0]].append(parameter)
    return dict(layers)


@torch.no_grad()
def norms(layers: dict[str, list[nn.Parameter]], gradients: bool) -> Tensor:
    """Return the norm of each layer's gradients or weights over all ranks, float32 [layers]; 0 where there is no gradient."""
    found = []
    for parameters in layers.values():
        tensors = [parameter.grad for parameter in parameters] if gradients else parameters
        found.append(square_of([tensor for tensor in tensors if tensor is not None], parameters[0].device).sqrt())
    return torch.stack(found)
