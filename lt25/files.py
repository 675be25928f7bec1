"""Files and folders that are there whole or not at all, and their hashes.

What is written gets a temporary name beside its place, reaches the disk, and is renamed. A reader sees the old or the new,
and after a power cut too one of the two is there.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lt25.errors import UserError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """Give a path beside ``target`` that no other process uses; what still stands there at the end is removed.

    The folder that holds ``target`` is made as needed. What a process of this machine left there when it was killed is
    removed.

    Args:
        target: a file, a folder or a link, there or not.

    Raises:
        UserError: if the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        process = left.name.removeprefix(prefix)
        # With a "-" left in it, it is the name of a machine that begins like this one's, and a number.
        if process.isdecimal() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            remove(left)
    partial = target.with_name(f"{prefix}{os.getpid()}")
    try:
        yield partial
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{target}: the disk is full: make room there") from None
        raise
    finally:
        remove(partial)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a path to write a file or link to; when the block succeeds it takes the place of ``target``, else it goes.

    Raises:
        UserError: if the disk is full.
    """
    with temporary(target) as partial:
        yield partial
        publish(partial, target)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block succeeds it takes the place of ``target``, else it goes.

    Raises:
        UserError: if the disk is full.
    """
    with temporary(target) as partial:
        partial.mkdir()
        yield partial
        publish(partial, target)


def publish(partial: Path, target: Path) -> None:
    """Bring a finished file, link or folder to disk and rename it; what was called ``target`` goes.

    A file is replaced in one go. A folder cannot be: a process killed between the two steps leaves none.
    """
    if not partial.is_symlink():
        _flush(partial)
    if partial.is_dir() and not partial.is_symlink():
        remove(target)
    partial.replace(target)
    _flush_one(target.parent)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file in UTF-8; folders are made as needed."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON file of an earlier stage.

    Raises:
        UserError: if it is not there, with the hint what to do, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there: {hint}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}): make this file again") from error


def _flush(path: Path) -> None:
    """Bring a file, or a folder with all that it holds, to disk."""
    if path.is_dir():
        for inner in path.rglob("*"):
            if not inner.is_symlink():
                _flush_one(inner)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
