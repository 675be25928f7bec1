"""How a word is written in a vocabulary of characters, of pieces of words, or of words.

The vocabulary alone says it, so that preparation, forced alignment and the words of a language model all write a word alike.
"""

from collections.abc import Mapping
from itertools import pairwise


def written(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Return a word in the symbols of a vocabulary, symbol -> number; characters that it lacks stand alone.

    Of pieces of words, those that byte-pair encoding joins (Sennrich et al., ACL 2016): of all neighbours whose joint piece there
    is, the two whose piece was found first, and so has the lowest number, again and again.
    """
    if word in vocabulary:
        return [word]
    symbols = list(word)
    while joint := [
        (vocabulary[one + other], at) for at, (one, other) in enumerate(pairwise(symbols)) if one + other in vocabulary
    ]:
        _, at = min(joint)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols
