"""Triton's interpreter, which runs kernels on a CPU. Import before any kernel."""

import os

os.environ["TRITON_INTERPRET"] = "1"

from dataclasses import replace

import numpy as np
import triton
from triton.runtime import interpreter

# A check of every integer operation, whose result only a debugger would see.
interpreter.interpreter_builder.options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)

_patch = interpreter._patch_lang_tensor


def _patch_for_numpy(tensor, *scope):
    """numpy 2.4 turns only 0-dimensional arrays into integers, Triton 3.6 keeps scalars in arrays of one element."""
    _patch(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())


interpreter._patch_lang_tensor = _patch_for_numpy


_call = interpreter.InterpretedFunction.__call__


def _call_without_preparation(function, *arguments, **options):
    """Triton prepares triton.language anew for each call from kernel to kernel, which takes most of the time here.

    It is ready since the launch, but for what Triton's own kernels, such as `tl.sum`, see of it.
    """
    if function.fn.__module__.startswith("triton."):
        return _call(function, *arguments, **options)
    return function.rewrite()(*arguments, **options)


interpreter.InterpretedFunction.__call__ = _call_without_preparation


_dot = interpreter.InterpreterBuilder.create_dot


def _dot_of_bfloat16(builder, a, b, *others):
    """numpy has no bfloat16: Triton keeps its bits in integers, and would multiply these."""
    return _dot(builder, _widen(a), _widen(b), *others)


def _widen(handle):
    if handle.dtype.scalar != triton.language.bfloat16:
        return handle
    wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(wide, triton.language.float32)


interpreter.InterpreterBuilder.create_dot = _dot_of_bfloat16
