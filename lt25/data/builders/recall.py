"""Synthetic recall: sequences of symbols of which some can be known from what was read before, and from nothing else.

Three kinds, from the literature on linear models, each with the symbols that are asked for and how difficult a sequence is:

``mqar``: multi-query associative recall (Arora et al., 2023). Pairs of a key and a value, `k3 v7 k5 v2`, and then all keys again
in another order, each with its value: the values are asked for. Its difficulty is the number of pairs.

``copying``: random letters, `|`, and the same letters once more, which are asked for. Its difficulty is their number.

``induction`` (induction heads): random letters, somewhere among them `!` and a letter, and at the end `!` again: the letter that
followed it is asked for, and nothing else. Its difficulty is the length of the sequence.

Training has the easier half of the difficulties, validation and test have all. No sequence comes twice.

Writes ``<split>.parquet`` with the columns ``text`` (symbols parted by spaces), ``asked`` (places of the symbols asked for, from
0) and ``difficulty``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLES = {"train": 20_000, "validation": 1_200, "test": 2_400}
VERSION = "1"
"""Raised when the same options give other sequences."""

LETTERS = np.array(list("abcdefghijklmnop"))
NAMES = 64
"""Keys, and values, of mqar."""

Sequence = tuple[list[str], list[int]]
"""Symbols, and the places of those asked for."""


def build(folder: Path, options: dict[str, Any]) -> str:
    """Write the dataset into ``folder``. Returns the revision: the kind and its version.

    Args:
        folder: an empty one.
        options: ``kind``, a name in `KINDS`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = options["kind"]
    make, difficulties = KINDS[kind]
    seen: set[str] = set()
    for number, (split, count) in enumerate(EXAMPLES.items()):
        random = np.random.default_rng([25, list(KINDS).index(kind), number])
        hard = difficulties[: len(difficulties) // 2] if split == "train" else difficulties
        rows = []
        while len(rows) < count:
            difficulty = hard[len(rows) % len(hard)]
            symbols, asked = make(random, difficulty)
            text = " ".join(symbols)
            if text not in seen:
                rows.append({"text": text, "asked": asked, "difficulty": difficulty})
                seen.add(text)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return f"{kind} {VERSION}"


def _mqar(random: np.random.Generator, pairs: int) -> Sequence:
    keys, values = random.permutation(NAMES)[:pairs], random.integers(NAMES, size=pairs)
    both = [pair for order in (range(pairs), random.permutation(pairs)) for pair in order]
    symbols = [symbol for pair in both for symbol in (f"k{keys[pair]}", f"v{values[pair]}")]
    return symbols, list(range(2 * pairs + 1, 4 * pairs, 2))


def _copying(random: np.random.Generator, length: int) -> Sequence:
    letters = random.choice(LETTERS, length).tolist()
    return [*letters, "|", *letters], list(range(length + 1, 2 * length + 1))


def _induction(random: np.random.Generator, length: int) -> Sequence:
    letters = random.choice(LETTERS, length - 1).tolist()
    place = int(random.integers(length - 3))
    letters[place] = "!"
    return [*letters[:-1], "!", letters[place + 1]], [length - 1]


KINDS: dict[str, tuple[Callable[[np.random.Generator, int], Sequence], tuple[int, ...]]] = {
    "mqar": (_mqar, (2, 4, 8, 16, 24, 32, 48, 64)),
    "copying": (_copying, (4, 8, 16, 32, 48, 64, 96, 128)),
    "induction": (_induction, (8, 16, 32, 64, 128, 256, 512, 1024)),
}
"""Kind -> how a sequence of a difficulty is made, and the difficulties."""
