"""What a classifier says of a sequence, and of its beginnings."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor

from lt25.data.audio import decode_audio
from lt25.data.features import register
from lt25.data.long_form import parsed_number
from lt25.data.series import as_series, decode_array
from lt25.models.auto import load_model

PARTS = 10
"""How many beginnings of a sequence are looked at, the last of which is all of it."""


class Classifier:
    """An exported classifier and its feature extractor.

    Args:
        folder: of the model.

    Attributes:
        labels: names of the classes, in the order of their numbers.
    """

    def __init__(self, folder: Path) -> None:
        register()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.extractor: Any = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.model: Any = load_model("classification", folder, device)
        self.labels = [self.model.config.id2label[number] for number in range(self.model.config.num_labels)]

    def features(self, data: bytes) -> Tensor:
        """Return a file as the model reads it, float32 [T, C].

        Args:
            data: an image, a recording, or a series: a NumPy file, or text with the numbers of a step on each line, or
                of one number a step all on one line. A first line without numbers is passed over.

        Raises:
            ValueError: if it cannot be read, has another width than the model's data, or more steps than it has embeddings for.
        """
        if hasattr(self.extractor, "level"):
            given: Any = decode_audio(data, self.extractor.sampling_rate)
        elif self.extractor.layout == "series":
            given, channels = _series(data, self.extractor.missing), len(self.extractor.mean)
            # Of one number a step, a single line has a step in each of its fields.
            given = given.T if channels == len(given) == 1 else given
            if given.shape[1] != channels:
                raise ValueError(f"{given.shape[1]} values a step, the model takes {channels}")
        else:
            given = data
        features = self.extractor(given, return_tensors="pt").input_features[0]
        config = self.model.config
        longest = getattr(config, "position_embeddings", 0) * getattr(config, "subsampling", 1)
        if longest and len(features) > longest:
            raise ValueError(f"{len(features):,} steps, the model takes {longest:,} at most")
        return features

    def answers(self, features: Tensor, stream: bool = False) -> Iterator[tuple[float, list[float]]]:
        """Yield the part of a sequence that was read, 1 for all, and the probabilities of the classes.

        Args:
            features: float32 [T, C].
            stream: begin with the first tenth; otherwise all of it is read at once.
        """
        parts = [(n + 1) / PARTS for n in range(PARTS)] if stream else [1.0]
        for part in parts:
            yield part, beginnings(self.model, features[None], part)[0].tolist()


@torch.inference_mode()
def beginnings(model: Any, features: Tensor, part: float, mask: Tensor | None = None) -> Tensor:
    """Return what a classifier says after a part of each sequence: probabilities float32 [B, K], on the CPU.

    Args:
        model: the classifier, in evaluation mode.
        features: float32 [B, T, C].
        part: of each sequence, above 0 and up to 1; at least a step is read.
        mask: int64 [B, T], 0 where there is padding, at the end; None for none.
    """
    lengths = torch.full((len(features),), features.shape[1]) if mask is None else mask.sum(1)
    read = (lengths * part).ceil().long().clamp_min(1)
    steps = int(read.max())
    kept = (torch.arange(steps) < read[:, None]).long()
    inputs = {"input_features": features[:, :steps]}
    if not bool(kept.all()):
        inputs["attention_mask"] = kept
    logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
    return logits.float().softmax(-1).cpu()


def _series(data: bytes, missing: bool) -> np.ndarray:
    """Return the numbers of a NumPy file or of text, float64 [T, C]; with ``missing`` some may be NaN.

    Raises:
        ValueError: if there are none, or others than finite ones.
    """
    if data[:6] == b"\x93NUMPY" or data[:2] == b"PK":
        return as_series(decode_array(data), missing)
    try:
        return as_series(_rows(data.decode("utf-8-sig"), missing), missing)
    except ValueError as error:
        raise ValueError(f"neither a NumPy file nor numbers as text ({str(error).splitlines()[0]})") from None


def _rows(text: str, missing: bool) -> list[list[float]]:
    """Return the numbers on each line, NaN where a field is empty; the first line may have names in place of numbers.

    They are separated by semicolons or tabs, and then may have decimal commas, by commas or by spaces.
    """
    separator = next((one for one in ";\t," if one in text), None)
    lines = text.splitlines() if separator is None else csv.reader(io.StringIO(text), delimiter=separator)
    rows: list[list[float]] = []
    names = 0
    for number, line in enumerate(lines, 1):
        fields = line.split() if isinstance(line, str) else [field.strip() for field in line]
        if len(fields) < 2 and not any(fields):
            continue
        values = [parsed_number(field or "nan", separator in (";", "\t")) for field in fields]
        if not rows and not names and all(value is None for value in values):
            names = len(fields)
            continue
        if len(values) != (expected := len(rows[0]) if rows else names or len(values)):
            raise ValueError(f"line {number}: {len(values)} fields, expected {expected}")
        for field, value in zip(fields, values, strict=True):
            if value is None or (math.isnan(value) and not missing):
                raise ValueError(f"line {number}: found {field[:40]!r}, expected a number")
        rows.append(cast(list[float], values))
    if not rows:
        raise ValueError("there are none")
    return rows
