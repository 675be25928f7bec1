"""What a model has to share with the one that it starts from, whether an experiment here trained that or somebody else.

Shapes are compared where the weights are (`lt25.check`, `lt25.training.start`); here is compared what they are read as.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lt25.errors import UserError
from lt25.models import families
from lt25.models.published import as_keys
from lt25.tasks import decided_keys

# What may differ between a model and the one that goes on from it, besides what the data decides.
_FREE = {
    # what new weights begin as
    *("initializer_range", "rescale_prenorm_residual", "A_init_range", "conv_init", "dt_init_floor", "dt_init_scheme"),
    *("dt_max", "dt_min", "dt_scale"),
    *("time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale"),
    # what holds in training alone: dropout of any kind and
    *("stochastic_depth", "use_l2warp"),
    # how the same thing is computed, or what is told to others: fused kernels and
    *("attn_mode", "chunk_size", "pretraining_tp", "hop_length"),
    # what is looked at with the weights themselves
    "tie_word_embeddings",
}
_FREE_PARTS = ("dropout", "fuse_", "_token_id")
# What an experiment may change if it says so itself: how attention is stretched to longer texts.
_STRETCHED = {"max_position_embeddings", "rope_parameters", "rope_theta"}
# Computed from others where they are left out; the weights' shapes are compared when they are read.
_SIZES = {
    "expand_ratio",
    "head_dim",
    "hidden_ratio",
    "intermediate_size",
    "num_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "num_v_heads",
    "value_dim",
}
# The files that say what the numbers of labels and tokens mean.
_NUMBERED = ("vocab.json", "tokenizer.json")


def compare(
    there: Mapping[str, Any], here: Mapping[str, Any], named: Collection[str], where: str, name: str
) -> list[str]:
    """Refuse a model of another type, or one that computes something else with the same weights.

    Args:
        there: the ``config.json`` or ``model`` section of the model to start from.
        here: the ``model`` section of the experiment.
        named: the keys of it that the experiment gives itself, and not its base.
        where: file and key that name it, for messages.
        name: how they name it.

    Returns:
        A line for each value that differs because the experiment says so, as it may for longer texts.

    Raises:
        UserError: for the first other value that differs, of which what is left out counts as its family fills it in.
    """
    one, other = here["model_type"], there.get("model_type")
    if not families.same_weights(one, str(other)):
        raise UserError(
            f"{where}: {name} is of the model type {other}, this experiment of {one}: start from one of the same"
        )
    # It imports torch, which most mistakes are answered without.
    from lt25.models.auto import make_config

    keys = families.find(one).model_keys() or {}
    known = families.find(str(other)).model_keys() or {}
    try:
        # A family's own class fills in what is left out, and reads what former versions wrote.
        before, after = make_config(as_keys(there, known)), make_config(as_keys(here, keys))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: {name}: no {other} has such a config.json ({error}): mend it") from None
    changes = []
    for key in sorted((keys.keys() & known.keys()) - decided_keys()):
        found, wanted = (getattr(config, key, None) for config in (before, after))
        computed = key in _SIZES and None in (found, wanted)
        free = key in _FREE or not keys[key].identity or any(part in key for part in _FREE_PARTS)
        # Many a family has the key, and only attention asks for it.
        unread = key == "max_position_embeddings" and families.find(one).window != key
        if free or unread or computed or found == wanted:
            continue
        differs = f"{where}: model.{key} is {wanted}, but {name} was trained with {found}"
        if key not in _STRETCHED:
            raise UserError(f"{differs}: set it to that")
        if key not in named:
            raise UserError(
                f"{differs}: set it to that, or name it in the experiment's `model` section if it is to change"
            )
        changes.append(differs)
    return changes


def token_ids(path: Path) -> dict[str, int]:
    """Return token -> number, whatever else a tokenizer's file says: who wrote it, or how texts are cut into tokens.

    Args:
        path: a ``vocab.json`` or ``tokenizer.json``.
    """
    written = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "vocab.json":
        return written
    tokens = written["model"]["vocab"]
    if isinstance(tokens, list):  # Unigram's, with a score each
        tokens = {token: number for number, (token, _) in enumerate(tokens)}
    return {**tokens, **{added["content"]: added["id"] for added in written.get("added_tokens", ())}}


def differing(folder: Path, there: Mapping[str, Any], data: Path, here: Mapping[str, Any]) -> str | None:
    """Name what a model and data number differently: "characters", "tokens" or "classes"; None if they agree.

    Args:
        folder: the model's.
        there: its ``config.json``.
        data: the folder of the prepared data.
        here: the ``config.json`` of a model of that data.
    """
    for name in _NUMBERED:
        old, new = folder / name, data / name
        if old.is_file() and new.is_file() and token_ids(old) != token_ids(new):
            return "characters" if name == "vocab.json" else "tokens"
    if "vocab_size" in there and there["vocab_size"] != here.get("vocab_size", there["vocab_size"]):
        return "tokens"
    return "classes" if _classes(there) != _classes(here) else None


def _classes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return number -> name, as transformers fills it in."""
    return config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(config.get("num_labels", 2))}


def padded(decided: Mapping[str, Any], start: Path, data: Path) -> dict[str, Any]:
    """Return what the data decides of a model, with the vocabulary as wide as in the model that it starts from.

    An embedding often has more rows than there are tokens, for the sake of the hardware. They mean nothing, but all others keep
    their meaning only with them: so they are kept where the tokens are the same.

    Args:
        decided: the fields of ``config.json`` that the prepared data decides.
        start: the folder of the model to start from, with ``config.json`` and ``tokenizer.json`` if it is there already.
        data: the folder of the prepared data.
    """
    files = start / "config.json", start / "tokenizer.json", data / "tokenizer.json"
    if "vocab_size" not in decided or not all(file.is_file() for file in files):
        return dict(decided)
    wide = json.loads(files[0].read_text(encoding="utf-8")).get("vocab_size", 0)
    same = wide > decided["vocab_size"] and token_ids(files[1]) == token_ids(files[2])
    return {**decided, "vocab_size": wide} if same else dict(decided)
