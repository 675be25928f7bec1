"""Connectionist temporal classification (CTC) and the error rate of greedy decoding."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt25.ops import ctc_loss, frames_needed, greedy_ids
from lt25.training.losses import IGNORE

METRIC, DIRECTION, COMPILES = "wer", "min", False
OPTIONS, TARGETS = ("intermediate_ctc", "consistency"), ()

BLANK, SPACE = 0, 1
"""Where the vocabulary of `lt25.data.speech_recognition` has them."""

SHOWN = 4
"""So many utterances of a validation are shown."""


def select(output: Any) -> tuple[Tensor, Tensor]:
    """Return the logits, float [B, T, V], and how many frames of each utterance count, int64 [B]."""
    return output.logits, output.logit_lengths


def loss(output: tuple[Tensor, Tensor] | Tensor, labels: Tensor) -> Tensor:
    """Return the summed CTC loss: ``(logits, lengths)`` of `select`, labels int64 [B, L] padded with `IGNORE`.

    What `of_training` made is returned as it is.
    """
    return output if isinstance(output, Tensor) else ctc_loss(*output, labels, BLANK)


def of_training(
    run: Callable[..., Any], labels: Tensor, intermediate_ctc: float = 0.0, consistency: float = 0.0
) -> Tensor:
    """Return the summed CTC loss with what regularises it.

    Args:
        run: computes the model, of an `lt25.models.ctc.CTCOutput`.
        labels: int64 [B, L], padded with `IGNORE`.
        intermediate_ctc: w of (1 - w) CTC + w CTC of the middle layer, whose outputs pass the same head (Lee and Watanabe,
            2021, https://arxiv.org/abs/2102.03216, equation 9).
        consistency: factor of `divergence`; B is then even, and the second half of the batch are the utterances of the first, in
            their order, heard with other masks (Yao et al., 2024, https://arxiv.org/abs/2410.05101). Every utterance and its
            labels count twice, so that this is twice the paper's loss, divided by twice as many labels.
    """
    output = run(output_intermediate_logits=True) if intermediate_ctc else run()
    logits, lengths = select(output)
    total = ctc_loss(logits, lengths, labels, BLANK)
    if intermediate_ctc:
        total = total.lerp(ctc_loss(output.intermediate_logits, lengths, labels, BLANK), intermediate_ctc)
    return total + consistency * divergence(logits, lengths) if consistency else total


def divergence(logits: Tensor, lengths: Tensor) -> Tensor:
    """Return how far apart two views of utterances are, in nats.

    Each view's distributions over the symbols learn from the other's, through which no gradient passes: the sum over frames of
    KL(other || own), in both directions.

    Args:
        logits: float [2 N, T, V]; the second view of row n is row N + n.
        lengths: int64 [2 N], frames that count.
    """
    own = logits.log_softmax(-1, torch.float32)
    other = own.detach().roll(len(own) // 2, 0)
    apart = (other.exp() * (other - own)).sum(-1)
    inside = torch.arange(apart.shape[1], device=apart.device) < lengths[:, None]
    return torch.where(inside, apart, 0).sum()


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
