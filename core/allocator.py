"""The C library's allocator: freed memory stays with the process, or goes back to the system.

By default glibc gives buffers of some MiB back when they are freed, and the system clears them when they come again.
That was a third of the time of a slice of 256 x 256 pixels and 15 coils, and half of one of 640 x 640.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from <malloc.h>."""
LARGEST = 2**31 - 1
"""mallopt takes an int. Buffers of 2 GiB and more go back when they are freed."""


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, for all its threads; False where the C library is not glibc."""
    libc = _glibc()
    if libc is None:
        return False
    # Of glibc before 2.35 this is the largest threshold that is taken.
    taken = libc.mallopt(M_MMAP_THRESHOLD, LARGEST) or libc.mallopt(M_MMAP_THRESHOLD, 2**25)
    return bool(libc.mallopt(M_TRIM_THRESHOLD, LARGEST) and taken)


def release_freed_memory() -> bool:
    """Give memory that this process has freed back to the system; False where the C library is not glibc."""
    libc = _glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    return True


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
