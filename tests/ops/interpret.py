"""Triton's interpreter, which runs kernels on a CPU. Import before any kernel."""

import os

os.environ["TRITON_INTERPRET"] = "1"

from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor


def _patch_for_numpy(tensor, *scope):
    """numpy 2.4 turns only 0-dimensional arrays into integers, Triton 3.6 keeps scalars in arrays of one element."""
    _patch(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())


interpreter._patch_lang_tensor = _patch_for_numpy
