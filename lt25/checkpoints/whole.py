"""Checkpoint directories that appear whole, with a list of their files, and can be checked against it."""

import json
import re
from pathlib import Path

from lt25 import files

MANIFEST = "manifest.json"


def partial_name(checkpoint: Path) -> Path:
    """Return where a checkpoint is written before it is whole: no name that torchtitan takes for a checkpoint's."""
    return checkpoint.with_name(checkpoint.name.replace("step-", "partial-"))


def publish(partial: Path, final: Path) -> None:
    """Turn a directory that has been written completely into a checkpoint: list its files and rename it."""
    listed = {
        str(file.relative_to(partial)): {"bytes": file.stat().st_size, "sha256": files.sha256(file)}
        for file in sorted(partial.rglob("*"))
        if file.is_file()
    }
    files.write_json(partial / MANIFEST, listed)
    files.publish(partial, final)


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, or return None if they are as they were written."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or torn"
    for name, written in listed.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != written["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {written['bytes']}"
        if files.sha256(file) != written["sha256"]:
            return f"{name} has changed since it was written"
    return None


def kept_steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints stand in a directory, ascending."""
    matches = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(match[1]) for match in matches if match)
