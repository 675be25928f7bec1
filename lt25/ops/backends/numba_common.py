"""What the operators' numba kernels share: compiler options, exp and sigmoid that vectorise, tensors as rows, threads."""

import math

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic, overload
from torch import Tensor

from lt25.memory import keep_freed_memory

# Contraction lets a*b+c be one instruction and nothing else: re-association would break `exp`, and NaN must survive.
JIT = {"fastmath": {"contract"}, "error_model": "numpy", "cache": True, "nogil": True}
# For sums over a row, which become vector instructions only if their order is free. It is the same in each call.
JIT_SUM = {**JIT, "fastmath": {"contract", "reassoc"}}

# Rows of one work item. Fixed, because a gradient summed over rows is summed item by item: the result depends on how the
# rows are cut, and may not depend on the number of threads.
ROWS = 64
# float32 of a cache line.
LINE = 16
# Rows that are asked for ahead of their use.
AHEAD = 8
# Channels of a block, or a multiple. Threads that write nearer to each other than that, row by row, take cache lines from each
# other, for processors fetch the neighbours of a line too: two threads on 32 channels each are slower than one on all 64.
BLOCK = 128


def _use_whole_registers() -> None:
    """Has loops use 512-bit registers where there are any: LLVM avoids them, for the sake of code that uses few of them."""
    features = get_host_cpu_features()
    if numba.config.CPU_FEATURES is None and "+avx512vl" in features:
        numba.config.CPU_FEATURES = f"{features},-prefer-256-bit"


def _start_threads() -> None:
    """Starts numba's threads without touching torch's: one OpenMP library serves both, and starting sets its number."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


_use_whole_registers()
keep_freed_memory()
_start_threads()


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a * b + c, in one instruction where there is one. Of a sum of two products it says which of them is not rounded: compilers
    choose now the one, now the other, and a kernel read from numba's cache is not what ran in the process that compiled it.
    """

    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        function = ir.FunctionType(kind, [kind] * 3)
        name = f"llvm.fmuladd.f{signature.return_type.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    return a(a, a, a), generate


def exp(v):
    """exp(v), for float32 without a call, so that the loop around it becomes vector instructions; for use in kernels.

    0 below -87, where float32 loses its last normal numbers.
    """
    return math.exp(v)


def bounded_exp(v):
    """exp(v) kept inside what is a normal number, and has a normal number for its reciprocal; for use in kernels."""
    return math.exp(max(-700.0, min(v, 700.0)))


@njit(**JIT)
def _exp_within(v):
    """exp(v) for -87 <= v <= 87, exactly 1 at 0, relative error below 2e-7.

    v = (n + r) log 2, |r| <= 1 / 2: n is added to the exponent in the bits of a polynomial in r, the one of its degree that is 1
    at 0 and whose largest relative error is least, 9.1e-8.
    """
    f = np.float32
    # The second is what float32 leaves of the first.
    log2_e, rest = f(1.44269504), f(1.92596303e-8)
    # Adding 1.5 * 2**23 rounds to an integer and leaves that integer in the low bits of the sum.
    round_to_int = f(12582912.0)
    shifted = multiply_add(v, log2_e, round_to_int)
    r = multiply_add(v, rest, multiply_add(v, log2_e, round_to_int - shifted))
    p = f(1.326472731e-3) * r + f(9.671512991e-3)
    p = p * r + f(5.550733581e-2)
    p = p * r + f(2.402224243e-1)
    p = p * r + f(6.931470037e-1)
    p = p * r + f(1.0)
    return np.int32(f(p).view(np.int32) + (f(shifted).view(np.int32) << np.int32(23))).view(f)


# The comparisons below are written so that NaN passes them and reaches the result.


@overload(exp)
def _exp_vectorised(v):
    if v != types.float32:
        return lambda v: math.exp(v)
    lowest, zero = np.float32(-87.0), np.float32(0.0)

    def exp(v):
        return zero if v < lowest else _exp_within(v)

    return exp


@overload(bounded_exp)
def _bounded_exp_vectorised(v):
    bound = v(87.0 if v == types.float32 else 700.0)
    inner = _exp_within if v == types.float32 else math.exp

    def exp(v):
        v = bound if v > bound else v
        return inner(-bound if v < -bound else v)

    return exp


@njit(**JIT)
def sigmoid(v):
    """1 / (1 + exp(-v)), in v's precision."""
    one = type(v)(1)
    return one / (one + bounded_exp(-v))


@njit(**JIT)
def gates(f, bound):
    """f' = bound + (1 - bound) sigmoid(f), 1 - f', and sigmoid(f) and sigmoid(-f), none of which cancels.

    Near 1, f' comes from 1 - f': a long memory is all in its last digits. Near 0 it may not, or a trace would be left of a
    state that was to be cleared.
    """
    one = type(f)(1)
    e = bounded_exp(f)
    closing = one / (one + e)
    opening = e * closing
    free = one - bound
    take = free * closing
    near_0, near_1 = bound + free * opening, one - take
    return near_0 if take > type(f)(0.5) else near_1, take, opening, closing


@intrinsic
def _fetch_line(typing_context, row, index):
    """Asks for the cache line of an element, which may lie beyond the array."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte_pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, integer, integer, integer])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To read, to be kept in the nearest cache, data.
        options = [ir.Constant(integer, each) for each in (0, 3, 1)]
        builder.call(prefetch, [builder.bitcast(builder.gep(data, [arguments[1]]), byte_pointer), *options])
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


@njit(forceinline=True, **JIT)
def fetch(row):
    """Asks for the memory of a row [D] that is to be read soon, or of none if it would lie before the first or behind the last.

    Processors foresee long runs of memory. A part of each row, or row after row against the order of memory, is to them a run
    that breaks off again and again, and each time the memory is waited for.
    """
    for d in range(0, len(row), LINE):
        _fetch_line(row, d)


@njit(**JIT_SUM)
def dot(a, b):
    """The sum over a * b, in their precision."""
    total = a[0] * b[0]
    for d in range(1, len(a)):
        total += a[d] * b[d]
    return total


def rows(tensor: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """[..., D] as numpy rows [-1, D], copied only if the dtype or the layout asks for it."""
    tensor = tensor.detach().to(dtype).contiguous()
    return tensor.numpy().reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def vector(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A parameter [D] as a numpy copy: a tensor seen by numpy can never be resized again, which sharded training does."""
    return tensor.detach().to(dtype, copy=True).numpy()


def mask_rows(mask: Tensor | None) -> np.ndarray:
    """A mask [B, T] as one flag for each row; none at all without a mask: numba would compile kernels again for None."""
    return np.empty(0, np.bool_) if mask is None else mask.contiguous().numpy().reshape(-1)


def initial(initial_state: Tensor | None, sequences: int, channels: int, dtype: torch.dtype) -> Tensor:
    """A fresh state [N, D] that the kernel may write on."""
    if initial_state is None:
        return torch.zeros(sequences, channels, dtype=dtype)
    return initial_state.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def offsets_of(x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Row offsets int64 [N + 1] of the sequences in x [B, T, ...]."""
    batch, time = x.shape[:2]
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * time
    offsets = cu_seqlens.numpy().astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != time or (np.diff(offsets) < 0).any():
        raise ValueError(f"cu_seqlens must rise from 0 to T = {time}, got {offsets.tolist()}")
    return offsets


def use_threads() -> int:
    """Lets numba use the threads that torch may use: a process of several on one machine is given its share that way."""
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    return threads


def block_width(batch: int, span: int, cu_seqlens: Tensor | None) -> int:
    """Channels of a block: all, if there are sequences enough of equal length, otherwise about as many as give each thread one.

    Compilers may round the vectorised part of a loop and its remainder differently. So that an element falls into the same
    part wherever blocks begin, they begin at multiples of a whole vector.
    """
    threads = use_threads()
    if cu_seqlens is None and (batch % threads == 0 or batch >= 4 * threads):
        return max(1, span)
    return max(1, -(-span // (threads * BLOCK))) * BLOCK
