"""The gated MLP on a GPU in one kernel: the values between its products stay on the chip, and the backward pass recomputes them.

A program holds rows of x and goes through the width of the MLP in chunks. For the gradients of the weights, a program holds a
chunk of the width and goes through rows; the sums of all programs are then added, always in the same order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import sigmoid
from lt25.ops.backends.triton_rows import sum_parts


class Cut(NamedTuple):
    """Tile sizes and launch options of a kernel.

    Attributes:
        rows: rows that a program holds at once.
        chunk: columns of the MLP's width that it holds at once.
        warps: warps of a program.
        stages: stages of the software pipeline.
    """

    rows: int
    chunk: int
    warps: int
    stages: int

    def constants(self) -> dict[str, int]:
        """The keyword arguments of a launch."""
        return {"ROWS": self.rows, "CHUNK": self.chunk, "STAGES": self.stages, "num_warps": self.warps}


@triton.jit
def _load(source, first, count, second, width):
    """The elements [first, second] of a matrix [count, width], 0 outside."""
    inside = (first < count)[:, None] & (second < width)[None, :]
    return tl.load(source + first[:, None] * width + second[None, :], mask=inside, other=0.0)


@triton.jit
def _differentiate(gate, up, grad):
    """The value of silu(gate) * up, and the gradients of gate and up from the value's gradient."""
    opened = sigmoid(gate)
    silu = gate * opened
    return silu * up, grad * up * (opened + silu * (1.0 - opened)), grad * silu


@triton.jit(do_not_specialize=("rows",))
def _forward(
    x, gate, up, down, y, rows,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_H)
    x_tile = _load(x, row, rows, column, H)
    total = tl.zeros([ROWS, BLOCK_H], tl.float32)
    for first in tl.range(0, WIDTH, CHUNK, num_stages=STAGES):
        i = first + tl.arange(0, CHUNK)
        g = tl.dot(x_tile, tl.trans(_load(gate, i, WIDTH, column, H)))
        u = tl.dot(x_tile, tl.trans(_load(up, i, WIDTH, column, H)))
        active = (g * sigmoid(g) * u).to(x_tile.dtype)
        total = tl.dot(active, tl.trans(_load(down, column, H, i, WIDTH)), total)
    inside = (row < rows)[:, None] & (column < H)[None, :]
    tl.store(y + row[:, None] * H + column[None, :], total.to(x_tile.dtype), mask=inside)


@triton.jit(do_not_specialize=("rows",))
def _backward_x(
    grad_y, x, gate, up, down, grad_x, rows,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_H)
    x_tile = _load(x, row, rows, column, H)
    grad_tile = _load(grad_y, row, rows, column, H)
    total = tl.zeros([ROWS, BLOCK_H], tl.float32)
    for first in tl.range(0, WIDTH, CHUNK, num_stages=STAGES):
        i = first + tl.arange(0, CHUNK)
        gate_tile, up_tile = _load(gate, i, WIDTH, column, H), _load(up, i, WIDTH, column, H)
        g = tl.dot(x_tile, tl.trans(gate_tile))
        u = tl.dot(x_tile, tl.trans(up_tile))
        grad = tl.dot(grad_tile, _load(down, column, H, i, WIDTH))
        _, grad_g, grad_u = _differentiate(g, u, grad)
        total = tl.dot(grad_g.to(x_tile.dtype), gate_tile, total)
        total = tl.dot(grad_u.to(x_tile.dtype), up_tile, total)
    inside = (row < rows)[:, None] & (column < H)[None, :]
    tl.store(grad_x + row[:, None] * H + column[None, :], total.to(x_tile.dtype), mask=inside)


@triton.jit(do_not_specialize=("rows",))
def _backward_weights(
    grad_y, x, gate, up, down, parts, rows,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Activations are transposed, so that the products with x and grad_y take their left operands from registers."""
    i = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    column = tl.arange(0, BLOCK_H)
    gate_tile, up_tile = _load(gate, i, WIDTH, column, H), _load(up, i, WIDTH, column, H)
    down_tile = tl.trans(_load(down, column, H, i, WIDTH))
    grad_gate = tl.zeros([CHUNK, BLOCK_H], tl.float32)
    grad_up = tl.zeros([CHUNK, BLOCK_H], tl.float32)
    grad_down = tl.zeros([CHUNK, BLOCK_H], tl.float32)
    for start in tl.range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        x_tile, grad_tile = _load(x, row, rows, column, H), _load(grad_y, row, rows, column, H)
        g = tl.dot(gate_tile, tl.trans(x_tile))
        u = tl.dot(up_tile, tl.trans(x_tile))
        grad = tl.dot(down_tile, tl.trans(grad_tile))
        active, grad_g, grad_u = _differentiate(g, u, grad)
        grad_g, grad_u = grad_g.to(x_tile.dtype), grad_u.to(x_tile.dtype)
        grad_down = tl.dot(active.to(x_tile.dtype), grad_tile, grad_down)
        grad_gate = tl.dot(grad_g, x_tile, grad_gate)
        grad_up = tl.dot(grad_u, x_tile, grad_up)
    inside = (i < WIDTH)[:, None] & (column < H)[None, :]
    at = i[:, None] * H + column[None, :]
    parts += tl.program_id(0) * (3 * WIDTH * H)
    tl.store(parts + at, grad_gate, mask=inside)
    tl.store(parts + WIDTH * H + at, grad_up, mask=inside)
    tl.store(parts + 2 * WIDTH * H + column[None, :] * WIDTH + i[:, None], grad_down, mask=inside)


# Chosen from measurements on an H200 with a hidden size of 64 and a width of 256: benchmarks/layer.py.
FORWARD = Cut(rows=64, chunk=64, warps=4, stages=2)
BACKWARD_X = Cut(rows=64, chunk=32, warps=4, stages=3)
BACKWARD_WEIGHTS = Cut(rows=64, chunk=64, warps=4, stages=3)
# Programs for the gradients of the weights. More would fill the GPU better, but each one's sums must be read again.
PROGRAMS = 264


@settled
def _product(rows: int, hidden: int, width: int) -> Launch:
    return Launch(_forward, (triton.cdiv(rows, FORWARD.rows),), rows, **_sizes(hidden, width), **FORWARD.constants())


@settled
def _gradient_of_x(rows: int, hidden: int, width: int) -> Launch:
    grid = (triton.cdiv(rows, BACKWARD_X.rows),)
    return Launch(_backward_x, grid, rows, **_sizes(hidden, width), **BACKWARD_X.constants())


@settled
def _gradients_of_weights(rows: int, hidden: int, width: int) -> Launch:
    chunks = triton.cdiv(width, BACKWARD_WEIGHTS.chunk)
    grid = max(1, min(triton.cdiv(rows, BACKWARD_WEIGHTS.rows), PROGRAMS // chunks)), chunks
    return Launch(_backward_weights, grid, rows, **_sizes(hidden, width), **BACKWARD_WEIGHTS.constants())


def _sizes(hidden: int, width: int) -> dict[str, int]:
    return {"H": hidden, "WIDTH": width, "BLOCK_H": triton.next_power_of_2(hidden)}


def forward(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)) [..., H]; gate and up are [I, H], down is [H, I]."""
    x, gate, up, down = x.contiguous(), gate.contiguous(), up.contiguous(), down.contiguous()
    y, (width, hidden) = torch.empty_like(x), gate.shape
    _product(x.numel() // hidden, hidden, width)(x, gate, up, down, y)
    return y


def backward(grad_y: Tensor, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x [..., H] and of the three weights, one after the other [3 I H], in their dtype."""
    x, gate, up, down = x.contiguous(), gate.contiguous(), up.contiguous(), down.contiguous()
    grad_y, grad_x, (width, hidden) = grad_y.contiguous(), torch.empty_like(x), gate.shape
    sizes = x.numel() // hidden, hidden, width
    launch = _gradients_of_weights(*sizes)
    parts = torch.empty(launch.grid[0], 3 * width * hidden, dtype=torch.float32, device=x.device)
    _gradient_of_x(*sizes)(grad_y, x, gate, up, down, grad_x)
    launch(grad_y, x, gate, up, down, parts)
    return grad_x, sum_parts(parts, x.dtype)
