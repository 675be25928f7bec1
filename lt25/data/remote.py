"""Files that stay where they are published, read like those of a folder."""

import io
import posixpath
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HUB = "hf://"


class RemotePath:
    """A file or folder of one of fsspec's file systems, with what of `pathlib.Path` datasets are read by.

    Args:
        system: the file system.
        path: in it.
    """

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self._system, posixpath.join(self._path, name))

    def __str__(self) -> str:
        return self._path

    @property
    def name(self) -> str:
        return posixpath.basename(self._path)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self._path)[1]

    def absolute(self) -> "RemotePath":
        return self

    def as_posix(self) -> str:
        return self._path

    def is_file(self) -> bool:
        return self._system.isfile(self._path)

    def is_dir(self) -> bool:
        return self._system.isdir(self._path)

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=self._system.size(self._path))

    def read_bytes(self) -> bytes:
        return self._system.cat_file(self._path)

    def open(self, mode: str = "r", **text: Any) -> Any:
        opened = self._system.open(self._path, "rb")
        return opened if mode == "rb" else io.TextIOWrapper(opened, **text)


def root_of(written: str) -> Path | RemotePath:
    """Return the folder that ``SOURCE.json`` says the files of a streamed dataset are in."""
    if not written.startswith(HUB):
        return Path(written)
    from huggingface_hub import HfFileSystem

    return RemotePath(HfFileSystem(), written.removeprefix(HUB))
