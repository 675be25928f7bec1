"""A kernel to compile; Triton reads it from its file."""

import triton
import triton.language as tl


@triton.jit
def add(x, value, BLOCK: tl.constexpr):
    at = x + tl.arange(0, BLOCK)
    tl.store(at, tl.load(at) + value)
