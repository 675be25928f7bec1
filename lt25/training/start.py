"""What a run that starts from another model takes of it: all of it, or all but what the new data decides."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader

from lt25.errors import UserError
from lt25.models.families import find
from lt25.models.starts import differing
from lt25.tasks import TASKS


def taken(
    weights: dict[str, Tensor], folder: Path, data: Path, config: dict[str, Any], task: str
) -> tuple[dict[str, Tensor], str | None]:
    """Choose the weights of a new model that are read from an exported one.

    Where classes, alphabet or vocabulary are others, a weight of the old head says nothing about them, even if the sizes agree:
    the head is left as it was initialised, and so is the embedding of tokens.

    Args:
        weights: of the new model, by their names in the exported one.
        folder: the exported model's.
        data: the prepared data of the new one.
        config: the new model's ``config.json``.
        task: the task's name.

    Returns:
        The weights to read, and a line that says what is not read, None if all are.

    Raises:
        UserError: if the exported model lacks one of the others, or has it in another size, or has the same tokens and another
            output layer.
    """
    family, described = find(config["model_type"]), TASKS[task]
    fresh: tuple[str, ...] = ()
    before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if different := differing(folder, before, data, config):
        fresh = (family.heads[described.auto_model],)
        if described.main_input == "input_ids":
            fresh = (*fresh, family.inputs[described.auto_model])
    elif (tied := find(before["model_type"]).tied(before)) != family.tied(config):
        has = (
            "no output layer but its embedding" if tied else "an output layer beside its embedding, which would be lost"
        )
        raise UserError(f"init_from: {folder} has {has}: set model.tie_word_embeddings to {str(tied).lower()}")
    read = {name: tensor for name, tensor in weights.items() if not _within(name, fresh)}
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    for name, tensor in read.items():
        there = list(getattr(stored.get(name), "size", ())) if name in stored else None
        if there != list(tensor.shape):
            found = "is not there" if there is None else f"is {there} there"
            raise UserError(
                f"init_from: {folder}: {name} {found} and {list(tensor.shape)} here: start from a model of the same sizes"
            )
    line = f"init_from: {different} differ from those of {folder}: {' and '.join(fresh)} made new, all else taken from there"
    return read, line if different else None


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)
