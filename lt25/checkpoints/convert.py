"""Between torch's distributed checkpoints (DCP) and Hugging Face folders, both ways, weights only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from lt25.checkpoints import plain
from lt25.checkpoints.whole import partial_name, publish
from lt25.errors import UserError
from lt25.files import read_json
from lt25.models.families import find

PREFIX = "hf."
"""What stands before a Hugging Face parameter name in the names of a checkpoint; optimizer state has other names."""
MEAN = "optimizer.state.{}.ema"
"""What a checkpoint calls the running mean of a weight, by the weight's name, where ``optimizer.ema_decay`` keeps one."""


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's model weights, or their running means where it has these, and nothing else of it, onto the CPU.

    The checkpoint may have been written by any number of ranks. Only the weights' byte ranges are read, so the memory taken
    is the model's, whatever the optimizer's state weighs. Its files are taken as they are: `whole.damage` compares them.

    Returns:
        Weights by their Hugging Face names, in the dtypes of training.

    Raises:
        UserError: if the checkpoint holds no model of lt25, or more than tensors and plain values.
    """
    stored: dict[str, Any] = plain.read_metadata(checkpoint).state_dict_metadata
    weights = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(PREFIX) and isinstance(entry, TensorStorageMetadata)
    }
    if not weights:
        raise UserError(f"{checkpoint}: holds no weights whose names begin with {PREFIX}: not a checkpoint of lt25")
    means = {
        name: torch.empty(stored[name].size, dtype=stored[name].properties.dtype)
        for name in (MEAN.format(name) for name in weights)
        if isinstance(stored.get(name), TensorStorageMetadata)
    }
    wanted = {name: tensor for name, tensor in weights.items() if MEAN.format(name) not in means}
    plain.load(wanted | means, checkpoint, no_dist=True)
    read = {
        name: wanted[name] if name in wanted else means[MEAN.format(name)].to(weights[name].dtype) for name in weights
    }
    return {name.removeprefix(PREFIX): tensor for name, tensor in read.items()}


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Return the mean of what `read_weights` returns of each checkpoint; what is no floating point is the last one's.

    Summed in float64, one checkpoint after another, so that the memory taken is that of the sum and of one model.
    """
    *earlier, last = checkpoints
    weights = read_weights(last)
    if not earlier:
        return weights
    sums = {name: tensor.double() for name, tensor in weights.items() if tensor.is_floating_point()}
    for checkpoint in earlier:
        read = read_weights(checkpoint)
        for name, total in sums.items():
            total += read[name]
    return weights | {name: (total / len(checkpoints)).to(weights[name].dtype) for name, total in sums.items()}


def import_model(folder: Path, checkpoint: Path) -> None:
    """Write the weights of a Hugging Face folder as a checkpoint, ``lt25 export --to-dcp``; called step-0, it starts a run.

    Raises:
        UserError: if the folder has no ``config.json`` or no safetensors, or the checkpoint is there already.
    """
    if checkpoint.exists():
        raise UserError(f"{checkpoint}: is there already: name a new folder, or remove it")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards or not (folder / "config.json").is_file():
        raise UserError(f"{folder}: expected a Hugging Face folder with config.json and *.safetensors")
    partial = partial_name(checkpoint)
    if partial == checkpoint:
        raise UserError(f"{checkpoint}: expected a folder called step-N: call it step-0 to start a run from it")
    config = read_json(folder / "config.json", "")
    try:
        weights = {PREFIX + name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    except SafetensorError as error:
        raise UserError(f"{folder}: damaged ({error}): export the model again") from None
    family, auto = find(config["model_type"]), "AutoModelForCausalLM"
    if auto in family.heads and family.tied(config):
        weights.setdefault(f"{PREFIX}{family.heads[auto]}.weight", weights[f"{PREFIX}{family.inputs[auto]}.weight"])
    with plain.one_process():
        dcp.save(weights, storage_writer=FileSystemWriter(partial), no_dist=True)
    publish(partial, checkpoint, run=None)
