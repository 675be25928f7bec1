"""Elementary functions for kernels, computed by the GPU's special function unit."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def exp2(v):
    """2**v for float32, relative error 2**-22; results below 2**-126 are 0."""
    if INTERPRETED:
        return tl.exp2(v)
    else:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [v], tl.float32, True, 1)


@triton.jit
def reciprocal(v):
    """1 / v for float32, relative error 2**-23; 0 for infinity."""
    if INTERPRETED:
        return 1.0 / v
    else:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [v], tl.float32, True, 1)


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)) for float32."""
    return reciprocal(1.0 + exp2(-v * LOG2_E))
