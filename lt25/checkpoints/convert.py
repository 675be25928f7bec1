"""Between torch's distributed checkpoints (DCP) and Hugging Face folders, both ways, weights only."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from lt25.checkpoints.whole import damage, partial_name, publish
from lt25.errors import UserError

PREFIX = "hf."
"""What stands before a Hugging Face parameter name in the names of a checkpoint; optimizer state has other names."""


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's model weights, and nothing else of it, onto the CPU.

    The checkpoint may have been written by any number of ranks. Only the weights' byte ranges are read, so the memory taken
    is the model's, whatever the optimizer's state weighs.

    Returns:
        Weights by their Hugging Face names, in the dtypes of training.

    Raises:
        UserError: if the checkpoint is damaged or holds no model of lt25.
    """
    if wrong := damage(checkpoint):
        raise UserError(f"{checkpoint}: damaged ({wrong}): export another step")
    reader = FileSystemReader(checkpoint)
    stored = reader.read_metadata().state_dict_metadata
    weights = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(PREFIX) and isinstance(entry, TensorStorageMetadata)
    }
    if not weights:
        raise UserError(f"{checkpoint}: holds no weights whose names begin with {PREFIX}: not a checkpoint of lt25")
    with _one_process():
        dcp.load(weights, storage_reader=FileSystemReader(checkpoint), no_dist=True)
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}


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
    weights = {PREFIX + name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    if json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"):
        weights.setdefault(f"{PREFIX}lm_head.weight", weights[f"{PREFIX}model.embeddings.weight"])
    partial = partial_name(checkpoint)
    if partial == checkpoint:
        raise UserError(f"{checkpoint}: expected a folder called step-N: call it step-0 to start a run from it")
    with _one_process():
        dcp.save(weights, storage_writer=FileSystemWriter(partial), no_dist=True)
    publish(partial, checkpoint)


@contextmanager
def _one_process() -> Iterator[None]:
    """Keep torch from warning that it is not distributed, which is what ``no_dist`` says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
