"""Rotary embeddings of flash-linear-attention's models, by FLA's kernel and without passes around it.

FLA's function fills what the kernel will write with zeros, and its backward pass copies the gradient first: these take as
long as the kernel does. "RoFormer: Enhanced Transformer with Rotary Position Embedding" (https://arxiv.org/abs/2104.09864).
Importing the module puts `rotary_embedding` in the place of FLA's; what this cannot do goes FLA's own way. FLA has its own again
after `give_back`.
"""

from typing import Any

import torch
import triton
from fla.modules.rotary import ops
from fla.ops.utils import prepare_chunk_indices
from torch import Tensor

# FLA gives the module another type for other hardware.
_ops: Any = ops
_rotary_embedding: Any = ops.rotary_embedding


def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    chunk_indices: Tensor | None = None,
) -> Tensor:
    """Stand for FLA's function of this name, whose arguments it has: [B, T, H, D] to [B, T, H, D]."""
    written = (
        isinstance(seqlen_offsets, int)
        and seqlen_offsets + x.shape[1] <= cos.shape[0]
        and 2 * cos.shape[1] == x.shape[3]
    )
    if interleaved or inplace or not written or chunk_indices is not None:
        return _rotary_embedding(x, cos, sin, interleaved, inplace, seqlen_offsets, cu_seqlens, chunk_indices)
    return _Rotary.apply(x, cos, sin, seqlen_offsets, cu_seqlens)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, offset: int, cu_seqlens: Tensor | None) -> Tensor:
        ctx.save_for_backward(cos, sin, cu_seqlens)
        ctx.offset = offset
        return _rotated(x, cos, sin, offset, cu_seqlens, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin, cu_seqlens = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, ctx.offset, cu_seqlens, back=True), None, None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, offset: int, cu_seqlens: Tensor | None, back: bool) -> Tensor:
    """Every element is written, since all of a head is rotated and no position is beyond the table of angles."""
    x = x.contiguous()
    y = torch.empty_like(x)
    batch, steps, heads, width = x.shape
    block = min(128, triton.next_power_of_2(steps))
    packed = cu_seqlens is not None
    chunks = prepare_chunk_indices(cu_seqlens, block) if packed else None
    blocks = -(-steps // block) if chunks is None else len(chunks)
    with torch.cuda.device_of(x):
        ops.rotary_embedding_kernel[(blocks, batch, heads)](
            x, cos, sin, y, cu_seqlens, chunks, offset, steps,
            B=batch, H=heads, D=width, R=width // 2, TR=cos.shape[0], BT=block, BD=triton.next_power_of_2(width),
            IS_SEQLEN_OFFSETS_TENSOR=False, IS_VARLEN=packed, INTERLEAVED=False, CONJUGATE=back,
        )  # fmt: skip
    return y


def give_back() -> None:
    """Let FLA rotate itself, for whoever compares with it."""
    _ops.rotary_embedding = _rotary_embedding


_ops.rotary_embedding = rotary_embedding
