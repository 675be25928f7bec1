"""Text without end, or of any size: the running Python's standard library again and again with changes, and words at random.

Of every eight documents seven are files of the library, in which a few words stand for others; one is words drawn as often as the
library has them. Writes JSON lines, ``train-<number>.jsonl`` of 64 MB each and ``test.jsonl`` of half a percent, with the columns
``id`` and ``text``.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from lt25.data.builders import stdlib
from lt25.progress import track

MEGABYTES = 2000
_FILE = 64_000_000
_WORD = re.compile(r"[A-Za-z_]{4,}")
# Replaced in JSON, which is fast: none of them can be what follows a backslash there.
_REPLACEABLE = re.compile(r"\b[A-Zac-eg-mo-qsv-z_][A-Za-z_]{3,}")
_REPLACED = 4
"""So many different words of a document are replaced, everywhere in it."""


def build(folder: Path, options: dict[str, Any]) -> str:
    """Write the dataset into ``folder``. Returns the revision of the standard library.

    Args:
        folder: an empty one.
        options: may set ``megabytes``, the size.
    """
    with tempfile.TemporaryDirectory() as library:
        revision = stdlib.build(Path(library), {})
        files = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(Path(library).rglob("*.py"))]
    size = options.get("megabytes", MEGABYTES) * 1_000_000
    lines: Any = track(_lines(files), "documents written")
    _write(folder / "test.jsonl", lines, size // 200)
    for number, begin in enumerate(range(0, size, _FILE)):
        _write(folder / f"train-{number:03}.jsonl", lines, min(_FILE, size - begin))
    lines.close()
    return revision


def _lines(files: list[str]) -> Iterator[bytes]:
    """Yield documents for ever, a line each."""
    random, number = Random(0), 0
    counts = Counter(word for text in files for word in _WORD.findall(text))
    words, often = list(counts), list(accumulate(counts.values()))
    library = [(_encoded(text), sorted(set(_REPLACEABLE.findall(text)))) for text in files]
    while True:
        random.shuffle(library)
        for text, own in library:
            changed = text
            for word in random.sample(own, min(_REPLACED, len(own))):
                changed = changed.replace(word.encode(), random.choice(words).encode())
            yield _line(number, changed)
            number += 1
            if number % 8 == 7:
                drawn = " ".join(random.choices(words, cum_weights=often, k=random.randrange(20, 2000)))
                yield _line(number, _encoded(drawn))
                number += 1


def _encoded(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def _line(number: int, text: bytes) -> bytes:
    return b'{"id": "%d", "text": %s}\n' % (number, text)


def _write(path: Path, lines: Iterator[bytes], size: int) -> None:
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(next(lines))
