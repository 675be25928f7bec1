"""The CTC loss on logits, and the labels that logits stand for.

"Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks" (Graves et al., 2006,
https://doi.org/10.1145/1143844.1143891).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import kernels
from lt25.ops.operator import operator

IGNORE = -100


def ctc_loss(logits: Tensor, logit_lengths: Tensor, labels: Tensor, blank: int = 0) -> Tensor:
    """Negative log-likelihood of the labels, summed over the batch.

    On CUDA this package's kernels compute it, except for float64: they never synchronize with the host and are bitwise
    reproducible. Everything else goes to torch.

    Args:
        logits: float [B, T, V]; the log-softmax is taken in float32 (float64 for float64).
        logit_lengths: int64 [B], frames of each utterance, at most T.
        labels: int [B, L], padded at the end with -100; a row of nothing but padding is an empty transcript.
        blank: index of the blank among the V classes.

    Returns:
        The sum in nats, a scalar in float32 (float64 for float64). An utterance too short for its labels, whose loss is
        infinite, contributes 0, and its gradient is 0: `frames_needed` tells which these are.
    """
    if logits.is_cuda and logits.dtype != torch.float64:
        differentiable = torch.is_grad_enabled() and logits.requires_grad
        return _forward(logits.contiguous(), logit_lengths, labels.contiguous(), blank, differentiable)[0]
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


def frames_needed(labels: Tensor) -> Tensor:
    """Return the fewest frames that can stand for labels: one for each, and a blank between two that are equal.

    Args:
        labels: int [B, L], padded at the end with -100.

    Returns:
        int64 [B].
    """
    real = labels != IGNORE
    return real.sum(1) + (real[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(1)


def greedy_ids(logits: Tensor, lengths: Tensor, blank: int = 0) -> list[list[int]]:
    """Return the labels of each utterance by best-path decoding (the paper's section 3.2).

    The best symbol of each frame is taken, repeats are collapsed and blanks dropped.

    Args:
        logits: float [B, T, V].
        lengths: int [B], frames of each utterance; what lies beyond is not read.
        blank: index of the blank among the V classes.
    """
    paths = logits.argmax(-1).cpu()
    collapsed = (torch.unique_consecutive(path[:n]) for path, n in zip(paths, lengths.tolist(), strict=True))
    return [symbols[symbols != blank].tolist() for symbols in collapsed]


@operator("lt25::ctc_loss")
def _forward(
    logits: Tensor, logit_lengths: Tensor, labels: Tensor, blank: int, differentiable: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return kernels("triton", "ctc").forward(logits, logit_lengths, labels, blank, differentiable)


@_forward.register_fake
def _(logits, logit_lengths, labels, blank, differentiable):
    B, T, _ = logits.shape
    saved = ((0,),) * 4
    if differentiable:
        saved = ((B, T, kernels("triton", "ctc").width(labels.shape[1])), (B, T), (B, T), (B, T))
    return tuple(logits.new_empty(shape, dtype=torch.float32) for shape in ((), *saved))


@operator("lt25::ctc_loss_backward")
def _backward(
    grad_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    blank: int,
    occupancy: Tensor,
    blank_occupancy: Tensor,
    peaks: Tensor,
    norms: Tensor,
) -> Tensor:
    return kernels("triton", "ctc").backward(grad_loss, logits, labels, blank, occupancy, blank_occupancy, peaks, norms)


@_backward.register_fake
def _(grad_loss, logits, labels, blank, occupancy, blank_occupancy, peaks, norms):
    return torch.empty_like(logits)


def _setup_context(ctx, inputs, output):
    logits, _, labels, ctx.blank, _ = inputs
    ctx.save_for_backward(logits, labels, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_loss, *_):
    if grad_loss is None:
        return None, None, None, None, None
    logits, labels, *saved = ctx.saved_tensors
    return _backward(grad_loss, logits, labels, ctx.blank, *saved), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
