"""The products of a gated MLP before and after its SwiGLU on a Hopper GPU, each fused with SwiGLU on the tiles that it computes.

A separate SwiGLU would read from memory what a product has just written. Tiles are read through tensor descriptors, which give
zeros outside a matrix, so that no size has to be a multiple of a tile's. In the forward pass a program computes one tile. In the
backward pass it keeps its columns of the weights and goes through rows, prefetching the next ones; that limits the hidden size.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lt25.ops.backends import joined
from lt25.ops.backends.triton_math import sigmoid

# Multiprocessors of an H100 and of an H200.
_PROCESSORS = 132
# How much of the hidden size a forward program multiplies at once.
_STEP = 32


class Cut(NamedTuple):
    """Tile sizes and launch options of a kernel.

    Attributes:
        rows: rows of a tile.
        columns: columns of a tile.
        warps: warps of a program.
        stages: stages of the software pipeline.
    """

    rows: int
    columns: int
    warps: int
    stages: int


# Chosen from measurements on an H200 at a hidden size of 256, with benchmarks/products.py.
FORWARD = Cut(rows=128, columns=64, warps=4, stages=4)
BACKWARD = Cut(rows=64, columns=64, warps=4, stages=4)


@triton.jit
def _store(target, tile, m, n, rows, WIDTH: tl.constexpr, STRIDE: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """Store a tile [M, N] at row m and column n of a matrix [rows, WIDTH] whose rows are STRIDE apart."""
    row, column = m + tl.arange(0, M), n + tl.arange(0, N)
    at = row[:, None].to(tl.int64) * STRIDE + column[None, :]
    mask = (row < rows)[:, None]
    if WIDTH % N:
        mask &= (column < WIDTH)[None, :]
    tl.store(target + at, tile, mask=mask)


@triton.jit
def _store_gradients(grad_act, gate_tile, up_tile, grad_gate, grad_up, m, n):
    gate_tile, up_tile = gate_tile.to(tl.float32), up_tile.to(tl.float32)
    opened = sigmoid(gate_tile)
    slope = opened * (1.0 + gate_tile * (1.0 - opened))
    grad_gate.store([m, n], (grad_act * up_tile * slope).to(grad_gate.dtype))
    grad_up.store([m, n], (grad_act * gate_tile * opened).to(grad_up.dtype))


@triton.jit(do_not_specialize=("rows",))
def _forward(
    x, gate_weight, up_weight, gate_up, act, rows,
    HIDDEN: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    COLUMN_TILES: tl.constexpr = triton.cdiv(WIDTH, N)
    m = tl.program_id(0) // COLUMN_TILES * M
    n = tl.program_id(0) % COLUMN_TILES * N
    gate = tl.zeros([M, N], tl.float32)
    up = tl.zeros([M, N], tl.float32)
    for k in range(0, HIDDEN, K):
        x_tile = x.load([m, k])
        gate = tl.dot(x_tile, gate_weight.load([n, k]).T, gate)
        up = tl.dot(x_tile, up_weight.load([n, k]).T, up)
    # The backward pass reads the rounded gate and up, so the activation is computed from these too.
    gate, up = gate.to(act.dtype.element_ty), up.to(act.dtype.element_ty)
    _store(gate_up, gate, m, n, rows, WIDTH, 2 * WIDTH, M, N)
    _store(gate_up + WIDTH, up, m, n, rows, WIDTH, 2 * WIDTH, M, N)
    gate = gate.to(tl.float32)
    value = gate * sigmoid(gate) * up.to(tl.float32)
    _store(act, value.to(act.dtype.element_ty), m, n, rows, WIDTH, WIDTH, M, N)


@triton.jit(do_not_specialize=("row_tiles",))
def _backward(
    grad, gate, up, down_weight, grad_gate, grad_up, row_tiles,
    COLUMN_TILES: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) % COLUMN_TILES * N
    from_act = down_weight.load([0, n])
    first, step = tl.program_id(0) // COLUMN_TILES, tl.num_programs(0) // COLUMN_TILES
    # Without explicit stages, Triton prefetches only the operands of products, not gate and up.
    for tile in tl.range(first, row_tiles, step, num_stages=STAGES):
        gate_tile, up_tile = gate.load([tile * M, n]), up.load([tile * M, n])
        grad_act = tl.dot(grad.load([tile * M, 0]), from_act)
        _store_gradients(grad_act, gate_tile, up_tile, grad_gate, grad_up, tile * M, n)


def gate_up_swiglu(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up projection, and SwiGLU of their rounded values.

    Args:
        x: [R, H], bfloat16 or float16 as all that follows.
        gate_weight: [I, H].
        up_weight: [I, H].

    Returns:
        gate | up [R, 2 I] and silu(gate) * up [R, I].
    """
    rows, (width, hidden) = len(x), gate_weight.shape
    gate_up, act = x.new_empty(rows, 2 * width), x.new_empty(rows, width)
    if rows:
        outer = (FORWARD.columns, _STEP)
        with torch.cuda.device_of(x):
            _forward[(triton.cdiv(rows, FORWARD.rows) * triton.cdiv(width, FORWARD.columns),)](
                _blocks(x, FORWARD.rows, _STEP), _blocks(gate_weight, *outer), _blocks(up_weight, *outer), gate_up, act,
                rows, HIDDEN=hidden, WIDTH=width, M=FORWARD.rows, N=FORWARD.columns, K=_STEP, num_warps=FORWARD.warps,
                num_stages=FORWARD.stages,
            )  # fmt: skip
    return gate_up, act


def swiglu_product_backward(grad: Tensor, gate_up: Tensor, down_weight: Tensor) -> Tensor:
    """The gradient of an MLP's gate | up from the gradient of its result; SwiGLU's gradient in between is not rounded.

    Args:
        grad: [R, H], bfloat16 or float16 as all that follows.
        gate_up: [R, 2 I].
        down_weight: [H, I].

    Returns:
        [R, 2 I].
    """
    rows, (hidden, width) = len(grad), down_weight.shape
    gate_up = _movable(gate_up)
    grad_gate_up = torch.empty_like(gate_up)
    if rows:
        tile, kept = BACKWARD[:2], max(16, triton.next_power_of_2(hidden))
        row_tiles, column_tiles = triton.cdiv(rows, BACKWARD.rows), triton.cdiv(width, BACKWARD.columns)
        walks = min(row_tiles, max(1, _PROCESSORS // column_tiles))
        with torch.cuda.device_of(grad):
            _backward[(walks * column_tiles,)](
                _blocks(grad, BACKWARD.rows, kept), *(_blocks(half, *tile) for half in _halves(gate_up)),
                _blocks(down_weight, kept, BACKWARD.columns), *(_blocks(half, *tile) for half in _halves(grad_gate_up)),
                row_tiles, COLUMN_TILES=column_tiles, M=BACKWARD.rows, N=BACKWARD.columns, STAGES=BACKWARD.stages,
                num_warps=BACKWARD.warps,
            )  # fmt: skip
    return grad_gate_up


def forward(x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """down(silu(gate(x)) * up(x)) [R, H], gate | up [R, 2 I] and silu(gate) * up [R, I]; the weights as nn.Linear's."""
    gate_up, act = gate_up_swiglu(x, gate_weight, up_weight)
    return act @ down_weight.T, gate_up, act


def backward(
    grad_y: Tensor, x: Tensor, gate_up: Tensor, act: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of gate_weight above up_weight [2 I, H], and of down_weight, from what `forward` took and returned."""
    grad_gate_up = swiglu_product_backward(grad_y, gate_up, down_weight)
    grad_x = grad_gate_up @ joined((gate_weight, up_weight))
    return grad_x, grad_gate_up.T @ x, grad_y.T @ act


def _halves(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    return gate_up.unflatten(1, (2, -1)).unbind(1)


def _movable(matrix: Tensor) -> Tensor:
    """The matrix, copied if a tensor descriptor cannot read it: it needs contiguous rows, each at a multiple of 16 bytes."""
    step, gap = matrix.stride()
    if gap == 1 and step >= matrix.shape[1] and step % 8 == 0 and matrix.data_ptr() % 16 == 0:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _blocks(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(_movable(matrix), [rows, columns])
