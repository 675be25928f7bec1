"""Connectionist temporal classification (CTC) and the error rate of greedy decoding."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt25.ops import ctc_loss, frames_needed, greedy_ids
from lt25.training.losses import IGNORE

METRIC, DIRECTION, COMPILES = "wer", "min", False

BLANK, SPACE = 0, 1
"""Where the vocabulary of `lt25.data.speech_recognition` has them."""

SHOWN = 4
"""So many utterances of a validation are shown."""


def select(output: Any) -> tuple[Tensor, Tensor]:
    """Return the logits, float [B, T, V], and how many frames of each utterance count, int64 [B]."""
    return output.logits, output.logit_lengths


def loss(output: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Return the summed CTC loss: ``(logits, lengths)`` of `select`, labels int64 [B, L] padded with `IGNORE`."""
    return ctc_loss(*output, labels, BLANK)


def infinite(inputs: Mapping[str, Tensor], labels: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Return how many utterances of a batch are too short for their labels, an int64 scalar: `loss` leaves them out."""
    frames = -(-inputs["attention_mask"].sum(1) // config.get("subsampling", 1))
    return (frames < frames_needed(labels)).sum()


def metric(output: tuple[Tensor, Tensor], labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the errors of the greedily decoded utterances, of words and of characters, and how many their transcripts have."""
    from jiwer import process_characters, process_words

    references = [row[row != IGNORE].tolist() for row in labels.cpu()]
    decoded = greedy_ids(*output, BLANK)
    rates = {}
    for name, write, process in (("wer", _words, process_words), ("cer", _characters, process_characters)):
        pairs = [process(write(said), write(heard)) for said, heard in zip(references, decoded, strict=True)]
        errors = sum(pair.substitutions + pair.deletions + pair.insertions for pair in pairs)
        total = sum(pair.hits + pair.substitutions + pair.deletions for pair in pairs)
        rates[name] = torch.tensor(errors, dtype=torch.float64), torch.tensor(total, dtype=torch.float64)
    return rates


def sentences(output: tuple[Tensor, Tensor], labels: Tensor, folder: Path) -> list[tuple[str, str]]:
    """Return what the first `SHOWN` utterances of a batch say and what is heard; ``folder`` has the vocabulary."""
    symbols = {number: symbol for symbol, number in json.loads((folder / "vocab.json").read_text()).items()}
    symbols[SPACE] = " "
    logits, lengths = output
    heard = greedy_ids(logits[:SHOWN], lengths[:SHOWN], BLANK)
    said = [row[row != IGNORE].tolist() for row in labels[:SHOWN].cpu()]
    return [
        ("".join(map(symbols.__getitem__, one)), "".join(map(symbols.__getitem__, other)))
        for one, other in zip(said, heard, strict=True)
    ]


def _characters(ids: list[int]) -> str:
    """Write each symbol as one character, whichever: an edit distance only asks whether two are the same.

    No symbol may become a space, because jiwer strips spaces at the ends.
    """
    return "".join(chr(0x4E00 + symbol) for symbol in ids)


def _words(ids: list[int]) -> str:
    """Write the words with spaces between them."""
    return " ".join(_characters(ids).replace(_characters([SPACE]), " ").split())
