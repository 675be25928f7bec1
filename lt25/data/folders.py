"""The files of a dataset's folder, and which of them belong to which of the source's splits."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from lt25.config.sections import SPLITS
from lt25.errors import UserError

ALL = "all"
"""The source split that stands for every file of a dataset."""


class Folder:
    """The files that a dataset may read: nothing else is looked at, so that what is read is what was hashed.

    Attributes:
        root: the folder.
        names: of its files, relative to it, with "/", sorted.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root, self.names = root, sorted(names)

    @cached_property
    def _composed(self) -> dict[str, str]:
        """Name with composed accents -> name: macOS writes é as e and an accent, a spreadsheet as one letter."""
        return {unicodedata.normalize("NFC", name): name for name in self.names}

    def find(self, name: str) -> str | None:
        """Return the file of a name that a person wrote, or None."""
        return self._composed.get(unicodedata.normalize("NFC", name))

    def like(self, name: str) -> str | None:
        """Return a file whose name is another but for capitals, its folder or its suffix, or None."""
        return self._by_bare_name.get(_bare(name))

    @cached_property
    def _by_bare_name(self) -> dict[str, str]:
        return {_bare(name): name for name in self.names}


def _bare(name: str) -> str:
    """Return what is left of a name without folder, suffix and capitals."""
    return PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/"))).stem.casefold()


def files_below(root: Path) -> tuple[list[str], list[str]]:
    """Return the files below a folder, relative to it and sorted, and what was left out, a line each.

    Links are followed. A folder that is reached twice, by a link into it or around it, is read once. Hidden files and folders,
    whose names begin with a dot, are passed over without a word.
    """
    names, left_out, seen = [], [], set()

    def forbidden(error: OSError) -> None:
        left_out.append(f"{Path(error.filename).relative_to(root).as_posix()}: cannot be read ({error.strerror})")

    for folder, inner, files in os.walk(root, onerror=forbidden, followlinks=True):
        here = Path(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        # Links come last, so that what can be reached without one has its own name.
        inner.sort(key=lambda name: (here / name).is_symlink())
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            left_out.append(f"{here.relative_to(root).as_posix()}: a link to a folder that is read already")
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in files:
            path = here / name
            if name.startswith("."):
                continue
            relative = path.relative_to(root).as_posix()
            if path.is_file():
                names.append(relative)
            elif path.is_symlink():
                left_out.append(f"{relative}: a link to nothing")
    return sorted(names), left_out


def listed(names: str | list[str]) -> list[str]:
    """Return what a dataset's file writes as one name, or as a list of several."""
    return [names] if isinstance(names, str) else names


def matching(names: Iterable[str], pattern: str) -> set[str]:
    """Return those of some relative file names that a glob matches: "*" within one part of a name, "**" over parts."""
    parts = PurePosixPath(pattern).parts
    return {name for name in names if _matches(name.split("/"), parts)}


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(name[skipped:], pattern[1:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def of_split(folder: Folder, split: str, others: Iterable[str], patterns: dict[str, Any], config: str) -> list[str]:
    """Return the files of one of the source's splits.

    Args:
        folder: the files that there are.
        split: the source split's name, or `ALL`.
        others: names of the source splits that the dataset uses.
        patterns: the globs of ``origin.files``. Without them a file belongs to the split whose name stands, as a word, in the
            name of its top folder ("train/cat/1.png"), or in its own if no split stands in that of the folder ("train.csv",
            "data/train-00000.parquet"). The top folder is the first below those that all files share. Of names that hold each
            other, as "test" and "test-other", the longer one counts.
        config: the dataset file, for messages.

    Raises:
        UserError: if there are none.
    """
    if patterns:
        if split not in patterns:
            raise UserError(f"{config}: splits: {split} is none of origin.files, which are {', '.join(patterns)}")
        found = sorted(set().union(*(matching(folder.names, pattern) for pattern in listed(patterns[split]))))
    elif split == ALL:
        found = folder.names
    else:
        words = {*SPLITS, *others, split}
        longer_words = [word for word in words if len(word) > len(split) and _has_word(word, split)]
        depth = _shared(folder.names, words)

        def belongs(name: str) -> bool:
            *folders, file = name.split("/")
            top = folders[depth] if len(folders) > depth else ""
            named_by_folder = any(_has_word(top, word) for word in words)
            named = top if named_by_folder else file
            return _has_word(named, split) and not any(_has_word(named, longer) for longer in longer_words)

        found = [name for name in folder.names if belongs(name)]
    if not found:
        raise UserError(
            f"{config}: splits: no file of {folder.root} belongs to the source's split {split}: "
            f"name one that has files, {ALL} for every file, or give globs in origin.files"
        )
    return found


def _shared(names: list[str], words: Iterable[str]) -> int:
    """Return how many leading folders all files share that say nothing of a split, as "data" in "data/train/1.png"."""
    if not names:
        return 0
    # Of a sorted list the first and the last differ first.
    first, last = names[0].split("/")[:-1], names[-1].split("/")[:-1]
    shared = 0
    for one, other in zip(first, last, strict=False):
        if one != other or any(_has_word(one, word) for word in words):
            break
        shared += 1
    return shared


def _has_word(name: str, word: str) -> bool:
    """Whether a word stands in a name: "train" in "train.csv" and "my-train-00000.parquet", not in "trainer.csv"."""
    return re.search(rf"(^|[._-]){re.escape(word)}([._-]|$)", name, re.IGNORECASE) is not None
