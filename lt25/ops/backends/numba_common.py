"""Shared by the operators' numba kernels: compiler options, vectorizable exp and sigmoid, tensors as rows, threads."""

import math
import os
from pathlib import Path

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


def _use_whole_registers() -> None:
    """Let loops use 512-bit registers where the CPU has them; LLVM avoids them by default.

    To be called before anything else of numba: its compiler is set up once, by the question where kernels are kept, too.
    """
    features = get_host_cpu_features()
    if numba.config.CPU_FEATURES is None and "+avx512vl" in features:
        numba.config.CPU_FEATURES = f"{features},-prefer-256-bit"


_use_whole_registers()


def _can_cache() -> bool:
    """Tell whether numba finds a folder for compiled kernels: the package's own, the user's, or NUMBA_CACHE_DIR."""
    if not (numba.config.CACHE_DIR or os.access(Path(__file__).parent, os.W_OK)):
        try:
            Path.home()
        except RuntimeError:
            return False  # numba would make a folder called "~" where the program stands
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


# "contract" only allows a*b+c as one instruction. Reassociation would break `exp`, and other flags assume that there is no NaN.
JIT = {"fastmath": {"contract"}, "error_model": "numpy", "cache": _can_cache(), "nogil": True}
# For sums over a row: they vectorize only if the compiler may reorder them. The order is fixed when the kernel is compiled.
JIT_SUM = {**JIT, "fastmath": {"contract", "reassoc"}}

# Rows of one work item. A gradient summed over rows is summed item by item, so this size affects rounding. It is fixed, so that
# the result does not depend on the number of threads.
ROWS = 64
# Bytes of a cache line.
LINE = 64
# How many rows ahead of their use rows are prefetched.
AHEAD = 8
# The channels of a block are a multiple of this. Threads that write closer to each other share cache lines, because processors
# fetch adjacent lines too: two threads on 32 channels each are slower than one on all 64.
BLOCK = 128


def _start_threads() -> None:
    """Start numba's threads and restore torch's thread count, which that changes: both share one OpenMP library."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


keep_freed_memory()
_start_threads()


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a * b + c, in one instruction where the CPU has it.

    In a sum of two products it fixes which one is rounded first. The compiler's own choice varies, and a kernel loaded from
    numba's cache could then differ from the one that ran in the process that compiled it.
    """

    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        function = ir.FunctionType(kind, [kind] * 3)
        name = f"llvm.fmuladd.f{signature.return_type.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    return a(a, a, a), generate


def exp(v):
    """exp(v), for use in kernels. For float32 it contains no function call, so that loops around it vectorize.

    0 below -87, where the result would no longer be a normal float32 number.
    """
    return math.exp(v)


def bounded_exp(v):
    """exp(v) with v clamped so that the result and its reciprocal are normal numbers; for use in kernels."""
    return math.exp(max(-700.0, min(v, 700.0)))


@njit(**JIT)
def _exp_within(v):
    """exp(v) for -87 <= v <= 87, exactly 1 at 0, relative error below 2e-7.

    With v = (n + r) log 2 and |r| <= 1 / 2, exp(v) = 2**n * 2**r. A polynomial approximates 2**r: of its degree, with value 1 at
    0, it has the smallest maximal relative error, 9.1e-8. n is added to the exponent bits of its value.
    """
    f = np.float32
    # log2(e) in two parts: rounded to float32, and the remainder.
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


def widened(v):
    """An element as its number, for use in kernels: bfloat16, which numba does not know, comes as its 16 bits and is float32."""
    raise NotImplementedError


def put(row, d, value):
    """row[d] = value, for use in kernels; in a row of bfloat16's bits the nearest one, of two equally near the even one."""
    raise NotImplementedError


@overload(widened, inline="always")
def _widened(v):
    if v != types.uint16:
        return lambda v: v
    return lambda v: np.uint32(np.uint32(v) << np.uint32(16)).view(np.float32)


@njit(**JIT)
def _bits(value):
    """The bits of the nearest bfloat16: those of float32, of which half of the last place that is kept is added and the rest cut.

    NaN would become infinite by that.
    """
    # numba makes 64 bits of what integers of 32 give, which would halve the elements of a register.
    bits = np.float32(value).view(np.uint32)
    last = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    nearest = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + last)
    return np.uint16(np.uint32((nearest if value == value else np.uint32(0x7FC00000)) >> np.uint32(16)))


# Not inlined by numba, which would then no longer see that the index is not negative.
@overload(put)
def _put(row, d, value):
    if row.dtype != types.uint16:

        def put(row, d, value):
            row[d] = value
    else:

        def put(row, d, value):
            row[d] = _bits(value)

    return put


@njit(**JIT)
def sigmoid(v):
    """1 / (1 + exp(-v)), in v's precision."""
    one = type(v)(1)
    return one / (one + bounded_exp(-v))


@njit(**JIT)
def gates(f, bound):
    """f' = bound + (1 - bound) sigmoid(f), 1 - f', sigmoid(f) and sigmoid(-f), computed without cancellation.

    Near 1, f' is computed from 1 - f', because its last digits decide how long the state is kept. Near 0 it is computed directly,
    so that a gate that clears the state is exactly 0.
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
    """Prefetch the cache line of an element, which may lie outside the array."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte_pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, integer, integer, integer])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # For reading, with the highest temporal locality, into the data cache.
        options = [ir.Constant(integer, each) for each in (0, 3, 1)]
        builder.call(prefetch, [builder.bitcast(builder.gep(data, [arguments[1]]), byte_pointer), *options])
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


@njit(forceinline=True, **JIT)
def fetch(row):
    """Prefetch a row [D] that will be read soon. The row may lie outside the array; a prefetch never faults.

    Processors prefetch long contiguous accesses by themselves. They do not where only a part of each row is read, or where rows
    are read backward.
    """
    for d in range(0, len(row), LINE // row.itemsize):
        _fetch_line(row, d)


@njit(**JIT_SUM)
def dot(a, b):
    """The dot product of two vectors, in the precision that kernels compute in."""
    total = widened(a[0]) * widened(b[0])
    for d in range(1, len(a)):
        total += widened(a[d]) * widened(b[d])
    return total


def stored_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which kernels read and write elements of x: its own, but for float16, which is copied to float32."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def rows(tensor: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """A tensor [..., D] as a numpy array [-1, D], copied only if the dtype or the layout requires it; of bfloat16 its bits."""
    tensor = tensor.detach().to(dtype).contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy().reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def vector(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A copy of a parameter [D] for numpy: sharded training resizes parameters, which torch forbids once numpy shares memory."""
    return tensor.detach().to(dtype, copy=True).numpy()


def mask_rows(mask: Tensor | None) -> np.ndarray:
    """A mask [B, T] as a flag for each row; an empty array for None, for which numba would compile each kernel again."""
    return np.empty(0, np.bool_) if mask is None else mask.contiguous().numpy().reshape(-1)


def initial(initial_state: Tensor | None, sequences: int, channels: int, dtype: torch.dtype) -> Tensor:
    """A new tensor [N, D] with the initial state, or zeros, that a kernel may overwrite."""
    if initial_state is None:
        return torch.zeros(sequences, channels, dtype=dtype)
    return initial_state.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def offsets_of(x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Row offsets int64 [N + 1] of the sequences in x [B, T, ...].

    Raises:
        ValueError: boundaries that do not rise from 0 to T.
    """
    batch, time = x.shape[:2]
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * time
    offsets = cu_seqlens.numpy().astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != time or (np.diff(offsets) < 0).any():
        raise ValueError(f"cu_seqlens must rise from 0 to T = {time}, got {offsets.tolist()}")
    return offsets


def use_threads() -> int:
    """Let numba use as many threads as torch, whose number limits each process where several share a machine.

    Returns:
        The number of threads.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    return threads


def block_width(batch: int, span: int, cu_seqlens: Tensor | None) -> int:
    """Channels of a block: all if there are enough sequences of equal length, otherwise about one block for each thread.

    A compiler may round the vectorized part of a loop and its remainder differently. Blocks begin at multiples of a vector, so
    that each element is in the same part whatever the block width.
    """
    threads = use_threads()
    if cu_seqlens is None and (batch % threads == 0 or batch >= 4 * threads):
        return max(1, span)
    return max(1, -(-span // (threads * BLOCK))) * BLOCK
