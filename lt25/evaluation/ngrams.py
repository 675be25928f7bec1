"""Language models of n-grams, in ARPA files: estimated from sentences, and what words a file knows."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from lt25.errors import UserError
from lt25.files import whole_file

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"

_IMPOSSIBLE = -99.0
"""ARPA's logarithm of the probability of what is never predicted, the beginning of a sentence."""


def write_arpa(path: Path, sentences: Iterable[Sequence[str]], order: int) -> None:
    """Estimate a language model and write it.

    Each order is interpolated with the one below by Witten and Bell's method, which is defined for every text, however short:
    after a history that was seen N times, before T different words, an unseen word gets T / (N + T) of the probability.

    Args:
        path: of the ARPA file.
        sentences: the words, or symbols, of each.
        order: the most words of an n-gram; lower where no sentence is so long.

    Raises:
        ValueError: if there is no sentence.
    """
    follow = _count(sentences, order)
    # Logarithms of probabilities by n-gram, and of what its unseen followers get.
    probabilities: list[dict[tuple[str, ...], float]] = []
    for histories in follow:
        grams: dict[tuple[str, ...], float] = {}
        for history, counts in histories.items():
            below = probabilities[-1] if probabilities else {}
            total, distinct = counts.total(), len(counts)
            # One more than the words that were seen: the unknown one.
            share = 1 / (distinct + 1)
            for word, count in counts.items():
                lower = below[(*history[1:], word)] if history else share
                grams[(*history, word)] = (count + distinct * lower) / (total + distinct)
            if not history:
                grams[(UNKNOWN,)] = distinct * share / (total + distinct)
        probabilities.append(grams)
    probabilities[0][(BEGIN,)] = 10**_IMPOSSIBLE
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {n}={len(grams)}\n" for n, grams in enumerate(probabilities, 1))
        for n, grams in enumerate(probabilities, 1):
            file.write(f"\n\\{n}-grams:\n")
            for gram, probability in sorted(grams.items()):
                after = follow[n].get(gram) if n < len(follow) else None
                rest = f"\t{math.log10(len(after) / (after.total() + len(after))):.6f}" if after else ""
                file.write(f"{math.log10(probability):.6f}\t{' '.join(gram)}{rest}\n")
        file.write("\n\\end\\\n")


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[dict[tuple[str, ...], Counter[str]]]:
    """Return for each length of history from 0 what follows each history, and how often."""
    follow: list[dict[tuple[str, ...], Counter[str]]] = [defaultdict(Counter) for _ in range(order)]
    for sentence in sentences:
        words = (BEGIN, *sentence, END)
        for at in range(1, len(words)):
            for length in range(min(order, at + 1)):
                follow[length][words[at - length : at]][words[at]] += 1
    if not follow[0]:
        raise ValueError("no sentence to estimate a language model from")
    return [histories for histories in follow if histories]


def arpa_words(path: Path) -> list[str]:
    """Return the words, or symbols, that an ARPA file gives probabilities to.

    Raises:
        UserError: if it is no such file.
    """
    words: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            if not any(line.startswith("\\1-grams:") for line in file):
                raise UserError(f"{path}: no line \\1-grams:, expected a language model in an ARPA file")
            for line in file:
                if line.startswith("\\"):
                    break
                if parts := line.split():
                    words.append(parts[1])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: expected a language model in an ARPA file") from None
    except (UnicodeDecodeError, IndexError):
        raise UserError(f"{path}: expected a language model in an ARPA file, as UTF-8 text") from None
    return [word for word in words if word not in (BEGIN, END, UNKNOWN)]
