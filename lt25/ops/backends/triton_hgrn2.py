"""Forget gates of HGRN2 above a lower bound, in one pass each way on a GPU.

With s = sigmoid(z) the gate is f = bound + (1 - bound) s, the decay of the state; the keys are 1 - f ("HGRN2: Gated Linear RNNs
with State Expansion", https://arxiv.org/abs/2404.07904).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_math import reciprocal, sigmoid

_ROWS, _COLUMNS = 32, 128
# So that a gate that is closed has a logarithm.
_LEAST = tl.constexpr(2.0**-126)


@triton.jit
def _tile(z, bound, rows, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BOUND: tl.constexpr):
    """Where a program's tile is, what of it is there, 1 - bound, and 1 - s."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    at = row[:, None] * D + column[None, :]
    room = tl.full([COLUMNS], 1.0, tl.float32)
    if BOUND:
        room -= tl.load(bound + column, mask=column < D, other=0.0)
    closed = sigmoid(-tl.load(z + at, mask=inside, other=0.0).to(tl.float32))
    return at, inside, column, room[None, :], closed


@triton.jit(do_not_specialize=["rows"])
def _forward(z, bound, k, g, rows, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BOUND: tl.constexpr):
    at, inside, _, room, closed = _tile(z, bound, rows, D, ROWS, COLUMNS, BOUND)
    gate = (1.0 - room) + room * sigmoid(tl.load(z + at, mask=inside, other=0.0).to(tl.float32))
    tl.store(k + at, room * closed, mask=inside)
    tl.store(g + at, tl.log(tl.maximum(gate, _LEAST)), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    z, bound, dk, dg, dz, parts, rows,
    D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BOUND: tl.constexpr,
):  # fmt: skip
    at, inside, column, room, closed = _tile(z, bound, rows, D, ROWS, COLUMNS, BOUND)
    opened = sigmoid(tl.load(z + at, mask=inside, other=0.0).to(tl.float32))
    gate = tl.maximum((1.0 - room) + room * opened, _LEAST)
    of_keys = tl.load(dk + at, mask=inside, other=0.0).to(tl.float32)
    of_logs = tl.load(dg + at, mask=inside, other=0.0).to(tl.float32)
    # s / f first: of a gate near 0 both are small.
    tl.store(dz + at, room * closed * (of_logs * (opened * reciprocal(gate)) - of_keys * opened), mask=inside)
    if BOUND:
        of_bound = tl.where(inside, closed * (of_logs * reciprocal(gate) - of_keys), 0.0)
        tl.store(parts + tl.program_id(0) * D + column, tl.sum(of_bound, 0), mask=column < D)


def _cut(z: Tensor, bound: Tensor | None) -> tuple[int, tuple[int, int], dict[str, int | bool]]:
    columns = z.shape[-1]
    rows = z.numel() // columns
    sizes = {"D": columns, "ROWS": _ROWS, "COLUMNS": _COLUMNS, "BOUND": bound is not None}
    return rows, (triton.cdiv(rows, _ROWS), triton.cdiv(columns, _COLUMNS)), sizes


def forward(z: Tensor, bound: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys in z's dtype, and the natural logarithms of the gates in float32.

    Args:
        z: [..., D], contiguous.
        bound: float32 [D] in [0, 1), or None for 0.
    """
    k, g = torch.empty_like(z), torch.empty_like(z, dtype=torch.float32)
    rows, grid, sizes = _cut(z, bound)
    _forward[grid](z, bound, k, g, rows, **sizes)
    return k, g


def backward(z: Tensor, bound: Tensor | None, dk: Tensor, dg: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of z, in its dtype, and of the bound; all contiguous."""
    dz = torch.empty_like(z)
    rows, grid, sizes = _cut(z, bound)
    parts = None if bound is None else bound.new_empty(grid[0], z.shape[-1])
    _backward[grid](z, bound, dk, dg, dz, parts, rows, **sizes)
    return dz, None if parts is None else parts.sum(0)
