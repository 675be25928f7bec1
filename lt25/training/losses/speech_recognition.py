"""Connectionist temporal classification (CTC) and the error rate of greedy decoding."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lt25.ops import ctc_loss, frames_needed, greedy_ids
from lt25.training.losses import IGNORE, count

METRIC, DIRECTION, COMPILES = "cer", "min", False

BLANK = 0


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
    """Return the character errors of the greedily decoded utterances, and the characters of their transcripts."""
    from jiwer import process_characters

    texts = [_text(row[row != IGNORE].tolist()) for row in labels.cpu()]
    decoded = [_text(ids) for ids in greedy_ids(*output, BLANK)]
    errors = sum(
        (found := process_characters(text, guess)).substitutions + found.deletions + found.insertions
        for text, guess in zip(texts, decoded, strict=True)
    )
    return {"cer": (torch.tensor(errors, dtype=torch.float64), count(labels).cpu())}


def _text(ids: list[int]) -> str:
    """Write each symbol as one character, whichever: an edit distance only asks whether two are the same.

    No symbol may become a space, because jiwer strips spaces at the ends.
    """
    return "".join(chr(0x4E00 + symbol) for symbol in ids)
