"""How the process deals with memory that was freed."""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Has the C library keep memory that was freed, for what is allocated next.

    It gives large blocks back, and the system hands out, fills with zeros and maps anew, page by page, what replaces them: that
    takes several times as long as to write it.
    """
    with contextlib.suppress(AttributeError):
        allocator = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3
        allocator(trim_threshold, -1)
        allocator(mmap_threshold, 2**31 - 1)
