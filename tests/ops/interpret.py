"""Triton's interpreter, which runs kernels on a CPU. Import before any kernel."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import inspect
from dataclasses import replace
from functools import cache

import numpy as np
import triton
from triton.language import core
from triton.language.semantic import TritonSemantic
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

    It is ready since the launch, and since the first call of them for what Triton's own kernels, such as `tl.sum`, see of it.
    """
    if function.fn.__module__.startswith("triton.") and core.is_builtin(core.load):
        return _call(function, *arguments, **options)
    return function.rewrite()(*arguments, **options)


interpreter.InterpretedFunction.__call__ = _call_without_preparation


@cache
def _builtins(package):
    """The names of a package's functions that Triton replaces for the time of a launch; looking for them takes long."""
    return [name for name, member in inspect.getmembers(package) if core.is_builtin(member)]


def _patch_builtins(package, builder, scope):
    for name in _builtins(package):
        member = getattr(package, name)
        # Within a launch they are replaced already.
        if core.is_builtin(member):
            interpreter._patch_attr(package, name, member, builder, scope)


interpreter._patch_builtin = _patch_builtins

_get_np_dtype, _np_dtypes = interpreter._get_np_dtype, {}


def _get_np_dtype_once(dtype):
    """Triton makes a table of all types each time that it looks one up."""
    name = dtype.scalar.name
    if name not in _np_dtypes:
        _np_dtypes[name] = _get_np_dtype(dtype)
    return _np_dtypes[name]


interpreter._get_np_dtype = _get_np_dtype_once

_type_of, _types = core._type_for_tuple_values, {}


def _type_once(values, fields=None):
    """Every shape is a tuple, of which Triton makes a type, whose name it writes out."""
    numbers = tuple(getattr(each, "value", each) for each in values)
    if fields or not all(type(each) is int for each in numbers):
        return _type_of(values, fields)
    if numbers not in _types:
        _types[numbers] = _type_of(values)
    return _types[numbers]


core._type_for_tuple_values = _type_once

_make_block, _blocks = triton.language.block_type.__init__, {}


def _block_once(block, element_ty, shape):
    """Nearly every operation makes the type of its result, which writes out its name, too."""
    key = element_ty.name, *(getattr(each, "value", each) for each in shape)
    if key not in _blocks:
        _make_block(block, element_ty, shape)
        _blocks[key] = dict(vars(block))
    vars(block).update(_blocks[key])


triton.language.block_type.__init__ = _block_once

_make_tensor, _shapes = triton.language.tensor.__init__, {}


def _tensor_of_shape(tensor, handle, type):
    """The shape of a tensor is a tuple of numbers, which Triton makes for each anew and only reads."""
    key = tuple(type.shape.values) if type.is_block() else ()
    if key not in _shapes:
        _make_tensor(tensor, handle, type)
        _shapes[key] = tensor.shape, tensor.numel
    tensor.handle, tensor.type, tensor.dtype = handle, type, type.scalar
    tensor.shape, tensor.numel = _shapes[key]


triton.language.tensor.__init__ = _tensor_of_shape

_broadcast = TritonSemantic.broadcast_impl_value


def _broadcast_shapes(semantic, one, other):
    """Most tensors that meet have the same shape: there is nothing to compare number by number."""
    return (one, other) if one.shape is other.shape else _broadcast(semantic, one, other)


TritonSemantic.broadcast_impl_value = _broadcast_shapes
# Triton makes a tuple without constants of the other one first, of which it compares the numbers alone.
core.tuple.__eq__ = lambda one, other: triton.language.constexpr(one.values == list(other))


def _scan_rows(scan, tensors):
    """Combine whole rows with the next, where Triton combines one element at a time."""
    rows = [np.moveaxis(each.handle.data, scan.axis, 0) for each in tensors]
    results = [[each[0]] for each in rows]
    for at in range(1, len(rows[0])):
        two = ([each[-1] for each in results], [each[at] for each in rows])
        given = [scan.to_tensor(data, each.dtype) for side in two for data, each in zip(side, tensors, strict=True)]
        combined = scan.combine_fn.fn(*given)
        for result, each in zip(results, combined if isinstance(combined, tuple) else (combined,), strict=True):
            result.append(each.handle.data.reshape(result[0].shape))
    return [
        scan.to_tensor(np.stack(result, scan.axis), each.dtype) for result, each in zip(results, tensors, strict=True)
    ]


interpreter.ScanOps.generic_scan = _scan_rows


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
