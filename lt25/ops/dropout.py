"""Dropout on a CPU, where torch's own draws one number after the other, on one thread, from a generator with a large state.

"Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (https://jmlr.org/papers/v15/srivastava14a.html). Whether an
element is dropped is a hash of its place and of a seed: nothing is kept for the way back, and no thread waits for another's draw.
"""

import torch
from torch import Tensor

from lt25.ops.backends import choose, kernels, reference


def dropout(x: Tensor, p: float, seed: Tensor | None = None, backend: str | None = None) -> Tensor:
    """x / (1 - p), but 0 with probability p, each element by itself.

    Args:
        x: float, any shape.
        p: in [0, 1), a multiple of 2**-32 being used.
        seed: int64 scalar, from torch's default generator if None.
        backend: "numba" (CPU) or "reference" (anywhere).

    Returns:
        As x. A gradient flows to x; results and gradients are the same bits for the same seed.

    Raises:
        ValueError: p outside of [0, 1), an unknown backend.
    """
    backend = choose("dropout", x, backend)
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be in [0, 1), got {p}")
    if seed is None:
        seed = torch.randint(2**63 - 1, ())
    return reference.dropout(x, p, seed) if backend == "reference" else _dropout(x, p, seed, backend)


@torch.library.custom_op("lt25::dropout", mutates_args=())
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
