"""CTC scores, frame by frame, to words with their times and the model's confidence in them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from lt25.data.audio import HOP_SECONDS
from lt25.data.units import written

PAUSE_SECONDS = 1.0
"""So long a pause ends a word and an utterance, whether or not the model writes a space."""

UTTERANCE_SECONDS = 30.0
"""A longer utterance is ended after its next word, so that one is never long, whoever speaks."""


MOST_ALIGNED = 4 * 2**30
"""The most bytes of memory that an alignment takes: one for each pair of a frame and a symbol, or a blank between two."""


@dataclass(frozen=True)
class Word:
    """A word that was heard.

    Attributes:
        text: as the model writes it.
        start, end: in seconds: where its first letter begins and its last one ends, by the best path.
        confidence: geometric mean of the probabilities that the model gives the path of the word, 0..1.
    """

    text: str
    start: float
    end: float
    confidence: float


class BestPath:
    """Best-path decoding: the best symbol of each frame, repeats collapsed and blanks dropped.

    What it has written stays as it is, however much follows. It remembers the word that is under way.

    Args:
        tokenizer: a CTC tokenizer whose ``pad_token`` is the blank.
        subsampling: frames of features to a frame of scores.

    Attributes:
        unfinished: the letters of the word that is under way.
        frames: how many were read, of scores.
        frame: seconds of one.
        pause: how many end an utterance.
    """

    def __init__(self, tokenizer: Any, subsampling: int) -> None:
        self.unfinished, self.frames = "", 0
        self._blank, self._space = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        self._letters = letters(tokenizer)
        self.frame = HOP_SECONDS * subsampling
        self.pause = round(PAUSE_SECONDS / self.frame)
        self._previous = self._blank
        # Of the word under way: its first frame, the frame after its last letter, and logarithms of probabilities, of all
        # frames since its first and of those up to its last letter.
        self._first = self._last = 0
        self._sum = self._sum_to_last = 0.0

    def feed(self, logits: Tensor) -> Iterator[Word | None]:
        """Yield the words that logits float [T, V] more finish, and None where a pause ends an utterance."""
        best = logits.float().log_softmax(-1).max(-1)
        for symbol, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            self._sum += score
            self.frames += 1
            if symbol == self._space:
                yield from self.finish()
            elif symbol != self._blank and (letter := self._letters[symbol]):
                if not self.unfinished:
                    self._first, self._sum = self.frames - 1, score
                if symbol != self._previous or not self.unfinished:
                    self.unfinished += letter
                self._last, self._sum_to_last = self.frames, self._sum
            self._previous = symbol
            if self._last and self.frames - self._last == self.pause:
                yield from self.finish()
                yield None

    def finish(self) -> list[Word]:
        """Return the word that was under way, which is finished now; none if there is none."""
        if not self.unfinished:
            return []
        confidence = math.exp(self._sum_to_last / (self._last - self._first))
        start, end = (round(frame * self.frame, 3) for frame in (self._first, self._last))
        word = Word(self.unfinished, start, end, confidence)
        self.unfinished = ""
        return [word]


def letters(tokenizer: Any) -> dict[int, str]:
    """Return what each symbol writes, by its number: the special ones nothing, but for the space."""
    special = set(tokenizer.all_special_ids) - {tokenizer.word_delimiter_token_id}
    return {number: "" if number in special else letter for letter, number in tokenizer.get_vocab().items()}


def spelled(words: Iterable[str], vocabulary: Mapping[str, int], space: str) -> list[str] | None:
    """Return words in the symbols of a vocabulary, a space between two, as training wrote them; None if it lacks one."""
    symbols: list[str] = []
    for word in words:
        symbols += [*([space] if symbols else []), *written(word, vocabulary)]
    return symbols if all(symbol in vocabulary for symbol in symbols) else None


def align(log_probs: Tensor, symbols: Sequence[int], tokenizer: Any, frame: float, start: float = 0.0) -> list[Word]:
    """Return words that are known, where the likeliest path that writes them has them (forced alignment).

    Args:
        log_probs: float [T, V], logarithms of probabilities.
        symbols: of the vocabulary, with a space between words.
        tokenizer: a CTC tokenizer whose ``pad_token`` is the blank.
        frame: seconds of a frame of scores.
        start: seconds at which the first frame begins.

    Raises:
        ValueError: if there are too few frames for so many symbols, or both are too many.
    """
    from torchaudio.functional import forced_align

    if not symbols:
        return []
    needed = len(symbols) + sum(one == other for one, other in pairwise(symbols))
    if needed > len(log_probs):
        raise ValueError(f"the words need {needed} frames, and the recording has {len(log_probs)}")
    if len(log_probs) * (2 * len(symbols) + 1) > MOST_ALIGNED:
        raise ValueError("the recording and its text are too long to be aligned at once: cut them")
    blank, space = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
    paths, scores = forced_align(log_probs.float().cpu()[None], torch.tensor([list(symbols)]), blank=blank)
    # Of each symbol that is written its first frame and the one after its last.
    spans, at = [], 0
    for symbol, repeats in groupby(paths[0].tolist()):
        count = len(list(repeats))
        if symbol != blank:
            spans.append((symbol, at, at + count))
        at += count
    words, letter_of = [], letters(tokenizer)
    for is_space, group in groupby(spans, lambda span: span[0] == space):
        if not is_space:
            spelled = list(group)
            first, last = spelled[0][1], spelled[-1][2]
            confidence = scores[0, first:last].mean().exp().item()
            text = "".join(letter_of[symbol] for symbol, *_ in spelled)
            begin, end = (round(start + at * frame, 3) for at in (first, last))
            words.append(Word(text, begin, end, confidence))
    return words
