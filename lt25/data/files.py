"""Files written so that a half-written one is never mistaken for a whole one, and their hashes."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lt25.errors import UserError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON under a temporary name, then move it to ``path``."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def copy(source: Path, target: Path) -> None:
    """Copy a file under a temporary name, then move it to ``target``; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block succeeds it takes the place of ``target``, else it goes."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def need_space(folder: Path, wanted: int, what: str) -> None:
    """Raise a UserError if the disk of ``folder`` has fewer than ``wanted`` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise UserError(
            f"{what} needs {wanted / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: make room on that disk"
        )
