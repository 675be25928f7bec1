"""Products of a single row with matrices, and what stands before them: all that generating a token is made of.

Their time is that of reading the weights, of which every number is used once, and of what stands between the arrival of a row
and that of the next. On a Hopper GPU a kernel is launched while the one before it still runs (programmatic dependent launch): it
reads its part of the weights, and only then waits for the row that they are multiplied with. What is left to do then is short. A
program is a single warp, as long as its part fits, which adds up its products without a barrier. A norm scales the product,
whose sum does not wait for that of the squares. Gates are computed by the program that has their pre-activations, once, and not
by all that multiply with them; nor is the residual stream added up by all that read it.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lt25.ops.backends import sum_dtype
from lt25.ops.backends.triton_launch import Launch, settled
from lt25.ops.backends.triton_math import LOG2_E, exp2, reciprocal, sigmoid

# Bytes of weights that a warp holds at most, and programs that there are at least: four warps for each multiprocessor of an H100,
# one for each of its schedulers.
_WARP, _PROGRAMS = 12288, 512


@triton.jit
def _tile(weight, row, column, N, D: tl.constexpr):
    """Rows of a weight [N, D], 0 beyond it."""
    mask = (row < N)[:, None] & (column < D)[None, :]
    return tl.load(weight + row[:, None].to(tl.int64) * D + column[None, :], mask=mask, other=0.0)


@triton.jit
def _load(row, column, D: tl.constexpr):
    """A row [D] in float32, 0 beyond it."""
    return tl.load(row + column, mask=column < D, other=0.0).to(tl.float32)


@triton.jit
def meet(EARLY: tl.constexpr):
    """Let the next kernel be launched, and wait for the one before."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def _scale(value, eps, D: tl.constexpr):
    """What an RMS norm multiplies a row [D] with."""
    return tl.rsqrt(tl.sum(value * value, 0) / D + eps)


@triton.jit
def _multiply(tile, value):
    return tl.sum(tile.to(tl.float32) * value[None, :], 1)


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
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    tile, norm = _tile(weight, row, column, N, D), _load(norm_weight, column, D)
    meet(EARLY)
    value = _load(x, column, D)
    if RESIDUAL:
        value += _load(residual, column, D)
    if (tl.program_id(0) == 0) & (which == 0):
        tl.store(total + column, value.to(total.dtype.element_ty), mask=column < D)
    product = _multiply(tile, value * norm) * _scale(value, eps, D)
    tl.store(y + which * N + row, product.to(y.dtype.element_ty), mask=row < N)


@triton.jit
def _norm_step(
    x, norm_weight, i_weight, f_weight, g_weight, state, lower_bound, gate_weight, y, new_state, eps, N,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BOUNDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The step of triton_step.py, of products as of `_norm_product`; y, float32, is not yet scaled by its norm."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    i_tile, f_tile = _tile(i_weight, row, column, N, D), _tile(f_weight, row, column, N, D)
    g_tile, norm = _tile(g_weight, row, column, N, D), _load(norm_weight, column, D)
    gate = _load(gate_weight, row, N)
    meet(EARLY)
    value, h = _load(x, column, D), _load(state, row, N)
    keep = 1.0
    if BOUNDED:
        keep -= _load(lower_bound, row, N)
    scale = _scale(value, eps, D)
    value *= norm
    i, f, g = _multiply(i_tile, value) * scale, _multiply(f_tile, value) * scale, _multiply(g_tile, value) * scale
    take = reciprocal(1.0 + exp2(f * LOG2_E)) * keep
    h = (1.0 - take) * h + i * sigmoid(i) * take
    tl.store(new_state + row, h, mask=row < N)
    tl.store(y + row, h * gate * g * sigmoid(g), mask=row < N)


@triton.jit
def _norm_swiglu(
    x, norm_weight, gate_weight, up_weight, y, eps, N,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y = silu(gate) * up, of products as of `_norm_product`."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    gate_tile, up_tile = _tile(gate_weight, row, column, N, D), _tile(up_weight, row, column, N, D)
    norm = _load(norm_weight, column, D)
    meet(EARLY)
    value = _load(x, column, D)
    scale = _scale(value, eps, D)
    value *= norm
    gate, up = _multiply(gate_tile, value) * scale, _multiply(up_tile, value) * scale
    tl.store(y + row, (gate * sigmoid(gate) * up).to(y.dtype.element_ty), mask=row < N)


@triton.jit
def _product_sum(
    x, scaled, weight, residual, y, eps, N,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, NORMED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y = residual + x @ weight^T, with a weight [N, D]; the product is scaled as the norm of a row would be."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    tile = _tile(weight, row, column, N, D)
    meet(EARLY)
    value, before = _load(x, column, D), _load(residual, row, N)
    product = _multiply(tile, value)
    if NORMED:
        product *= _scale(_load(scaled, column, D), eps, D)
    tl.store(y + row, (before + product).to(y.dtype.element_ty), mask=row < N)


def _shape(rows: int, width: int, size: int, together: int = 1) -> tuple[int, dict[str, int]]:
    """Programs for a weight [rows, width], and the arguments of a kernel that say what each has.

    size: bytes of an element.
    together: weights of which a program has the same rows.
    """
    row = width * size
    # What the weights are multiplied with takes room too.
    warps = min(triton.next_power_of_2(triton.cdiv(max(together, 2) * row, _WARP)), 16)
    most = max(min(_WARP * warps // (together * row), rows // _PROGRAMS), 1)
    each = 1 << (most.bit_length() - 1)
    return triton.cdiv(rows, each), {
        "D": width,
        "ROWS": each,
        "BLOCK": triton.next_power_of_2(width),
        "num_warps": warps,
    }


def launched(early: bool) -> dict[str, bool]:
    """Arguments of a kernel that is launched while the one before it runs, or is not; the interpreter knows no such launch."""
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


@settled
def _norm_product_of(rows: int, width: int, size: int, weights: int, eps: float, residual: bool, early: bool) -> Launch:
    programs, shape = _shape(rows, width, size)
    return Launch(_norm_product, (programs, weights), eps, rows, RESIDUAL=residual, **shape, **launched(early))


@settled
def _norm_step_of(rows: int, width: int, size: int, eps: float, bounded: bool, early: bool) -> Launch:
    programs, shape = _shape(rows, width, size, 3)
    return Launch(_norm_step, (programs,), eps, rows, BOUNDED=bounded, **shape, **launched(early))


@settled
def _norm_swiglu_of(rows: int, width: int, size: int, eps: float, early: bool) -> Launch:
    programs, shape = _shape(rows, width, size, 2)
    return Launch(_norm_swiglu, (programs,), eps, rows, **shape, **launched(early))


@settled
def _product_sum_of(rows: int, width: int, size: int, eps: float, normed: bool, early: bool) -> Launch:
    programs, shape = _shape(rows, width, size)
    return Launch(_product_sum, (programs,), eps, rows, NORMED=normed, **shape, **launched(early))


def norm_product(
    x: Tensor, residual: Tensor | None, norm_weight: Tensor, eps: float, weights: Sequence[Tensor], early: bool
) -> tuple[Tensor, Tensor]:
    """The results of :func:`lt25.ops.add_norm_linear` for one row, x [..., H].

    early: whether the weights may be read before the work that was queued before is done.
    """
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    first, second, third = (*(weight.contiguous() for weight in weights), *[weights[0]] * (3 - len(weights)))
    y = x.new_empty(*x.shape[:-1], len(weights) * len(first))
    total = x.new_empty(x.shape, dtype=sum_dtype(x, residual))
    size = first.element_size()
    launch = _norm_product_of(*first.shape, size, len(weights), eps, residual is not None, early)
    launch(x, x if residual is None else residual, norm_weight, first, second, third, y, total)
    return y, total


def mixer_step(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weights: Sequence[Tensor],
    gate_weight: Tensor,
    gate_eps: float,
    state: Tensor,
    lower_bound: Tensor | None,
    out_weight: Tensor,
    early: bool,
) -> tuple[Tensor, Tensor]:
    """The results of :func:`lt25.ops.mixer_step` for one row, x [1, H]; `early` as in `norm_product`."""
    x, state = x.contiguous(), state.contiguous()
    i, f, g, out_weight = (weight.contiguous() for weight in (*weights, out_weight))
    bound = state if lower_bound is None else lower_bound.contiguous()
    gated, new_state = torch.empty_like(state), torch.empty_like(state)
    y, size = torch.empty_like(x), i.element_size()
    launch = _norm_step_of(*i.shape, size, eps, lower_bound is not None, early)
    launch(x, norm_weight, i, f, g, state, bound, gate_weight, gated, new_state)
    _product_sum_of(*out_weight.shape, size, gate_eps, True, early)(gated, new_state, out_weight, x, y)
    return y, new_state


def mlp_step(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate_weight: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    early: bool,
) -> Tensor:
    """The result of :func:`lt25.ops.mlp_step` for one row, x [..., H]; `early` as in `norm_product`."""
    x = x.contiguous()
    gate, up, down = (weight.contiguous() for weight in (gate_weight, up_weight, down_weight))
    act, y = x.new_empty(len(gate)), torch.empty_like(x)
    size = gate.element_size()
    _norm_swiglu_of(*gate.shape, size, eps, early)(x, norm_weight, gate, up, act)
    _product_sum_of(*down.shape, size, 0.0, False, early)(act, act, down, x, y)
    return y
