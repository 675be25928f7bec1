"""Folders of sounds for augmentation, noises and responses of rooms: which files, the hash of all, random pieces of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt25 import files
from lt25.data.folders import files_below
from lt25.errors import UserError
from lt25.progress import track

# What decides on a run is known before anything large is imported.
if TYPE_CHECKING:
    import numpy as np

SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
"""Of the files that are sounds; others in the folder are passed over."""

LARGE = 1 << 30
"""From so many bytes on it is shown how far the hashing of a folder is."""

Draw = Callable[[int], int]
"""Takes a number, returns a whole number from 0 to below it, drawn at random."""


class Sounds:
    """The sounds in a folder and those below it, sorted by name.

    Args:
        folder: its path, absolute or relative to the project.
        key: of the experiment file, for messages.

    Raises:
        UserError: if there is no such folder, no sound in it, or one that cannot be read: of each the header is looked at.
    """

    def __init__(self, folder: str, key: str) -> None:
        self.key, self.root = key, Path(folder).expanduser()
        self.paths = [self.root / name for name in _names(self.root, key)]
        for path in self.paths:
            self._opened(path).close()

    def whole(self, draw: Draw) -> tuple[np.ndarray, int]:
        """Return one of the sounds, one of its channels, float32 [n], and its sample rate in Hz."""
        with self._opened(self.paths[draw(len(self.paths))]) as file:
            return self._read(file, 0, file.frames)[:, draw(file.channels)], file.samplerate

    def piece(self, seconds: float, draw: Draw) -> tuple[np.ndarray, int]:
        """Return a piece of one of the sounds, from a random place on; a sound that ends before the piece begins again.

        Args:
            seconds: so long is the piece, or up to a sample longer.
            draw: what is drawn with.

        Returns:
            One of its channels, float32 [n], and its sample rate in Hz.
        """
        import numpy as np

        with self._opened(self.paths[draw(len(self.paths))]) as file:
            wanted = int(seconds * file.samplerate) + 1
            samples = self._read(file, draw(file.frames), wanted)
            if lacking := wanted - len(samples):
                whole = self._read(file, 0, lacking)
                samples = np.concatenate((samples, np.resize(whole, (lacking, file.channels))))
            return samples[:, draw(file.channels)], file.samplerate

    def _opened(self, path: Path) -> Any:
        import soundfile

        try:
            file = soundfile.SoundFile(path)
        except RuntimeError as error:
            raise self._unusable(path, f"no readable audio ({getattr(error, 'error_string', error)})") from None
        if not file.frames > 0 < file.samplerate:
            file.close()
            raise self._unusable(path, "holds no samples")
        return file

    def _read(self, file: Any, start: int, frames: int) -> np.ndarray:
        """Return up to so many frames of an open file, float32 [n, channels]."""
        import numpy as np

        try:
            file.seek(start)
            samples = file.read(frames, dtype="float32", always_2d=True)
        except RuntimeError as error:
            raise self._unusable(file.name, f"no readable audio ({getattr(error, 'error_string', error)})") from None
        if not len(samples) or not np.isfinite(samples).all():
            raise self._unusable(file.name, "holds samples that are not finite, or none where its header promises some")
        return samples

    def _unusable(self, path: Any, why: str) -> UserError:
        return UserError(f"augment.{self.key}: {path}: {why}: mend or remove it")


def contents(augment: Mapping[str, Any], folders: Iterable[str], root: Path = Path()) -> dict[str, str]:
    """Return a hash of what is in each folder of sounds that an ``augment`` section names, by the key that names it.

    Args:
        augment: the section.
        folders: those of its keys that name a folder.
        root: what the paths of folders are relative to.

    Raises:
        UserError: if there is no such folder, or no sound in it.
    """
    return {key: _content(root / Path(augment[key]).expanduser(), key) for key in folders if augment.get(key)}


def _names(root: Path, key: str) -> list[str]:
    if not root.is_dir():
        raise UserError(f"augment.{key}: {root}: no such folder: name one with recordings")
    names = [name for name in files_below(root)[0] if Path(name).suffix.lower() in SUFFIXES]
    if not names:
        raise UserError(f"augment.{key}: {root}: no recording in it: expected {', '.join(sorted(SUFFIXES))}")
    return names


def _content(root: Path, key: str) -> str:
    """Return a hash of the names and the content of the sounds in a folder."""
    states = ((name, (root / name).stat()) for name in _names(root, key))
    try:
        return _digest(root, tuple((name, state.st_size, state.st_mtime_ns) for name, state in states))
    except OSError as error:
        raise UserError(
            f"augment.{key}: {error.filename}: cannot be read ({error.strerror}): mend or remove it"
        ) from None


@cache
def _digest(root: Path, facts: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of the files in a folder, of which name, size and date are known: a process reads them once."""
    large = sum(size for _, size, _ in facts) >= LARGE
    content = hashlib.sha256()
    for name, *_ in track(facts, f"{root}: sounds hashed", len(facts)) if large else facts:
        content.update(f"{name} {files.sha256(root / name)}\n".encode())
    return content.hexdigest()[:16]
