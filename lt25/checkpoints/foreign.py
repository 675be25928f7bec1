"""A model to start from that no experiment here has trained: one of the Hub, of its mirror, or a folder.

``lt25 configure`` brings it to ``data/models/`` and writes ``export.json`` beside it: from then on it is like a model that
``lt25 export`` has written.
"""

import json
from pathlib import Path

from lt25.data import hub
from lt25.errors import UserError
from lt25.experiment import Experiment, digest, hub_mirror
from lt25.files import checksum, damage, load_record, whole_folder, write_record
from lt25.models.starts import compare

_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "vocab.json"]


def bring(experiment: Experiment) -> list[str]:
    """Bring the model that an experiment starts from to its place, and compare it with the experiment's.

    Returns:
        What `lt25.models.starts.compare` does.

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
    there = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return compare(there, experiment.model, experiment.named, where, str(name))


def _is_whole(folder: Path) -> bool:
    try:
        return not damage(folder, load_record(folder / "export.json")["files"])
    except (OSError, UserError):
        return False
