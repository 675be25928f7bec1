"""Beam search over CTC scores, with a language model of n-grams, by torchaudio's decoder (flashlight-text and KenLM).

"Wav2Letter++: A Fast Open-source Speech Recognition System" (Pratap et al., 2019, https://doi.org/10.1109/ICASSP.2019.8683535)
describes the search. What the user may ask for is ``evaluation.decoder``: see `lt25.tasks`.
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.errors import UserError
from lt25.evaluation.decoder import ESTIMATED
from lt25.evaluation.ngrams import arpa_words, write_arpa
from lt25.evaluation.words import spelled

_NEVER = -1e4


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said.

    Attributes:
        symbols: numbers of the vocabulary, without blanks, and with one space between words.
        text: the same to read.
        score: logarithm of its probability by the model, plus what the language model adds; it has no scale of its own.
    """

    symbols: tuple[int, ...]
    text: str
    score: float


class BeamSearch:
    """A prefix beam search, of utterances one by one.

    Without a language model, or with one of symbols, any text can be heard; with one of words only its words, and those that are
    boosted. A file's language model is one of symbols if it knows the vocabulary's space.

    Args:
        tokenizer: a CTC tokenizer whose ``pad_token`` is the blank.
        options: ``evaluation.decoder``, resolved and `settled`.
        texts: transcripts, of which a language model is estimated where none is given.

    Attributes:
        alternatives: how many texts of an utterance are wanted.

    Raises:
        UserError: if the language model cannot be read, or none of its words can be spelled.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any], texts: Iterable[str] = ()) -> None:
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._tokens = sorted(self._vocabulary, key=self._vocabulary.__getitem__)
        self._space, self._blank = tokenizer.word_delimiter_token, tokenizer.pad_token
        self._silent = [
            number
            for number in tokenizer.all_special_ids
            if number not in (tokenizer.word_delimiter_token_id, tokenizer.pad_token_id)
        ]
        self.alternatives, model = options["alternatives"], options["language_model"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(model or "")
            if model in ESTIMATED:
                path = Path(folder) / "lm.arpa"
                sentences = (text.split() for text in texts)
                write_arpa(path, sentences if model == "words" else map(self._joined, sentences), options["order"])
            known = arpa_words(path) if model else []
            self._of_words = model == "words" or (bool(path.name) and model != "symbols" and self._space not in known)
            if options["boost"] and not self._of_words:
                raise UserError(
                    f"{model}: a language model of symbols: expected one of words, whose words can be boosted"
                )
            # Words in the order of their numbers in the search.
            self._words = list(dict.fromkeys([*known, *options["boost"], "<unk>"])) if self._of_words else []
            self._decoder = self._made(options, path if model else None)

    def __call__(self, log_probs: Tensor, lengths: Tensor | None = None) -> list[list[Hypothesis]]:
        """Return what each utterance may say, the best first: as many as are asked for, or as there are.

        Args:
            log_probs: float [B, T, V], logarithms of probabilities.
            lengths: int [B], frames of each utterance; None: all.
        """
        scores = log_probs.detach().float().cpu().clone()
        scores[..., self._silent] = _NEVER
        lengths = torch.full(scores.shape[:1], scores.shape[1]) if lengths is None else lengths.cpu()
        if self._of_words:
            # A word of the lexicon ends with a space: the end of an utterance is one.
            scores = F.pad(scores, (0, 0, 0, 1))
            end = torch.full(scores.shape[2:], _NEVER)
            end[self._vocabulary[self._space]] = 0
            scores[torch.arange(len(scores)), lengths] = end
            lengths = lengths + 1
        return [self._distinct(found) for found in self._decoder(scores.contiguous(), lengths)]

    def _distinct(self, found: Sequence[Any]) -> list[Hypothesis]:
        """Join what differs in the number of its spaces only, which is the same text."""
        scores: dict[tuple[str, ...], float] = {}
        for one in found:
            if self._of_words:
                symbols = self._joined(one.words)
            else:
                symbols = self._without_spare_spaces([self._tokens[number] for number in one.tokens.tolist()])
            before = scores.get(symbols, -math.inf)
            scores[symbols] = max(before, one.score) + math.log1p(math.exp(-abs(before - one.score)))
        best = sorted(scores.items(), key=lambda item: -item[1])[: self.alternatives]
        return [
            Hypothesis(
                tuple(self._vocabulary[symbol] for symbol in symbols),
                "".join(symbols).replace(self._space, " "),
                score,
            )
            for symbols, score in best
        ]

    def _without_spare_spaces(self, symbols: Iterable[str]) -> tuple[str, ...]:
        words = (group for is_space, group in groupby(symbols, self._space.__eq__) if not is_space)
        return tuple(symbol for word in words for symbol in (*word, self._space))[:-1]

    def _joined(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return words as symbols with a space between two."""
        return tuple(spelled(words, self._vocabulary, self._space) or ())

    def _made(self, options: Mapping[str, Any], path: Path | None) -> Any:
        from flashlight.lib.text.decoder import (  # pyright: ignore[reportMissingImports]
            CriterionType,
            LexiconDecoderOptions,
            LexiconFreeDecoderOptions,
            ZeroLM,
        )
        from flashlight.lib.text.dictionary import Dictionary  # pyright: ignore[reportMissingImports]
        from torchaudio.models.decoder import CTCDecoder

        tokens = Dictionary(self._tokens)
        words = Dictionary(self._words) if self._of_words else None
        # The language model counts in logarithms to the base of ten.
        weight = options["weight"] * math.log(10)
        model = _language_model(path, tokens if words is None else words) if path else ZeroLM()
        if words is not None and options["boost"]:
            bonus = options["boost_score"] / weight
            model = _boosted(model, {words.get_index(word): bonus for word in options["boost"]})
        shared = {
            "beam_size": options["beam"],
            "beam_size_token": min(options["beam"] + 1, len(self._tokens)),
            "beam_threshold": 50.0,
            "lm_weight": weight,
            "sil_score": 0.0,
            # The probability of a text is the sum over its paths.
            "log_add": True,
            "criterion_type": CriterionType.CTC,
        }
        lexicon = None
        if self._of_words:
            lexicon = {
                word: [[*symbols, self._space]] for word in self._words[:-1] if (symbols := self._joined([word]))
            }
            if missing := [word for word in options["boost"] if word not in lexicon]:
                letters = "".join(token for token in self._tokens if len(token) == 1 and token != self._space)
                written_with = f": its letters are {letters}" if letters else ""
                raise UserError(f"boost: {missing[0]}: no word that the model can write{written_with}")
            if not lexicon:
                raise UserError(
                    f"{path}: the model can write none of the {len(self._words)} words of the language model"
                )
            made = LexiconDecoderOptions(word_score=options["word_score"], unk_score=-math.inf, **shared)
        else:
            made = LexiconFreeDecoderOptions(**shared)
        # All that the search ends with, since several may be one text.
        return CTCDecoder(options["beam"], lexicon, words, tokens, model, made, self._blank, self._space, "<unk>")


def _language_model(path: Path, words: Any) -> Any:
    """Read an ARPA file with KenLM.

    Raises:
        UserError: if KenLM cannot.
    """
    from flashlight.lib.text.decoder.kenlm import KenLM  # pyright: ignore[reportMissingImports]

    try:
        with _without_words_of_kenlm():
            return KenLM(str(path), words)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: no language model that KenLM can read ({why}): write it again") from None


@contextmanager
def _without_words_of_kenlm() -> Iterator[None]:
    """KenLM shows its progress on standard error, and cannot be told not to."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _boosted(model: Any, bonus: Mapping[int, float]) -> Any:
    """Return a language model that gives some words more, by their numbers."""
    from torchaudio.models.decoder import CTCDecoderLM

    class Boosted(CTCDecoderLM):
        def start(self, start_with_nothing: bool) -> Any:
            return model.start(start_with_nothing)

        def score(self, state: Any, usr_token_idx: int) -> tuple[Any, float]:
            after, score = model.score(state, usr_token_idx)
            return after, score + bonus.get(usr_token_idx, 0.0)

        def finish(self, state: Any) -> tuple[Any, float]:
            return model.finish(state)

    return Boosted()
