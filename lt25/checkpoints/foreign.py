"""A model to start from that no experiment here has trained: one of the Hub, of its mirror, or a folder.

``lt25 configure`` brings it to ``data/models/`` and writes ``export.json`` beside it: from then on it is like a model that
``lt25 export`` has written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt25.data import hub
from lt25.errors import UserError
from lt25.experiment import Experiment, digest, hub_mirror
from lt25.files import checksum, damage, load_record, whole_folder, write_record
from lt25.models import families

_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "vocab.json"]
# What may differ between the model and the one that goes on from it: it changes no output, or only what new weights begin as.
_FREE = {
    "dropout",
    "initializer_range",
    "max_position_embeddings",
    "num_labels",
    "tie_word_embeddings",
    "use_l2warp",
    "vocab_size",
}
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


def bring(experiment: Experiment) -> None:
    """Bring the model that an experiment starts from to its place, and compare it with the experiment's.

    Raises:
        UserError: if it cannot be had, or is not such a model.
    """
    name, folder = experiment.init_from, experiment.root / str(experiment.start)
    where, own = f"{experiment.path}: init_from", (experiment.root / str(name)).expanduser()
    if not _is_whole(folder):
        with whole_folder(folder) as partial:
            if own.is_dir():
                for file in sorted(path for pattern in _FILES for path in own.glob(pattern)):
                    (partial / file.name).symlink_to(file.resolve())
                revision = "a folder"
            elif experiment.starts_in_a_folder:
                raise UserError(f"{where}: {name}: no such folder: correct the path")
            else:
                origin = {"hub": name, "files": {"model": _FILES}}
                revision = hub.fetch(str(name), origin, partial, hub_mirror(), None, kind="model")
            files = sorted(path for path in partial.iterdir() if path.is_file())
            if not {"config.json"} <= {path.name for path in files} or not list(partial.glob("*.safetensors")):
                raise UserError(
                    f"{where}: {name}: no config.json with weights in *.safetensors: name a model that has both"
                )
            fingerprint = digest({path.name: checksum(path) for path in files})[:16]
            write_record(
                partial / "export.json", {"from": name, "revision": revision, "fingerprint": fingerprint}, files
            )
    _compare(json.loads((folder / "config.json").read_text(encoding="utf-8")), experiment.model, where, str(name))


def _is_whole(folder: Path) -> bool:
    try:
        return not damage(folder, load_record(folder / "export.json")["files"])
    except (OSError, UserError):
        return False


def _compare(there: Mapping[str, Any], here: Mapping[str, Any], where: str, name: str) -> None:
    """Refuse a model of another type, or one that computes something else with the same weights."""
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
        before, after = make_config(there), make_config(here)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: {name}: no {other} has such a config.json ({error}): mend it") from None
    for key in keys.keys() & known.keys():
        found, wanted = (getattr(config, key, None) for config in (before, after))
        free = key in _FREE or not keys[key].identity or key.startswith("fuse_") or key.endswith("_token_id")
        computed = key in _SIZES and None in (found, wanted)
        if not free and not computed and found != wanted:
            raise UserError(f"{where}: model.{key} is {wanted}, but {name} was trained with {found}: set it to that")
