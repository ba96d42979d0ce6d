"""Memory for a process that reads one large model, answers and ends: half of its time goes to page faults otherwise."""

from __future__ import annotations

import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MOST = 2**31 - 1  # of its int
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20


def reserve_heap(size: int) -> bool:
    """Let malloc serve the next `size` bytes from one range of huge pages, and keep what is freed for what comes next:
    a page fault for each 2 MiB in place of one for each 4 KiB, and no new pages where a copy replaces a copy. Only
    addresses are taken; memory that is not written to costs nothing.

    For processes that end soon, as nothing is given back before. False where this C library (glibc has it) or this
    system does not do that, or where `size` is below 16 MiB and not worth it.
    """
    if size < 16 << 20 or not sys.platform.startswith("linux"):
        return False
    import ctypes

    libc = ctypes.CDLL(None)
    try:
        mallopt, sbrk, malloc, free, madvise = libc.mallopt, libc.sbrk, libc.malloc, libc.free, libc.madvise
        libc.gnu_get_libc_version  # noqa: B018  others have a mallopt that does nothing
    except AttributeError:
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    sbrk.restype, sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not (mallopt(_MMAP_THRESHOLD, _MOST) and mallopt(_TRIM_THRESHOLD, _MOST)):
        return False
    start = sbrk(0)
    free(malloc(min(size, _MOST)))  # the heap has grown, and keeps what is freed
    first, last = -(-start // _HUGE_PAGE) * _HUGE_PAGE, sbrk(0)
    return last > first and madvise(first, last - first, _MADV_HUGEPAGE) == 0
