"""Files and folders that are there whole or not at all, and records by which a later stage tells that they are as they were.

What is written gets a temporary name beside its place, reaches the disk, and is renamed. A reader sees the old or the new,
and after a power cut too one of the two is there.

A record is a JSON file with a checksum of its own text and, under ``files``, the size and the checksum of each file that
belongs to it. The stage that hands files on writes it last. The stage that takes them reads it, and compares what it needs.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import xxhash

from lt25.errors import UserError

DISK = {
    errno.ENOSPC: "the disk is full: make room there",
    errno.EDQUOT: "the quota of disk space is used up: make room there",
    errno.EROFS: "the disk is read-only: make it writable",
    errno.EACCES: "this user lacks the permission: grant it, or name another place",
}
"""What a user is told of errors of the system that are the disk's."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(path: Path) -> str:
    """Return the XXH128 of a file, in hex: it tells accidents, not intent, as fast as the file can be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """Give a path beside ``target`` that no other process uses; what still stands there at the end is removed.

    The folder that holds ``target`` is made as needed. What a process of this machine left there when it was killed is
    removed.

    Args:
        target: a file, a folder or a link, there or not.

    Raises:
        UserError: if the disk is full or read-only, or the place is not one for a file.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{target}: a file stands where its folder would be: name another place") from None
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        process = left.name.removeprefix(prefix)
        # With a "-" left in it, it is the name of a machine that begins like this one's, and a number.
        if process.isdecimal() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            remove(left)
    partial = target.with_name(f"{prefix}{os.getpid()}")
    try:
        yield partial
    except Exception as error:
        if fault := disk_fault(error, target):
            raise UserError(fault) from None
        raise
    finally:
        # It cannot be removed from a disk that is read-only: the next who writes here does that.
        with suppress(OSError):
            remove(partial)


def disk_fault(error: BaseException | None, where: Path | None = None) -> str | None:
    """Say in a line that the disk is full, read-only or not this user's, if an error, or one that it comes from, is about that.

    Args:
        error: of Python's or of a library's, which has the system's words in its text.
        where: what was to be written, if it is known; else the file that the error names, or the folder of this process.
    """
    while error is not None:
        for number, fault in DISK.items():
            if os.strerror(number) in str(error):
                return f"{where or os.fsdecode(getattr(error, 'filename', None) or Path.cwd())}: {fault}"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a path to write a file or link to; when the block succeeds it takes the place of ``target``, else it goes.

    Raises:
        UserError: if the disk is full or read-only, or `refuse_no_file` complains.
    """
    refuse_no_file(target)
    with temporary(target) as partial:
        yield partial
        publish(partial, target)


def refuse_no_file(path: Path) -> None:
    """Complain of a path where no file can be: of a folder, a device or a pipe, as /dev/stdout may be one.

    A link that leads nowhere or to a folder may become a file.
    """
    # Renaming a file to such a name removes the device, for everybody.
    folder = path.parent.resolve()
    is_device = folder.is_relative_to("/dev") and not folder.is_relative_to("/dev/shm")
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path}: is a folder: name a file")
    if is_device or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UserError(f"{path}: is a device or a pipe: name a file")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block succeeds it takes the place of ``target``, else it goes.

    Raises:
        UserError: if the disk is full or read-only.
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
    """Read a JSON file that is no record.

    Raises:
        UserError: if it is not there or no JSON, with the hint what to do.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there: {hint}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}): {hint or 'make this file again'}") from error


def write_record(path: Path, facts: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
    """Write facts as a record, with the sizes and checksums of files that are in its folder or below.

    Returns:
        What the record holds: the facts, ``files`` and ``checksum``.
    """
    listed = {
        file.relative_to(path.parent).as_posix(): {"bytes": file.stat().st_size, "xxh128": checksum(file)}
        for file in files
    }
    return write_sealed(path, {**facts, "files": listed})


def write_sealed(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write facts with a checksum of their own text, as `load_record` reads them; return both."""
    # As they will be read: keys are strings there.
    record = json.loads(json.dumps(facts)) | {"checksum": ""}
    record["checksum"] = _own_checksum(path, record)
    write_json(path, record)
    return record


def load_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        FileNotFoundError: if it is not there.
        UserError: if it is not as it was written: a line that names it, and says in what way.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
    if not isinstance(found, dict) or found.get("checksum") != _own_checksum(path, found):
        raise UserError(f"{path}: has changed since it was written")
    return found


def read_record(path: Path, command: str) -> dict[str, Any]:
    """Read a record of an earlier stage; one that is damaged is set aside, see `set_aside`.

    Args:
        path: the record.
        command: what makes it anew: ``lt25 prepare digits``.

    Raises:
        UserError: if it is not there, or is not as it was written.
    """
    try:
        return load_record(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there: run `{command}` first") from None
    except UserError as error:
        raise set_aside(path, str(error), command) from None


def damage(folder: Path, listed: Mapping[str, Any], names: Collection[str] | None = None) -> str | None:
    """Say what is wrong with files that a record lists, or return None if they are as they were written.

    Args:
        folder: of the record.
        listed: the record's ``files``.
        names: which of them to compare; None: all.
    """
    for name, written in listed.items():
        file = folder / name
        if names is not None and name not in names:
            continue
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != written["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {written['bytes']}"
        if checksum(file) != written["xxh128"]:
            return f"{name} has changed since it was written"
    return None


def believe(path: Path, command: str, names: Collection[str] | None = None) -> dict[str, Any]:
    """Read a record, and compare its files.

    Args:
        path: the record.
        command: what makes it and its files anew.
        names: which files to compare; None: all.

    Raises:
        UserError: if the record is not there, or it or a file is not as it was written: then the record is set aside.
    """
    folder, record = path.parent, read_record(path, command)
    wrong = damage(folder, record["files"], names)
    if wrong and (again := read_record(path, command)) != record:
        # It was made anew meanwhile.
        record, wrong = again, damage(folder, again["files"], names)
    if wrong:
        raise set_aside(path, f"{folder}: {wrong}", command)
    return record


def set_aside(record: Path, complaint: str, command: str) -> UserError:
    """Give a record that is not to be believed another name, so that Snakemake makes it anew, and return what to say.

    Args:
        record: of an earlier stage.
        complaint: which file is wrong and in what way.
        command: what makes it anew.
    """
    with suppress(OSError):
        record.replace(record.with_name(f"{record.name}.damaged"))
    return UserError(f"{complaint}: run `{command}`")


def _own_checksum(path: Path, record: Mapping[str, Any]) -> str:
    # With its name: a record of another kind in its place is not believed.
    facts = {key: value for key, value in record.items() if key != "checksum"}
    return xxhash.xxh3_128_hexdigest(json.dumps([path.name, facts]).encode())


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
