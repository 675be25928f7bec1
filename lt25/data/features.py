"""Feature extractors of exported models: the computation of preparation, behind the interface of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoFeatureExtractor, SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from lt25.data.audio import normalised_log_mel, waveform
from lt25.data.images import decode_image, image_pixels, image_to_series, pixel_order
from lt25.data.series import normalise_series
from lt25.models.transformers_internals import use_pipeline


class LogMelFeatureExtractor(SequenceFeatureExtractor):
    """Log-mel frames of speech, normalised as they were at preparation.

    Args:
        feature_size: number of mel bands.
        sampling_rate: of the audio it takes, in Hz.
        level: how frames follow the level of a recording, as `lt25.data.audio.log_mel` takes it.
        mean, std: of each band over the training split, [feature_size].
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012 (transformers' own way to say it)

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        level: str = "recorded",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.level = level
        self.mean = [0.0] * feature_size if mean is None else list(mean)
        self.std = [1.0] * feature_size if std is None else list(std)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return ``input_features`` float32 [B, T, feature_size] and ``attention_mask`` [B, T] of one or several
        recordings, each float samples [n] in -1..1; T = ceil(n / hop) of the longest, hop 10 ms.

        Raises:
            ValueError: if ``sampling_rate`` is another than the extractor's, or a recording is not mono or is empty.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"the model takes audio at {self.sampling_rate} Hz, not {sampling_rate}: resample it first"
            )
        single = isinstance(raw_speech, np.ndarray | torch.Tensor) and raw_speech.ndim == 1
        single = single or (isinstance(raw_speech, list) and np.isscalar(raw_speech[0]))
        features = [self._features(samples) for samples in ([raw_speech] if single else raw_speech)]
        kwargs = {key: kwargs[key] for key in ("max_length", "truncation", "pad_to_multiple_of") if key in kwargs}
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            return_attention_mask=True,
            return_tensors=return_tensors,
            **kwargs,
        )

    def _features(self, samples: np.ndarray | torch.Tensor | list) -> np.ndarray:
        samples = torch.as_tensor(samples, dtype=torch.float32)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"a recording must be mono samples [n], at least one: found shape {list(samples.shape)}")
        bands = torch.tensor(self.mean), torch.tensor(self.std)
        return normalised_log_mel(samples, self.sampling_rate, *bands, self.level).numpy()


class WaveformFeatureExtractor(LogMelFeatureExtractor):
    """The samples of recordings, a step each, all made equally loud: ``input_features`` float32 [B, n, 1]."""

    def _features(self, samples: np.ndarray | torch.Tensor | list) -> np.ndarray:
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"a recording must be mono samples [n], at least one: found shape {list(samples.shape)}")
        return waveform(samples)[:, None]


class SeriesFeatureExtractor(SequenceFeatureExtractor):
    """Images as sequences of pixels or of rows, or series of numbers as they are, normalised as in training.

    Args:
        feature_size: numbers a step.
        layout: "pixels" (a pixel a step), "rows" (a row of an image a step) or "series".
        size: [height, width] that images are brought to; None for series.
        ranges: of images of "16 bits", "32 bits" or "floats", the values that become 0 and 255.
        mean, std: of each channel over the training split (of images: of values scaled to 0..1).
        permutation: seed of the order in which the pixels of an image are read; None for line by line.
        missing: whether numbers of a series may be missing, NaN, of which further channels tell.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012 (transformers' own way to say it)

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 1,
        padding_value: float = 0.0,
        layout: str = "pixels",
        size: Sequence[int] | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        permutation: int | None = None,
        missing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.layout, self.size, self.ranges = layout, size, dict(ranges or {})
        self.mean, self.std = list(mean), list(std)
        self.permutation, self.missing = permutation, missing

    def __call__(
        self, inputs: Any, padding: bool | str = True, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return ``input_features`` float32 [B, T, feature_size] and ``attention_mask`` [B, T].

        ``inputs``: one or a list of images (PIL images, bytes of image files, or uint8 arrays [H, W] or [H, W, C]), or of
        series (arrays or tensors [T] or [T, C]). Raises ValueError for an image that cannot be read or has another size.
        """
        inputs = inputs if isinstance(inputs, list | tuple) else [inputs]
        features = [self._series(one) if self.layout == "series" else self._image(one) for one in inputs]
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            return_attention_mask=True,
            return_tensors=return_tensors,
        )

    def _series(self, series: Any) -> np.ndarray:
        return normalise_series(np.asarray(series), self.mean, self.std, self.missing)

    def _image(self, image: Any) -> np.ndarray:
        if hasattr(image, "save"):
            pixels = image_pixels(image, len(self.mean), self.size, self.ranges)
        elif isinstance(image, bytes):
            pixels = decode_image(image, len(self.mean), self.size, self.ranges)
        else:
            pixels = np.asarray(image)
            pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
            expected = [*cast(Sequence[int], self.size), len(self.mean)]
            if list(pixels.shape) != expected:
                raise ValueError(f"an image of shape {list(pixels.shape)}, expected {expected}")
        order = pixel_order(pixels.shape[:2], self.permutation)
        return image_to_series(pixels, self.layout, self.mean, self.std, order)


def register() -> None:
    """Make the extractors known to ``AutoFeatureExtractor.from_pretrained``, and have pipelines decode audio files."""
    for extractor in (LogMelFeatureExtractor, WaveformFeatureExtractor, SeriesFeatureExtractor):
        AutoFeatureExtractor.register(extractor.__name__, extractor, exist_ok=True)
    use_pipeline("automatic-speech-recognition", "lt25.data.pipelines", "SpeechRecognitionPipeline")
