"""transformers' pipeline for speech, reading audio files as preparation does."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline

from lt25.data.audio import decode_audio, resample
from lt25.data.features import LogMelFeatureExtractor


class SpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
    """``pipeline("automatic-speech-recognition", ...)`` once lt25 is imported.

    With a model of lt25's it decodes files with soundfile, and so needs no ffmpeg, and takes audio of any rate and number of
    channels: a path, a file's bytes, or ``{"raw": samples, "sampling_rate": Hz}``. With other models it is transformers' own.
    """

    def preprocess(self, inputs: Any, *arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
        if isinstance(self.feature_extractor, LogMelFeatureExtractor):
            inputs = self._samples(inputs, self.feature_extractor.sampling_rate)
        yield from super().preprocess(inputs, *arguments, **options)

    def postprocess(self, *arguments: Any, **options: Any) -> Any:
        answer = super().postprocess(*arguments, **options)
        if isinstance(self.feature_extractor, LogMelFeatureExtractor):
            # Two spaces with a blank between them are one.
            answer["text"] = " ".join(answer["text"].split())
        return answer

    @staticmethod
    def _samples(inputs: Any, rate: int) -> Any:
        """Return a recording as samples float32 [n] at ``rate`` Hz, if it is of a kind that transformers needs help with."""
        if isinstance(inputs, bytes):
            return decode_audio(inputs, rate)
        if isinstance(inputs, str | os.PathLike) and not str(inputs).startswith(("http://", "https://")):
            try:
                return decode_audio(Path(inputs).read_bytes(), rate)
            except ValueError as error:
                raise ValueError(f"{inputs}: {error}") from None
        # What has a stride is a piece of a recording, whose parts transformers counts itself.
        if isinstance(inputs, dict) and "stride" not in inputs and inputs.get("sampling_rate", rate) != rate:
            name = "raw" if "raw" in inputs else "array"
            samples = np.asarray(torch.as_tensor(inputs[name]), np.float32)
            samples = samples if samples.ndim == 1 else samples.mean(axis=0)
            return {**inputs, name: resample(samples, int(inputs["sampling_rate"]), rate), "sampling_rate": rate}
        return inputs
