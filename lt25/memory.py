"""Settings of the C library's memory allocator."""

import contextlib
import ctypes


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
