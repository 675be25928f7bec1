"""CTC scores, frame by frame, to words with their times and the model's confidence in them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lt25.data.audio import HOP_SECONDS

PAUSE_SECONDS = 1.0
"""So long a pause ends a word and an utterance, whether or not the model writes a space."""

UTTERANCE_SECONDS = 30.0
"""A longer utterance is ended after its next word, so that one is never long, whoever speaks."""


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
        read: seconds that were read.
    """

    def __init__(self, tokenizer: Any, subsampling: int) -> None:
        self.unfinished, self.read = "", 0.0
        self._blank, self._space = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        special = set(tokenizer.all_special_ids) - {self._space}
        self._letters = {
            number: "" if number in special else letter for letter, number in tokenizer.get_vocab().items()
        }
        self._frame = HOP_SECONDS * subsampling
        self._pause = round(PAUSE_SECONDS / self._frame)
        self._frames, self._previous = 0, self._blank
        # Of the word under way: its first frame, the frame after its last letter, and logarithms of probabilities, of all
        # frames since its first and of those up to its last letter.
        self._first = self._last = 0
        self._sum = self._sum_to_last = 0.0

    def feed(self, logits: Tensor) -> Iterator[Word | None]:
        """Yield the words that logits float [T, V] more finish, and None where a pause ends an utterance."""
        best = logits.float().log_softmax(-1).max(-1)
        for symbol, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            self._sum += score
            self._frames += 1
            self.read = self._frames * self._frame
            if symbol == self._space:
                yield from self.finish()
            elif symbol != self._blank and (letter := self._letters[symbol]):
                if not self.unfinished:
                    self._first, self._sum = self._frames - 1, score
                if symbol != self._previous or not self.unfinished:
                    self.unfinished += letter
                self._last, self._sum_to_last = self._frames, self._sum
            self._previous = symbol
            if self._last and self._frames - self._last == self._pause:
                yield from self.finish()
                yield None

    def finish(self) -> list[Word]:
        """Return the word that was under way, which is finished now; none if there is none."""
        if not self.unfinished:
            return []
        confidence = math.exp(self._sum_to_last / (self._last - self._first))
        word = Word(self.unfinished, self._first * self._frame, self._last * self._frame, confidence)
        self.unfinished = ""
        return [word]
