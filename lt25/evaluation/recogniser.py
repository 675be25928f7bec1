"""Speech recognition by an exported model: of whole recordings, and of audio as it comes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoTokenizer

from lt25.data.audio import MAX_RATE, decode_audio
from lt25.data.audio_stream import LogMelStream, ResamplerStream
from lt25.data.features import register
from lt25.evaluation.words import UTTERANCE_SECONDS, BestPath, Word
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
    """

    words: tuple[Word, ...]
    unfinished: str
    final: bool
    read: float

    @property
    def text(self) -> str:
        """All of it, the unfinished word too."""
        return " ".join([*(word.text for word in self.words), *([self.unfinished] if self.unfinished else [])])


class Recogniser:
    """An exported speech recogniser.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: Path) -> None:
        register()
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

    @torch.inference_mode()
    def hear(self, data: bytes) -> Iterator[Heard]:
        """Yield the utterances of a whole recording, all final.

        Args:
            data: of an audio file.

        Raises:
            ValueError: if it cannot be read.
        """
        samples = decode_audio(data, self.extractor.sampling_rate)
        features = self.extractor(samples, return_tensors="pt").input_features.to(self.model.device)
        path = BestPath(self.tokenizer, self.model.config.subsampling)
        utterances = _Utterances(path)
        yield from utterances.feed(self.model(input_features=features).logits[0].cpu(), partial=False)
        yield from utterances.close()

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
        try:
            with soundfile.SoundFile(file, closefd=False) as audio:
                rate = audio.samplerate
                if not 0 < rate <= MAX_RATE:
                    raise ValueError(f"a sample rate of {rate} Hz")
                resampler = ResamplerStream(rate, self.extractor.sampling_rate)
                size, came = max(round(rate * CHUNK_SECONDS), 1), False
                while len(samples := audio.read(size, dtype="float32", always_2d=True)):
                    came = True
                    if not np.isfinite(samples).all():
                        raise ValueError("the audio holds samples that are not finite")
                    yield from stream.feed(resampler.feed(samples.mean(1)))
                if not came:
                    raise ValueError("the audio holds no samples")
                yield from stream.feed(resampler.close())
        except RuntimeError as error:
            why = getattr(error, "error_string", str(error)).strip()
            raise ValueError(f"no readable audio ({why})") from None
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
        self._utterances = _Utterances(BestPath(recogniser.tokenizer, self.model.config.subsampling))

    def feed(self, samples: np.ndarray) -> Iterator[Heard]:
        """Yield what is heard with samples float32 [n] more: utterances that they end, and last the one under way.

        The one under way is left out if it has not changed.
        """
        yield from self._read(self._frames.feed(torch.from_numpy(samples)), last=False)

    def close(self) -> Iterator[Heard]:
        """Yield what is heard once no more samples will come: the last utterance."""
        yield from self._read(self._frames.close(), last=True)
        yield from self._utterances.close()

    def _read(self, frames: Tensor, last: bool) -> Iterator[Heard]:
        logits = self.model.stream(frames[None].to(self.model.device), self._cache, last)
        yield from self._utterances.feed(logits[0].cpu(), partial=True)


class _Utterances:
    """Joins words to utterances: a pause ends one."""

    def __init__(self, path: BestPath) -> None:
        self._path, self._told = path, ""
        self._words: list[Word] = []

    def feed(self, logits: Tensor, partial: bool) -> Iterator[Heard]:
        for word in self._path.feed(logits):
            if word is not None:
                self._words.append(word)
            if self._words and (word is None or word.end - self._words[0].start > UTTERANCE_SECONDS):
                yield self._heard(final=True)
                self._words, self._told = [], ""
        if partial and (now := self._heard(final=False)).text != self._told:
            self._told = now.text
            yield now

    def close(self) -> Iterator[Heard]:
        self._words += self._path.finish()
        if self._words:
            yield self._heard(final=True)

    def _heard(self, final: bool) -> Heard:
        return Heard(tuple(self._words), self._path.unfinished, final, round(self._path.read, 3))
