"""Speech recognition by an exported model: of whole recordings, and of audio as it comes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoTokenizer

from lt25.data.audio import HOP_SECONDS, MAX_RATE, decode_audio
from lt25.data.audio_stream import LogMelStream, ResamplerStream
from lt25.data.features import register
from lt25.data.transcripts import carried, normalise
from lt25.evaluation.beam_search import BeamSearch, Hypothesis
from lt25.evaluation.words import UTTERANCE_SECONDS, BestPath, Word, align, spelled
from lt25.models.auto import load_model
from lt25.models.cache import HGRNCache

CHUNK_SECONDS = 0.2
"""How much audio of a file is read at a time as a stream."""


@dataclass(frozen=True)
class Heard:
    """What was heard of an utterance, which lasts until there is a pause, or for half a minute.

    Attributes:
        words: those that are finished; they stay as they are.
        unfinished: the letters of one more word, which is under way.
        final: whether the utterance has ended.
        read: seconds of audio that it took to hear this.
        alternatives: of an utterance that has ended, what a search found, the best first.
    """

    words: tuple[Word, ...]
    unfinished: str
    final: bool
    read: float
    alternatives: tuple[Hypothesis, ...] = ()

    @property
    def text(self) -> str:
        """All of it, the unfinished word too."""
        return " ".join([*(word.text for word in self.words), *([self.unfinished] if self.unfinished else [])])


class Recogniser:
    """An exported speech recogniser.

    Args:
        folder: of the model.

    Attributes:
        search: what finds the text of each utterance once it has ended; None: the best path.
    """

    def __init__(self, folder: Path) -> None:
        register()
        self.search: BeamSearch | None = None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.extractor: Any = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model: Any = load_model("speech_recognition", folder, device)

    @property
    def whole_only(self) -> str | None:
        """Why audio cannot be heard as it comes, or None if it can."""
        config = self.model.config
        if config.bidirectional:
            return "the model reads a recording from both ends (model.bidirectional)"
        if config.position_embeddings:
            return "the model knows a number of places only (model.position_embeddings)"
        if (level := self.extractor.level) in ("utterance", "bands"):
            return f"the model measures a recording by all of it (prepare.level: {level})"
        return None

    @property
    def transcripts(self) -> tuple[dict[str, Any], str]:
        """``prepare.transcripts`` and ``prepare.alphabet``: those that the model was trained with, if its folder tells them."""
        special = {*self.tokenizer.all_special_tokens, self.tokenizer.word_delimiter_token}
        symbols = (symbol for symbol in self.tokenizer.get_vocab() if symbol not in special)
        letters = "".join(sorted({letter for symbol in symbols for letter in symbol}))
        where = f"{self.tokenizer.name_or_path}/tokenizer_config.json"
        return carried(self.tokenizer.init_kwargs, letters, where)

    @torch.inference_mode()
    def hear(self, data: bytes) -> Iterator[Heard]:
        """Yield the utterances of a whole recording, all final.

        Args:
            data: of an audio file.

        Raises:
            ValueError: if it cannot be read.
        """
        utterances = _Utterances(self)
        yield from utterances.feed(self._logits(data), partial=False)
        yield from utterances.close()

    @torch.inference_mode()
    def align(self, data: bytes, text: str) -> Heard:
        """Return the words of a text with the times at which a recording says them.

        Args:
            data: of an audio file.
            text: what is said in it, all of it; it is normalised as the model's `transcripts` are.

        Raises:
            ValueError: if the recording cannot be read, is too short for the text or too long to be aligned, or the model cannot
                write the text.
        """
        vocabulary, space = self.tokenizer.get_vocab(), self.tokenizer.word_delimiter_token
        words = normalise(text, *self.transcripts).split()
        if unknown := [word for word in words if spelled([word], vocabulary, space) is None]:
            raise ValueError(f"the model cannot write {unknown[0]!r}")
        symbols = [vocabulary[symbol] for symbol in spelled(words, vocabulary, space) or ()]
        log_probs = self._logits(data).float().log_softmax(-1)
        frame = HOP_SECONDS * self.model.config.subsampling
        said = align(log_probs, symbols, self.tokenizer, frame)
        return Heard(tuple(said), "", final=True, read=round(len(log_probs) * frame, 3))

    def _logits(self, data: bytes) -> Tensor:
        """Return the scores float [T, V] of a whole recording."""
        samples = decode_audio(data, self.extractor.sampling_rate)
        features = self.extractor(samples, return_tensors="pt").input_features.to(self.model.device)
        return self.model(input_features=features).logits[0].cpu()

    def stream(self) -> "RecogniserStream":
        """Return what hears audio as it comes.

        Raises:
            ValueError: if the model cannot; see `whole_only`.
        """
        return RecogniserStream(self)

    def hear_stream(self, file: str | int | BinaryIO) -> Iterator[Heard]:
        """Yield what is heard of a file, or of a pipe, while it is read: see `RecogniserStream.feed`.

        Args:
            file: a path, the descriptor of an open file, or a file.

        Raises:
            ValueError: if it cannot be read.
        """
        import soundfile

        stream = self.stream()
        if isinstance(file, str) and not Path(file).stat().st_size:
            raise ValueError("the file is empty")
        try:
            with soundfile.SoundFile(file, closefd=False) as audio:
                rate = audio.samplerate
                if not 0 < rate <= MAX_RATE:
                    raise ValueError(f"a sample rate of {rate} Hz")
                resampler = ResamplerStream(rate, self.extractor.sampling_rate)
                size, came = max(round(rate * CHUNK_SECONDS), 1), False
                while len(samples := audio.read(size, dtype="float32", always_2d=True)):
                    came = True
                    yield from stream.feed(resampler.feed(samples.mean(1)))
                if not came:
                    raise ValueError("the audio holds no samples")
                yield from stream.feed(resampler.close())
        except RuntimeError as error:
            why = getattr(error, "error_string", str(error)).strip()
            more = ": what comes through a pipe has to be WAV, or is heard as a whole" if isinstance(file, int) else ""
            raise ValueError(f"no readable audio ({why}){more}") from None
        yield from stream.close()


class RecogniserStream:
    """Hears audio as it comes, in chunks of any size: the words of the whole, in memory that does not grow.

    Args:
        recogniser: whose model hears.

    Raises:
        ValueError: if the model hears whole recordings only.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        if why := recogniser.whole_only:
            raise ValueError(f"{why}, so not as it comes")
        extractor, self.model = recogniser.extractor, recogniser.model
        bands = torch.tensor(extractor.mean), torch.tensor(extractor.std)
        self._frames = LogMelStream(extractor.sampling_rate, *bands, extractor.level)
        self._cache = HGRNCache(self.model.config)
        self._closed = False
        self._utterances = _Utterances(recogniser)

    def feed(self, samples: np.ndarray) -> Iterator[Heard]:
        """Yield what is heard with samples float32 [n] more: utterances that they end, and last the one under way.

        The one under way is left out if it has not changed.

        Raises:
            ValueError: for samples of another kind, of which none is heard then, or after `close`.
        """
        if self._closed:
            raise ValueError("the stream is closed: begin another with Recogniser.stream")
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            found = f"{samples.dtype} {list(samples.shape)}"
            raise ValueError(f"expected samples of one channel, float32 [n] in -1..1, found {found}: convert them")
        if not np.isfinite(samples).all():
            raise ValueError("the audio holds samples that are not finite")
        samples = samples.astype(np.float32, copy=False)
        yield from self._read(self._frames.feed(torch.from_numpy(samples)), last=False)

    def close(self) -> Iterator[Heard]:
        """Yield what is heard once no more samples will come: the last utterance."""
        self._closed = True
        yield from self._read(self._frames.close(), last=True)
        yield from self._utterances.close()

    def _read(self, frames: Tensor, last: bool) -> Iterator[Heard]:
        logits = self.model.stream(frames[None].to(self.model.device), self._cache, last)
        yield from self._utterances.feed(logits[0].cpu(), partial=True)


class _Utterances:
    """Joins words to utterances: a pause ends one.

    With a search, the best path says where an utterance begins and ends, and the search what was said in between, so that it
    holds no more than an utterance, and hears the same of a stream as of a whole recording.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._tokenizer, self._search = recogniser.tokenizer, recogniser.search
        self._path = BestPath(recogniser.tokenizer, recogniser.model.config.subsampling)
        self._words: list[Word] = []
        self._told = ""
        # For the search, the scores float [T, V] of the frames that may be of this utterance, and how many came before them.
        self._scores, self._before = torch.zeros(0, recogniser.model.config.vocab_size), 0

    def feed(self, logits: Tensor, partial: bool) -> Iterator[Heard]:
        if self._search:
            self._scores = torch.cat([self._scores, logits.float().log_softmax(-1)])
        for word in self._path.feed(logits):
            if word is not None:
                self._words.append(word)
            if self._words and (word is None or word.end - self._words[0].start > UTTERANCE_SECONDS):
                yield self._ended()
                self._words, self._told = [], ""
        if self._search and not (self._words or self._path.unfinished):
            self._forget(self._path.frames - self._path.pause)
        if partial and (now := self._heard(self._words, final=False)).text != self._told:
            self._told = now.text
            yield now

    def close(self) -> Iterator[Heard]:
        self._words += self._path.finish()
        if self._words:
            yield self._ended()

    def _ended(self) -> Heard:
        if not self._search:
            return self._heard(self._words, final=True)
        path = self._path
        self._forget(round(self._words[0].start / path.frame) - path.pause)
        start, scores = self._before, self._scores[: path.frames - self._before]
        self._forget(path.frames)
        (found,) = self._search(scores[None])
        words = align(scores, found[0].symbols, self._tokenizer, path.frame, start * path.frame)
        return self._heard(words, final=True, alternatives=tuple(found))

    def _forget(self, frame: int) -> None:
        """Drop the scores before a frame."""
        if frame > self._before:
            self._scores, self._before = self._scores[frame - self._before :], frame

    def _heard(self, words: list[Word], final: bool, alternatives: tuple[Hypothesis, ...] = ()) -> Heard:
        read = round(self._path.frames * self._path.frame, 3)
        return Heard(tuple(words), self._path.unfinished, final, read, alternatives)
