"""Products of a single row with matrices, and what stands before them: all that generating a token is made of.

Their time is that of reading the weights. A program has a few rows of a weight, of which every number is used once. On a Hopper
GPU a kernel is launched while the one before it still runs (programmatic dependent launch): it reads its part of the weights,
and only then waits for the row that they are multiplied with.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lt25.ops.backends import sum_dtype
from lt25.ops.backends.triton_math import LOG2_E, exp2, reciprocal, sigmoid

# Numbers of a weight that a program holds, and programs that there are at least, two for each multiprocessor of an H100.
_TILE, _PROGRAMS = 8192, 264


@triton.jit
def _tile(weight, row, N, D: tl.constexpr, BLOCK: tl.constexpr):
    """Rows [ROWS, BLOCK] of a weight [N, D], 0 beyond it."""
    column = tl.arange(0, BLOCK)
    mask = (row < N)[:, None] & (column < D)[None, :]
    return tl.load(weight + row[:, None].to(tl.int64) * D + column[None, :], mask=mask, other=0.0)


@triton.jit
def _meet(EARLY: tl.constexpr):
    """Let the next kernel be launched, and wait for the one before."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def _store_product(tile, value, y, row, N):
    product = tl.sum(tile.to(tl.float32) * value[None, :], 1)
    tl.store(y + row, product.to(y.dtype.element_ty), mask=row < N)


@triton.jit
def _norm_product(
    x, residual, norm_weight, first, second, third, y, total, eps, N,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y = rms_norm(x + residual) * norm_weight @ weight^T, for each of up to three weights [N, D]."""
    which = tl.program_id(1)
    weight = first
    if which == 1:
        weight = second
    if which == 2:
        weight = third
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    mask = column < D
    tile = _tile(weight, row, N, D, BLOCK)
    scale = tl.load(norm_weight + column, mask=mask, other=0.0).to(tl.float32)
    _meet(EARLY)
    value = tl.load(x + column, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + column, mask=mask, other=0.0).to(tl.float32)
    if (tl.program_id(0) == 0) & (which == 0):
        tl.store(total + column, value.to(total.dtype.element_ty), mask=mask)
    value *= tl.rsqrt(tl.sum(value * value, 0) / D + eps) * scale
    _store_product(tile, value, y + which * N, row, N)


@triton.jit
def _step_product(
    ifg, norm_weight, state, lower_bound, weight, y, new_state, eps, N,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BOUNDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The step of triton_step.py, computed by every program, and its product with a weight [N, D]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    mask = column < D
    tile = _tile(weight, row, N, D, BLOCK)
    norm = tl.load(norm_weight + column, mask=mask, other=0.0).to(tl.float32)
    _meet(EARLY)
    i = tl.load(ifg + column, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(ifg + D + column, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(ifg + 2 * D + column, mask=mask, other=0.0).to(tl.float32)
    take = reciprocal(1.0 + exp2(f * LOG2_E))
    if BOUNDED:
        take *= 1.0 - tl.load(lower_bound + column, mask=mask, other=0.0)
    h = (1.0 - take) * tl.load(state + column, mask=mask, other=0.0) + i * sigmoid(i) * take
    if tl.program_id(0) == 0:
        tl.store(new_state + column, h, mask=mask)
    value = h * tl.rsqrt(tl.sum(h * h, 0) / D + eps) * norm * g * sigmoid(g)
    _store_product(tile, value, y, row, N)


@triton.jit
def _swiglu_product(
    gate_up, weight, y, N, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """y = silu(gate) * up @ weight^T, with a weight [N, D]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    mask = column < D
    tile = _tile(weight, row, N, D, BLOCK)
    _meet(EARLY)
    gate = tl.load(gate_up + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + D + column, mask=mask, other=0.0).to(tl.float32)
    _store_product(tile, gate * sigmoid(gate) * up, y, row, N)


def _shape(rows: int, width: int, weights: int = 1) -> tuple[int, dict[str, int]]:
    """Programs for each weight [rows, width], and the arguments of a kernel that say what a program has."""
    block = triton.next_power_of_2(width)
    few = triton.next_power_of_2(max(rows * weights // _PROGRAMS, 1))
    each = max(min(_TILE // block, few), 1)
    return triton.cdiv(rows, each), {"D": width, "ROWS": each, "BLOCK": block, "num_warps": 4 if block < 8192 else 8}


def _launched(early: bool) -> dict[str, bool]:
    # The interpreter knows no such launch.
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


def norm_product(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], early: bool
) -> tuple[Tensor, Tensor]:
    """The results of :func:`lt25.ops.add_norm_linear` for one row, x [..., H].

    early: whether the weights may be read before the work that was queued before is done.
    """
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    first, second, third = (*(weight.contiguous() for weight in weights), *[weights[0]] * (3 - len(weights)))
    rows, width = first.shape
    y = x.new_empty(*x.shape[:-1], len(weights) * rows)
    total = x.new_empty(x.shape, dtype=sum_dtype(x, residual))
    programs, shape = _shape(rows, width, len(weights))
    _norm_product[(programs, len(weights))](
        x, x if residual is None else residual, norm_weight, first, second, third, y, total, eps, rows,
        RESIDUAL=residual is not None, **shape, **_launched(early),
    )  # fmt: skip
    return y, total


def step_product(
    ifg: Tensor,
    norm_weight: Tensor,
    eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    weight: Tensor,
    early: bool,
) -> tuple[Tensor, Tensor]:
    """The results of :func:`lt25.ops.hgrn_step` for one row, ifg [1, 3 D], with a product; `early` as in `norm_product`."""
    ifg, state, weight = ifg.contiguous(), state.contiguous(), weight.contiguous()
    y, new_state = ifg.new_empty(1, weight.shape[0]), torch.empty_like(state)
    bound = norm_weight if lower_bound is None else lower_bound.float().contiguous()
    programs, shape = _shape(*weight.shape)
    _step_product[(programs,)](
        ifg, norm_weight, state, bound, weight, y, new_state, eps, weight.shape[0],
        BOUNDED=lower_bound is not None, **shape, **_launched(early),
    )  # fmt: skip
    return y, new_state


def swiglu_product(gate_up: Tensor, weight: Tensor, early: bool) -> Tensor:
    """The result of :func:`lt25.ops.swiglu_linear` for one row, gate_up [..., 2 I]; `early` as in `norm_product`."""
    gate_up, weight = gate_up.contiguous(), weight.contiguous()
    y = gate_up.new_empty(*gate_up.shape[:-1], weight.shape[0])
    programs, shape = _shape(*weight.shape)
    _swiglu_product[(programs,)](gate_up, weight, y, weight.shape[0], **shape, **_launched(early))
    return y
