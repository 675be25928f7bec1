"""Dropout on a CPU, in parallel: torch's own draws its random numbers on one thread.

"Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (https://jmlr.org/papers/v15/srivastava14a.html). Whether an
element is dropped follows from a hash of its index and the seed. The backward pass therefore needs no saved mask, and threads
draw independently.
"""

import torch
from torch import Tensor

from lt25.ops.backends import choose, kernels, reference
from lt25.ops.operator import operator


def dropout(x: Tensor, p: float, seed: Tensor | None = None, backend: str | None = None) -> Tensor:
    """Each element independently: 0 with probability p, else x / (1 - p).

    Args:
        x: float, any shape.
        p: probability in [0, 1), rounded down to a multiple of 2**-32.
        seed: int64 scalar; drawn from torch's default generator if None.
        backend: "numba" (CPU) or "reference" (anywhere).

    Returns:
        A tensor of x's shape and dtype. A gradient flows to x. The same seed gives the same results and gradients, bit for bit.

    Raises:
        ValueError: p outside of [0, 1), an unknown backend.
    """
    backend = choose("dropout", x, backend)
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be in [0, 1), got {p}")
    if seed is None:
        seed = torch.randint(2**63 - 1, ())
    return reference.dropout(x, p, seed) if backend == "reference" else _dropout(x, p, seed, backend)


@operator("lt25::dropout")
def _dropout(x: Tensor, p: float, seed: Tensor, backend: str) -> Tensor:
    return kernels(backend, "dropout").dropout(x, p, seed)


@_dropout.register_fake
def _(x, p, seed, backend):
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output):
    _, ctx.p, seed, ctx.backend = inputs
    ctx.save_for_backward(seed)


def _differentiate(ctx, grad):
    return _dropout(grad, ctx.p, *ctx.saved_tensors, ctx.backend), None, None, None


_dropout.register_autograd(_differentiate, setup_context=_setup_context)
