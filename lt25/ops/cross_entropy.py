"""The cross entropy of a linear layer's outputs, which are never in memory whole.

The logits of a language model, tokens x vocabulary, are the largest tensor of its training. Here they are computed for some
tokens at a time, and with them at once the gradients of the layer's input and weight, so that the backward pass needs no logits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lt25.ops.backends import as_multiplied, kernels
from lt25.ops.operator import operator

IGNORE = -100

# Logits in memory at a time: so many that the products fill a GPU, and so few that they stay in a CPU's cache. On an H100 a few
# pieces take no longer than one, and 32 take a quarter longer.
ON_CUDA, ON_CPU = 2**27, 2**20


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
    """The summed cross entropy of the logits ``hidden @ weight.T``, as :func:`torch.nn.functional.cross_entropy` gives it.

    Args:
        hidden: float [..., H]; under autocast it and the weight are cast as for any linear layer.
        weight: float [V, H].
        labels: int64 [...] in [0, V), or -100 where there is none.
        z_loss: so many times the squared logarithm of the softmax's denominator is added for each label. It keeps logits from
            growing ("PaLM: Scaling Language Modeling with Pathways", https://arxiv.org/abs/2204.02311, section 5).

    Returns:
        The sum over the labels in nats, a scalar in float32 (float64 for float64). Gradients flow to hidden and weight; the
        latter is accumulated in float32. There are no second derivatives.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if hidden.shape[:-1] != labels.shape or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy: hidden must be [..., H], weight [V, H] and labels [...], got {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)} and {tuple(labels.shape)}"
        )
    hidden, weight = as_multiplied(hidden, weight)
    differentiable = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _forward(hidden.flatten(0, -2), weight, labels.flatten(), z_loss, differentiable)[0]


@operator("lt25::linear_cross_entropy")
def _forward(
    hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, differentiable: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count, classes = len(hidden), len(weight)
    pieces = max(1, -(-count * classes // (ON_CUDA if hidden.is_cuda else ON_CPU)))
    sums = torch.promote_types(hidden.dtype, torch.float32)
    losses = hidden.new_empty(count, dtype=sums)
    grad_hidden = torch.empty_like(hidden) if differentiable else hidden.new_empty(0)
    grad_weight = weight.new_zeros(weight.shape if differentiable else (0,), dtype=sums)
    # Autocast would cast what is float32 here on purpose.
    with torch.autocast(hidden.device.type, enabled=False):
        for piece in range(pieces):
            at = slice(count * piece // pieces, count * (piece + 1) // pieces)
            grad_logits = _rows(F.linear(hidden[at], weight), labels[at], z_loss, losses[at], differentiable)
            if differentiable:
                torch.mm(grad_logits, weight, out=grad_hidden[at])
                _add_product(grad_weight, grad_logits.T, hidden[at])
    return losses.sum(), grad_hidden, grad_weight


def _rows(logits: Tensor, labels: Tensor, z_loss: float, losses: Tensor, differentiable: bool) -> Tensor:
    """Write the losses of rows of logits [N, V], and return the gradients of these, which may stand in their place."""
    if logits.is_cuda and logits.dtype != torch.float64:
        kernels("triton", "cross_entropy").rows(logits, labels, z_loss, losses, differentiable)
        return logits
    scores = logits.to(losses.dtype)
    log_p = scores.log_softmax(-1)
    none, picked = labels == IGNORE, labels.clamp_min(0)[:, None]
    torch.neg(log_p.gather(1, picked)[:, 0], out=losses)
    slope = None
    if z_loss:
        norms = scores.logsumexp(-1)
        losses += z_loss * norms.square()
        slope = 1 + 2 * z_loss * norms[:, None]
    losses.masked_fill_(none, 0)
    if not differentiable:
        return logits
    grad = log_p.exp_() if slope is None else log_p.exp_().mul_(slope)
    grad.scatter_add_(1, picked, grad.new_full((), -1).expand_as(picked))
    grad[none] = 0
    return grad.to(logits.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to a total that is at least float32."""
    if a.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


@_forward.register_fake
def _(hidden, weight, labels, z_loss, differentiable):
    sums = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_empty((), dtype=sums),
        hidden.new_empty(hidden.shape if differentiable else (0,)),
        weight.new_empty(weight.shape if differentiable else (0,), dtype=sums),
    )


def _setup_context(ctx, inputs, output):
    ctx.dtype = inputs[1].dtype
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_loss, *_):
    if grad_loss is None:
        return None, None, None, None, None
    grad_hidden, grad_weight = ctx.saved_tensors
    return grad_hidden * grad_loss, (grad_weight * grad_loss).to(ctx.dtype), None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
