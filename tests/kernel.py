"""Kernels to compile; Triton reads them from their file."""

import triton
import triton.language as tl


@triton.jit
def add(x, value, BLOCK: tl.constexpr):
    at = x + tl.arange(0, BLOCK)
    tl.store(at, tl.load(at) + value)


@triton.autotune([triton.Config({"BLOCK": block}) for block in (32, 64, 128)], key=[])
@triton.jit
def tuned_add(x, value, BLOCK: tl.constexpr):
    at = x + tl.arange(0, BLOCK)
    tl.store(at, tl.load(at) + value)
