"""Checkpoint directories that appear whole, with a list of their files, and can be checked against it."""

import json
import re
import shutil
from pathlib import Path

from lt25.files import sha256, write_json

MANIFEST = "manifest.json"


def partial_name(checkpoint: Path) -> Path:
    """Return where a checkpoint is written before it is whole: no name that torchtitan takes for a checkpoint's."""
    return checkpoint.with_name(checkpoint.name.replace("step-", "partial-"))


def publish(partial: Path, final: Path) -> None:
    """Turn a directory that has been written completely into a checkpoint: list its files and rename it."""
    files = {
        str(file.relative_to(partial)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(partial.rglob("*"))
        if file.is_file()
    }
    write_json(partial / MANIFEST, files)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, or return None if they are as they were written."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or torn"
    for name, written in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != written["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {written['bytes']}"
        if sha256(file) != written["sha256"]:
            return f"{name} has changed since it was written"
    return None


def kept_steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints stand in a directory, ascending."""
    matches = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(match[1]) for match in matches if match)
