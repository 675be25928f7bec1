"""A model to start from that no experiment here has trained: one of the Hub, of its mirror, or a folder.

``lt25 configure`` brings it to ``data/models/`` and writes ``export.json`` beside it: from then on it is like a model that
``lt25 export`` has written.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lt25.data import hub
from lt25.errors import UserError
from lt25.experiment import Experiment, digest, hub_mirror
from lt25.files import checksum, damage, load_record, read_json, whole_folder, write_record
from lt25.models.starts import compare

_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "vocab.json"]


def bring(experiment: Experiment) -> list[str]:
    """Bring the model that an experiment starts from to its place, and compare it with the experiment's.

    Returns:
        What `lt25.models.starts.compare` does.

    Raises:
        UserError: if it cannot be had, or is not such a model.
    """
    name, folder, where = experiment.init_from, experiment.root / str(experiment.start), f"{experiment.path}: init_from"
    if not _is_whole(folder):
        own = named_folder(experiment)
        with whole_folder(folder) as partial:
            if own is not None:
                for file in sorted(path for pattern in _FILES for path in own.glob(pattern)):
                    (partial / file.name).symlink_to(file.resolve())
                revision = "a folder"
            else:
                origin = {"hub": name, "files": {"model": _FILES}}
                revision = hub.fetch(str(name), origin, partial, hub_mirror(), None, kind="model")
            files = sorted(path for path in partial.iterdir() if path.is_file())
            _require_model(partial, experiment)
            fingerprint = digest({path.name: checksum(path) for path in files})[:16]
            write_record(
                partial / "export.json", {"from": name, "revision": revision, "fingerprint": fingerprint}, files
            )
    there = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return compare(there, experiment.model, experiment.named, where, str(name))


def named_folder(experiment: Experiment) -> Path | None:
    """Return the folder on this machine that ``init_from`` names; None for a model of the Hub.

    Raises:
        UserError: if it is not there, or holds no model.
    """
    own = experiment.root / Path(str(experiment.init_from)).expanduser()
    if own.is_dir():
        _require_model(own, experiment)
        return own
    if experiment.starts_in_a_folder:
        raise UserError(f"{experiment.path}: init_from: {experiment.init_from}: no such folder: correct the path")
    return None


def _require_model(folder: Path, experiment: Experiment) -> None:
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        for index in folder.glob("*.safetensors.index.json"):
            _require_shards(index, f"{experiment.path}: init_from: {experiment.init_from}")
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, "numpy"):  # reads the names and sizes, and compares these with the file's
                    pass
            except SafetensorError as error:
                raise UserError(
                    f"{experiment.path}: init_from: {experiment.init_from}: {file.name}: no whole file of weights ({error}): "
                    "fetch it again"
                ) from error
        return
    name = str(experiment.init_from)
    inside = f", as {name.rstrip('/')}/hf" if (folder / "hf" / "config.json").is_file() else ""
    raise UserError(
        f"{experiment.path}: init_from: {name}: no config.json with weights in *.safetensors: name a model that has both{inside}"
    )


def _require_shards(index: Path, where: str) -> None:
    listed = read_json(index, "fetch it again").get("weight_map") or {}
    if missing := sorted({name for name in listed.values() if not (index.parent / name).is_file()}):
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise UserError(f"{where}: {missing[0]}{more} is not there, which {index.name} lists: fetch it")


def _is_whole(folder: Path) -> bool:
    try:
        return not damage(folder, load_record(folder / "export.json")["files"])
    except (OSError, UserError):
        return False
