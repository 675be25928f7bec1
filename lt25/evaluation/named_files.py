"""The files that a command is given, one by one or in folders."""

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from lt25.errors import UserError
from lt25.progress import say


def named_files(command: str, paths: Sequence[str], suffixes: Collection[str] = ()) -> list[str]:
    """Return the files that are meant, those of a folder in the order of their names; "-" is standard input.

    Of a folder, those are meant that have one of the ``suffixes``, if there are any; how many others it has is said.

    Args:
        command: what a message begins with.
        paths: files and folders; none: standard input.
        suffixes: of the files in a folder that are read; none: all are.

    Raises:
        UserError: for what is not there, a folder without such a file, or none at all on a terminal.
    """
    if not paths and sys.stdin.isatty():
        raise UserError(f"{command}: found no file, neither named nor on standard input: name one")
    return list(_files(paths or ["-"], suffixes))


def read_named(file: str) -> bytes:
    """Return a file's bytes."""
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def complain_of_unread(failed: Sequence[str]) -> None:
    """Say which files could not be read, if any, in a line each.

    Raises:
        UserError: with the last line; those before it are printed.
    """
    for line in failed[:-1]:
        print(f"lt25: error: {line}", file=sys.stderr)
    if failed:
        raise UserError(failed[-1])


def _files(paths: Sequence[str], suffixes: Collection[str]) -> Iterator[str]:
    for path in paths:
        # Not only files: a shell's `<(...)` is a pipe.
        if path == "-" or (Path(path).exists() and not Path(path).is_dir()):
            yield path
        elif Path(path).is_dir():
            there = [file for file in Path(path).rglob("*") if file.is_file() and file.name[0] != "."]
            inside = sorted(str(file) for file in there if not suffixes or file.suffix.lower() in suffixes)
            if not inside:
                of = f" of {', '.join(sorted(suffixes))}" if suffixes else ""
                raise UserError(f"{path}: found a folder without files{of}: name one that has some")
            if others := len(there) - len(inside):
                say(f"{path}: {others} {'file' if others == 1 else 'files'} of another kind: not read")
            yield from inside
        else:
            raise UserError(f"{path}: no such file or folder: name one that is there")
