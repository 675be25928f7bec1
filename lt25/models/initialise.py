"""The first weights of a model that was built on the meta device, whatever its family."""

import copy

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

# What activation checkpointing and torch.compile put into the names of what they wrap.
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


def initialise(model: PreTrainedModel) -> None:
    """Write the weights and buffers of an ordinary construction into a model that was built on the meta device.

    Many families give some of their tensors values in constructors only, which `to_empty` loses and `_init_weights` does not
    give again. So an ordinary model is built beside it, on the same device and from the same config, and copied. What comes out
    is decided by the random generator's seed, and is the same however many ranks share the tensors. For as long as this lasts,
    each rank holds one whole model, as float32.

    Args:
        model: materialised with `to_empty`; parameters may be sharded (DTensor), and layers compiled or checkpointed.
    """
    with torch.device(model.device):
        ordinary = type(model)(copy.deepcopy(model.config))
    values = dict(ordinary.named_parameters(remove_duplicate=False)) | dict(ordinary.named_buffers())
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            whole = values[name].detach()
            if isinstance(tensor, DTensor):
                # Without a source rank each rank keeps its part of what it has, and nothing is sent.
                tensor.copy_(distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None))
            elif tensor.dtype == whole.dtype:
                # Taken over: to write into new memory takes as long as to draw what is written.
                tensor.data = whole
            else:
                tensor.copy_(whole)
    # `to_empty` gives each of two tied modules a tensor of its own.
    model.tie_weights()
