"""Settings of the C library's memory allocator, and of Python's garbage collector."""

import contextlib
import ctypes
import gc
from collections.abc import Iterator


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for later allocations.

    By default it returns large blocks to the operating system, which must then map and zero new pages for the next allocation.
    That takes several times as long as writing the data. Does nothing where the C library has no `mallopt`.
    """
    with contextlib.suppress(AttributeError):
        allocator = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3
        allocator(trim_threshold, -1)
        allocator(mmap_threshold, 2**31 - 1)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Leave objects that refer to each other where they are for a while, even if nothing else refers to them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
