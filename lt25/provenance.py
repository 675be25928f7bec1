"""``lt25 provenance`` and ``lt25 verify``: from a model back to the downloaded bytes, and whether all is as it was written.

Each stage's record names what it was made from: ``export.json`` the run, ``train.json`` the prepared data and the model that
training started from, ``stats.json`` the files as published, ``SOURCE.json`` their origin and hashes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt25 import files
from lt25.checkpoints.card import device_of
from lt25.data.acquire import data_root, source_digest
from lt25.errors import UserError
from lt25.experiment import load_dataset_config, model_fingerprint, project_root


@dataclass(frozen=True)
class Link:
    """One stage in the chain of a model.

    Attributes:
        what: "model", "training", "prepared data" or "source".
        path: its record, relative to the project.
        record: what that holds; None if it is not there, or no longer the one that the stage after it was made from.
        said: what it says of where the result comes from, by name.
    """

    what: str
    path: Path
    record: dict[str, Any] | None
    said: dict[str, Any]


def tell(model: str) -> list[str]:
    """Return the chain of a model, lines for the terminal.

    Args:
        model: an exported model's folder, or the name of its experiment.

    Raises:
        UserError: if there is no such model, or a record has changed since it was written.
    """
    lines = []
    for link in chain(_folder(model)):
        lines.append(f"{link.what}: {link.path}{'' if link.record else ' (not here, or made anew since)'}")
        lines += [f"    {name}: {value}" for name, value in link.said.items() if value is not None]
    return lines


def verify(model: str) -> tuple[list[str], bool]:
    """Compute the hashes of a model's chain again.

    Returns:
        A line for each of its folders, and whether everything that is here is as it was written.

    Raises:
        UserError: as `tell`.
    """
    lines, good = [], True
    # A model and the one that it started from may share their data.
    for link in {link.path: link for link in chain(_folder(model))}.values():
        if link.record is None:
            lines.append(f"absent  {link.path}")
            continue
        wrong = _damage(link)
        good &= wrong is None
        lines.append(f"{'ok     ' if wrong is None else 'WRONG  '} {link.path}{f': {wrong}' if wrong else ''}")
    return lines, good


def chain(folder: Path) -> Iterator[Link]:
    """Yield the links of the model in a folder, the model first; where it started from another, that one's after them."""
    root = project_root()
    exported = _read(folder / "export.json")
    if exported is None:
        raise UserError(f"{folder}: no export.json, so no model that lt25 exported")
    if "experiment" not in exported:
        raise UserError(f"{folder}: comes from {exported['from']}, revision {exported['revision']}, and not from lt25")
    weights = {name: fact["xxh128"] for name, fact in exported["files"].items() if name.endswith(".safetensors")}
    steps = exported.get("averaged", [exported["step"]])
    averaged = {"averaged": ", ".join(map(str, steps))} if "averaged" in exported else {}
    said = {"experiment": exported["experiment"], "step": exported["step"], **averaged, **weights}
    yield Link("model", _short(folder / "export.json", root), exported, said)

    results = root / "results" / exported["experiment"]
    trained = _read(results / "train.json")
    if trained and model_fingerprint(trained, steps) != exported["fingerprint"]:
        trained = None
    yield Link("training", _short(results / "train.json", root), trained, _of_training(trained or {}))

    found = sorted((root / "data" / "processed" / exported["dataset"]).glob("*/stats.json"))
    records = ((path, _read(path)) for path in found)
    path, stats = next(
        ((path, record) for path, record in records if record and record["fingerprint"] == exported["data"]),
        (root / "data" / "processed" / exported["dataset"], None),
    )
    said = {"fingerprint": exported["data"], **{name: (stats or {}).get(name) for name in ("preparation", "licence")}}
    yield Link("prepared data", _short(path, root), stats, said)

    for name, digest in (stats or {}).get("sources", {}).items():
        path = root / "data" / "raw" / name / "SOURCE.json"
        source = _read(path)
        if source and source_digest(source) != digest:
            source = None
        yield Link("source", _short(path, root), source, {"files": digest, **_of_source(source or {})})

    if trained and trained["init_from"]:
        yield from _of_parent(trained["init_from"], root)


def _of_parent(fingerprint: str, root: Path) -> Iterator[Link]:
    """Yield the links of the model that training started from: the exported one, or one of the Hub or a folder."""
    for pattern in ("results/*/hf/export.json", "results/*/hf/step-*/export.json", "data/models/**/export.json"):
        for path in sorted(root.glob(pattern)):
            record = _read(path)
            if record and record["fingerprint"] == fingerprint:
                if "experiment" in record:
                    yield from chain(path.parent)
                else:
                    said = {name: record[name] for name in ("from", "revision", "fingerprint")}
                    yield Link("model", _short(path, root), record, said)
                return
    yield Link("model", Path("results"), None, {"fingerprint": fingerprint})


def _of_training(trained: Mapping[str, Any]) -> dict[str, Any]:
    if not trained:
        return {}
    code = trained.get("code")
    versions = ", ".join(f"{name} {number}" for name, number in trained["versions"].items())
    return {
        "fingerprint": trained["fingerprint"],
        "code": f"commit {code['commit']}{', with changes that are not committed' if code['dirty'] else ''}"
        if code
        else None,
        "seed": trained["identity"]["debug"]["seed"],
        "started from": trained["init_from"],
        "on": device_of(trained),
        "versions": versions,
    }


def _of_source(source: Mapping[str, Any]) -> dict[str, Any]:
    if not source:
        return {}
    origin = ", ".join(f"{name} {value}" for name, value in source["origin"].items() if isinstance(value, str | int))
    return {name: source.get(name) for name in ("revision", "licence", "acquired")} | {"origin": origin}


def _damage(link: Link) -> str | None:
    """Say what is wrong with the files of a link's record, or return None."""
    record = link.record or {}
    folder = project_root() / link.path.parent
    if link.what == "source":
        return _damaged_source(folder, record)
    return files.damage(folder, record["files"])


def _damaged_source(folder: Path, source: Mapping[str, Any]) -> str | None:
    root = data_root(load_dataset_config(folder.name), folder)
    for name, fact in source["files"].items():
        if "sha256" not in fact:  # it stays where it is published, and is known by its size and its revision
            continue
        if not (root / name).is_file():
            return f"{name} is missing"
        if files.sha256(root / name) != fact["sha256"]:
            return f"{name} has another SHA-256"
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return files.load_record(path)
    except FileNotFoundError:
        return None


def _folder(model: str) -> Path:
    """Return the folder of a model that is named by it or by its experiment."""
    exported = project_root() / "results" / model / "hf"
    return exported if exported.is_dir() else Path(model).absolute()


def _short(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
