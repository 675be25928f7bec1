"""Connectionist temporal classification (Graves et al., 2006) on logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def ctc_loss(logits: Tensor, logit_lengths: Tensor, labels: Tensor, blank: int = 0) -> Tensor:
    """Negative log-likelihood of the labels, summed over the batch.

    Args:
        logits: float [B, T, V]; the log-softmax is taken in float32 (float64 for float64).
        logit_lengths: int64 [B], frames of each utterance, at most T.
        labels: int [B, L], padded at the end with -100; a row of padding only is an empty transcript.
        blank: index of the blank among the V classes.

    Returns:
        The sum as a scalar in float32 (float64 for float64). An utterance too short for its labels counts 0 and has
        no gradient.
    """
    log_probs = logits.log_softmax(-1, dtype=None if logits.element_size() == 8 else torch.float32)
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        labels.clamp_min(0),
        logit_lengths,
        (labels != IGNORE).sum(1),
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
