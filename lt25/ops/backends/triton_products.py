"""The two products of a gated MLP beside its SwiGLU, on a Hopper GPU, each with what SwiGLU does to the tiles it computes.

Apart, SwiGLU reads from memory what a product has just written there. Tiles are moved by tensor descriptors, which read
zeros and write nothing outside of a matrix, so that no size has to be a multiple of a tile's.

While the hidden size is small, a program keeps its columns of the weights and walks over rows, the next of which are on their
way meanwhile: of all orders the one that has least to fetch from the second-level cache. Beyond, a program computes one tile.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lt25.ops.backends.triton_math import sigmoid

# Multiprocessors of an H100 and of an H200.
_PROCESSORS = 132
# The widest hidden size of which a program can keep its columns of the weights.
_WIDEST_KEPT = 256


class Cut(NamedTuple):
    """How a product is cut: a tile's rows, columns and share of the hidden size, and how it is run.

    programs: for each multiprocessor, of those that walk over rows; 0 where each computes one tile.
    """

    rows: int
    columns: int
    hidden: int
    warps: int
    stages: int
    programs: int = 0


@triton.jit
def _store_activation(gate_tile, up_tile, gate, up, act, m, n):
    # The way back reads the rounded values: the activation is theirs.
    gate_tile, up_tile = gate_tile.to(act.dtype), up_tile.to(act.dtype)
    gate.store([m, n], gate_tile)
    wide = gate_tile.to(tl.float32)
    act_tile = (wide * sigmoid(wide) * up_tile.to(tl.float32)).to(act.dtype)
    up.store([m, n], up_tile)
    act.store([m, n], act_tile)


@triton.jit
def _store_gradients(grad_act, gate_tile, up_tile, grad_gate, grad_up, m, n):
    gate_tile, up_tile = gate_tile.to(tl.float32), up_tile.to(tl.float32)
    opened = sigmoid(gate_tile)
    slope = opened * (1.0 + gate_tile * (1.0 - opened))
    grad_gate.store([m, n], (grad_act * up_tile * slope).to(grad_gate.dtype))
    grad_up.store([m, n], (grad_act * gate_tile * opened).to(grad_up.dtype))


@triton.jit(do_not_specialize=("row_tiles",))
def _forward_walk(
    x, gate_weight, up_weight, gate, up, act, row_tiles,
    HIDDEN: tl.constexpr, COLUMN_TILES: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) % COLUMN_TILES * N
    to_gate = gate_weight.load([n, 0]).T
    to_up = up_weight.load([n, 0]).T
    first, step = tl.program_id(0) // COLUMN_TILES, tl.num_programs(0) // COLUMN_TILES
    for tile in tl.range(first, row_tiles, step, num_stages=STAGES):
        x_tile = x.load([tile * M, 0])
        gate_tile = tl.dot(x_tile, to_gate)
        up_tile = tl.dot(x_tile, to_up)
        _store_activation(gate_tile, up_tile, gate, up, act, tile * M, n)


@triton.jit(do_not_specialize=("row_tiles",))
def _forward_tile(
    x, gate_weight, up_weight, gate, up, act, row_tiles,
    HIDDEN: tl.constexpr, COLUMN_TILES: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) // COLUMN_TILES * M
    n = tl.program_id(0) % COLUMN_TILES * N
    gate_tile = tl.zeros([M, N], tl.float32)
    up_tile = tl.zeros([M, N], tl.float32)
    for k in tl.range(0, HIDDEN, K, num_stages=STAGES):
        x_tile = x.load([m, k])
        gate_tile = tl.dot(x_tile, gate_weight.load([n, k]).T, gate_tile)
        up_tile = tl.dot(x_tile, up_weight.load([n, k]).T, up_tile)
    _store_activation(gate_tile, up_tile, gate, up, act, m, n)


@triton.jit(do_not_specialize=("row_tiles",))
def _backward_walk(
    grad, gate, up, down_weight, grad_gate, grad_up, row_tiles,
    HIDDEN: tl.constexpr, COLUMN_TILES: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) % COLUMN_TILES * N
    from_act = down_weight.load([0, n])
    first, step = tl.program_id(0) // COLUMN_TILES, tl.num_programs(0) // COLUMN_TILES
    # Only with its stages given here does Triton fetch ahead what no product reads, too.
    for tile in tl.range(first, row_tiles, step, num_stages=STAGES):
        gate_tile, up_tile = gate.load([tile * M, n]), up.load([tile * M, n])
        grad_act = tl.dot(grad.load([tile * M, 0]), from_act)
        _store_gradients(grad_act, gate_tile, up_tile, grad_gate, grad_up, tile * M, n)


@triton.jit(do_not_specialize=("row_tiles",))
def _backward_tile(
    grad, gate, up, down_weight, grad_gate, grad_up, row_tiles,
    HIDDEN: tl.constexpr, COLUMN_TILES: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) // COLUMN_TILES * M
    n = tl.program_id(0) % COLUMN_TILES * N
    grad_act = tl.zeros([M, N], tl.float32)
    for k in tl.range(0, HIDDEN, K, num_stages=STAGES):
        grad_act = tl.dot(grad.load([m, k]), down_weight.load([k, n]), grad_act)
    _store_gradients(grad_act, gate.load([m, n]), up.load([m, n]), grad_gate, grad_up, m, n)


def fits(x: Tensor, gate_weight: Tensor) -> bool:
    """Whether the kernels are made for x [R, H] and a weight [I, H]: half precision, multiples of 16, on a Hopper GPU."""
    return (
        x.dtype == gate_weight.dtype
        and x.dtype in (torch.bfloat16, torch.float16)
        and all(size and size % 16 == 0 for size in gate_weight.shape)
        and x.is_cuda
        and torch.cuda.get_device_capability(x.device)[0] == 9
    )


def forward_cut(hidden: int) -> Cut:
    """How `gate_up_swiglu` is cut by default."""
    if hidden > _WIDEST_KEPT:
        return Cut(rows=128, columns=128, hidden=64, warps=8, stages=3)
    return Cut(64, 128, max(16, triton.next_power_of_2(hidden)), warps=8, stages=2, programs=1)


def backward_cut(hidden: int) -> Cut:
    """How `swiglu_product_backward` is cut by default."""
    if hidden > _WIDEST_KEPT:
        return Cut(rows=128, columns=128, hidden=64, warps=8, stages=3)
    return Cut(64, 128, max(16, triton.next_power_of_2(hidden)), warps=8, stages=2, programs=1)


def gate_up_swiglu(x: Tensor, gate_weight: Tensor, up_weight: Tensor, cut: Cut | None = None) -> tuple[Tensor, Tensor]:
    """Gate and up projection, and SwiGLU of both as they are rounded.

    Args:
        x: [R, H], bfloat16 or float16 as all that follows.
        gate_weight: [I, H].
        up_weight: [I, H].
        cut: by default chosen by the size.

    Returns:
        gate | up [R, 2 I] and silu(gate) * up [R, I].
    """
    rows, (width, hidden) = len(x), gate_weight.shape
    cut = cut or forward_cut(hidden)
    gate_up, act = x.new_empty(rows, 2 * width), x.new_empty(rows, width)
    inner, outer, tile = (cut.rows, cut.hidden), (cut.columns, cut.hidden), (cut.rows, cut.columns)
    blocks = (
        (x, inner),
        (gate_weight, outer),
        (up_weight, outer),
        *((each, tile) for each in _halves(gate_up)),
        (act, tile),
    )
    _launch(_forward_walk if cut.programs else _forward_tile, blocks, rows, width, hidden, cut)
    return gate_up, act


def swiglu_product_backward(grad: Tensor, gate_up: Tensor, down_weight: Tensor, cut: Cut | None = None) -> Tensor:
    """From the gradient of an MLP's result, that of its gate | up; the gradient between, of SwiGLU's value, is not rounded.

    Args:
        grad: [R, H], bfloat16 or float16 as all that follows.
        gate_up: [R, 2 I].
        down_weight: [H, I].
        cut: by default chosen by the size.

    Returns:
        [R, 2 I].
    """
    rows, (hidden, width) = len(grad), down_weight.shape
    cut = cut or backward_cut(hidden)
    gate_up = _movable(gate_up)
    grad_gate_up = torch.empty_like(gate_up)
    inner, outer, tile = (cut.rows, cut.hidden), (cut.hidden, cut.columns), (cut.rows, cut.columns)
    halves, grad_halves = (tuple((each, tile) for each in _halves(whole)) for whole in (gate_up, grad_gate_up))
    blocks = ((grad, inner), *halves, (down_weight, outer), *grad_halves)
    _launch(_backward_walk if cut.programs else _backward_tile, blocks, rows, width, hidden, cut)
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
    grad_x = grad_gate_up @ torch.cat((gate_weight, up_weight))
    return grad_x, grad_gate_up.T @ x, grad_y.T @ act


def _halves(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    return gate_up.unflatten(1, (2, -1)).unbind(1)


def _movable(matrix: Tensor) -> Tensor:
    """As a tensor descriptor needs it: rows beside each other, without gaps inside, each at a multiple of 16 bytes."""
    step, gap = matrix.stride()
    if gap == 1 and step >= matrix.shape[1] and step % 8 == 0 and matrix.data_ptr() % 16 == 0:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _launch(kernel, blocks, rows: int, width: int, hidden: int, cut: Cut) -> None:
    """blocks: the kernel's matrices, each with the shape of its tiles; those that it writes on are movable."""
    if not rows:
        return
    row_tiles, column_tiles = triton.cdiv(rows, cut.rows), triton.cdiv(width, cut.columns)
    walks = min(row_tiles, max(1, cut.programs * _PROCESSORS // column_tiles)) if cut.programs else row_tiles
    with torch.cuda.device_of(blocks[0][0]):
        kernel[(walks * column_tiles,)](
            *(TensorDescriptor.from_tensor(_movable(matrix), list(block)) for matrix, block in blocks), row_tiles,
            HIDDEN=hidden, COLUMN_TILES=column_tiles, M=cut.rows, N=cut.columns, K=cut.hidden, STAGES=cut.stages,
            num_warps=cut.warps,
        )  # fmt: skip
