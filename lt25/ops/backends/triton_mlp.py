"""The gated MLP on a GPU: what lies between its products stays on the chip, and is computed again for the way back.

A program holds rows of x and walks the width of the MLP chunk by chunk. For the gradients of the weights it is the other way
round: a program holds a chunk of the width and walks rows, and its sums over these are added to those of the other programs,
always in the same order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_math import sigmoid
from lt25.ops.backends.triton_rows import sum_parts


class Cut(NamedTuple):
    """How a kernel's work is cut: what a program holds at once of the rows and of the width, and how many walk the rows."""

    rows: int
    chunk: int
    warps: int
    stages: int
    programs: int = 0
    transposed: bool = True


@triton.jit
def _load(source, first, count, second, width):
    """[first, second] of a matrix [count, width], 0 outside."""
    inside = (first < count)[:, None] & (second < width)[None, :]
    return tl.load(source + first[:, None] * width + second[None, :], mask=inside, other=0.0)


@triton.jit
def _differentiate(gate, up, grad):
    """Of silu(gate) * up: the value, and its gradients to gate and up."""
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
def _forward_resident(
    x, gate, up, down, y, rows,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK_H)
    weights = ()
    for first in tl.static_range(0, WIDTH, CHUNK):
        i = first + tl.arange(0, CHUNK)
        chunk = (_load(gate, i, WIDTH, column, H), _load(up, i, WIDTH, column, H), _load(down, column, H, i, WIDTH))
        weights = weights + (chunk,)  # noqa: RUF005  Triton knows no unpacking
    for start in tl.range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        x_tile = _load(x, row, rows, column, H)
        total = tl.zeros([ROWS, BLOCK_H], tl.float32)
        for n in tl.static_range(0, (WIDTH + CHUNK - 1) // CHUNK):
            g = tl.dot(x_tile, tl.trans(weights[n][0]))
            u = tl.dot(x_tile, tl.trans(weights[n][1]))
            active = (g * sigmoid(g) * u).to(x_tile.dtype)
            total = tl.dot(active, tl.trans(weights[n][2]), total)
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
    grad_y, x, gate, up, down, grad_x, parts, rows,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, WITH_X: tl.constexpr,
):  # fmt: skip
    """Transposed, so that the products with x and grad_y take their left operands from registers."""
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
        if WITH_X:
            if WITH_X == 1:
                part = tl.dot(tl.trans(grad_g), gate_tile)
                part = tl.dot(tl.trans(grad_u), up_tile, part)
            else:
                part = tl.dot(tl.trans(gate_tile), grad_g)
                part = tl.trans(tl.dot(tl.trans(up_tile), grad_u, part))
            inside = (row < rows)[:, None] & (column < H)[None, :]
            at = (tl.program_id(1).to(tl.int64) * rows + row)[:, None] * H + column[None, :]
            tl.store(grad_x + at, part.to(grad_x.dtype.element_ty), mask=inside)
    inside = (i < WIDTH)[:, None] & (column < H)[None, :]
    at = i[:, None] * H + column[None, :]
    parts += tl.program_id(0) * (3 * WIDTH * H)
    tl.store(parts + at, grad_gate, mask=inside)
    tl.store(parts + WIDTH * H + at, grad_up, mask=inside)
    tl.store(parts + 2 * WIDTH * H + column[None, :] * WIDTH + i[:, None], grad_down, mask=inside)


@triton.jit(do_not_specialize=("rows",))
def _backward_upright(
    grad_y, x, gate, up, down, grad_x, parts, rows,
    H: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, WITH_X: tl.constexpr,
):  # fmt: skip
    """As `_backward_weights`, not transposed."""
    i = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    column = tl.arange(0, BLOCK_H)
    gate_tile, up_tile = _load(gate, i, WIDTH, column, H), _load(up, i, WIDTH, column, H)
    down_tile = _load(down, column, H, i, WIDTH)
    grad_gate = tl.zeros([BLOCK_H, CHUNK], tl.float32)
    grad_up = tl.zeros([BLOCK_H, CHUNK], tl.float32)
    grad_down = tl.zeros([BLOCK_H, CHUNK], tl.float32)
    for start in tl.range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        x_tile, grad_tile = _load(x, row, rows, column, H), _load(grad_y, row, rows, column, H)
        g = tl.dot(x_tile, tl.trans(gate_tile))
        u = tl.dot(x_tile, tl.trans(up_tile))
        grad = tl.dot(grad_tile, down_tile)
        active, grad_g, grad_u = _differentiate(g, u, grad)
        grad_g, grad_u = grad_g.to(x_tile.dtype), grad_u.to(x_tile.dtype)
        grad_down = tl.dot(tl.trans(grad_tile), active.to(x_tile.dtype), grad_down)
        grad_gate = tl.dot(tl.trans(x_tile), grad_g, grad_gate)
        grad_up = tl.dot(tl.trans(x_tile), grad_u, grad_up)
        if WITH_X:
            part = tl.dot(grad_g, gate_tile)
            part = tl.dot(grad_u, up_tile, part)
            inside = (row < rows)[:, None] & (column < H)[None, :]
            at = (tl.program_id(1).to(tl.int64) * rows + row)[:, None] * H + column[None, :]
            tl.store(grad_x + at, part.to(grad_x.dtype.element_ty), mask=inside)
    inside = (column < H)[:, None] & (i < WIDTH)[None, :]
    at = i[None, :] * H + column[:, None]
    parts += tl.program_id(0) * (3 * WIDTH * H)
    tl.store(parts + at, grad_gate, mask=inside)
    tl.store(parts + WIDTH * H + at, grad_up, mask=inside)
    tl.store(parts + 2 * WIDTH * H + column[:, None] * WIDTH + i[None, :], grad_down, mask=inside)


@triton.jit
def _add(parts, total, size, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.zeros([BLOCK], tl.float32)
    for n in tl.static_range(COUNT):
        value += tl.load(parts + n * size + at, mask=at < size).to(tl.float32)
    tl.store(total + at, value.to(total.dtype.element_ty), mask=at < size)


FORWARD = Cut(rows=128, chunk=64, warps=8, stages=2)
BACKWARD_X = Cut(rows=128, chunk=32, warps=8, stages=2)
BACKWARD_WEIGHTS = Cut(rows=64, chunk=32, warps=4, stages=2, programs=264, transposed=False)


def forward(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, cut: Cut = FORWARD, resident: bool = False) -> Tensor:
    """down(silu(gate(x)) * up(x)) [..., H]."""
    x, gate, up, down = (each.contiguous() for each in (x, gate, up, down))
    y = torch.empty_like(x)
    rows, sizes = _sizes(x, gate)
    if rows:
        kernel = _forward_resident if resident else _forward
        programs = triton.cdiv(rows, cut.rows)
        with torch.cuda.device_of(x):
            kernel[(min(programs, cut.programs or programs),)](
                x, gate, up, down, y, rows,
                ROWS=cut.rows, CHUNK=cut.chunk, STAGES=cut.stages, num_warps=cut.warps, **sizes,
            )  # fmt: skip
    return y


def backward(grad_y: Tensor, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x [..., H] and of the three weights, one after the other [3 I H], in their dtype."""
    return backward_two(grad_y, x, gate, up, down)


def backward_x(grad_y, x, gate, up, down, cut: Cut = BACKWARD_X):
    grad_y, x, gate, up, down = (each.contiguous() for each in (grad_y, x, gate, up, down))
    grad_x = torch.empty_like(x)
    rows, sizes = _sizes(x, gate)
    if rows:
        with torch.cuda.device_of(x):
            _backward_x[(triton.cdiv(rows, cut.rows),)](
                grad_y, x, gate, up, down, grad_x, rows,
                ROWS=cut.rows, CHUNK=cut.chunk, STAGES=cut.stages, num_warps=cut.warps, **sizes,
            )  # fmt: skip
    return grad_x


def backward_weights(grad_y, x, gate, up, down, cut: Cut = BACKWARD_WEIGHTS, with_x: int = 0, partial=None):
    """Partial sums; with_x: also the partial gradients of x."""
    grad_y, x, gate, up, down = (each.contiguous() for each in (grad_y, x, gate, up, down))
    rows, sizes = _sizes(x, gate)
    chunks = triton.cdiv(gate.shape[0], cut.chunk)
    programs = max(1, min(triton.cdiv(rows, cut.rows), cut.programs // chunks))
    parts = torch.empty(programs, 3 * gate.numel(), dtype=torch.float32, device=x.device)
    grad_x = torch.empty(chunks, *x.shape, dtype=partial or x.dtype, device=x.device) if with_x else x
    kernel = _backward_weights if cut.transposed else _backward_upright
    with torch.cuda.device_of(x):
        kernel[(programs, chunks)](
            grad_y, x, gate, up, down, grad_x, parts, rows,
            ROWS=cut.rows, CHUNK=cut.chunk, STAGES=cut.stages, num_warps=cut.warps, WITH_X=with_x, **sizes,
        )  # fmt: skip
    return grad_x, parts


def backward_two(grad_y, x, gate, up, down, cut_x: Cut = BACKWARD_X, cut_weights: Cut = BACKWARD_WEIGHTS):
    grad_x = backward_x(grad_y, x, gate, up, down, cut_x)
    _, parts = backward_weights(grad_y, x, gate, up, down, cut_weights)
    return grad_x, sum_parts(parts, x.dtype)


def backward_one(grad_y, x, gate, up, down, cut: Cut = BACKWARD_WEIGHTS, with_x: int = 1, partial=None):
    grad_parts, parts = backward_weights(grad_y, x, gate, up, down, cut, with_x, partial)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel():
        with torch.cuda.device_of(x):
            _add[(triton.cdiv(x.numel(), 2048),)](grad_parts, grad_x, x.numel(), COUNT=len(grad_parts), BLOCK=2048)
    return grad_x, sum_parts(parts, x.dtype)


def _sizes(x: Tensor, gate: Tensor) -> tuple[int, dict[str, int]]:
    """Rows of x, and the sizes that kernels are compiled for."""
    hidden = x.shape[-1]
    return x.numel() // hidden, {"H": hidden, "WIDTH": gate.shape[0], "BLOCK_H": triton.next_power_of_2(hidden)}
