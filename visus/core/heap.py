"""Memory for processes that would spend much of their time on page faults: one that reads a large model, answers and
ends, and one that decodes images all day."""

from __future__ import annotations

import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MOST = 2**31 - 1  # of its int
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
_MOST_KEPT = 32 << 20  # bytes: the largest threshold that every glibc takes


def reserve_heap(size: int) -> bool:
    """Let malloc serve the next `size` bytes from one range of huge pages, and keep what is freed for what comes next:
    a page fault for each 2 MiB in place of one for each 4 KiB, and no new pages where a copy replaces a copy. Only
    addresses are taken; memory that is not written to costs nothing.

    For processes that end soon, as nothing is given back before. False where this C library (glibc has it) or this
    system does not do that, or where `size` is below 16 MiB and not worth it.
    """
    libc = _glibc() if size >= 16 << 20 else None
    if libc is None:
        return False
    import ctypes

    mallopt, sbrk, malloc, free, madvise = libc.mallopt, libc.sbrk, libc.malloc, libc.free, libc.madvise
    sbrk.restype, sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not (mallopt(_MMAP_THRESHOLD, _MOST) and mallopt(_TRIM_THRESHOLD, _MOST)):
        return False
    start = sbrk(0)
    free(malloc(min(size, _MOST)))  # the heap has grown, and keeps what is freed
    first, last = -(-start // _HUGE_PAGE) * _HUGE_PAGE, sbrk(0)
    return last > first and madvise(first, last - first, _MADV_HUGEPAGE) == 0


def keep_heap() -> bool:
    """Let malloc keep what is freed for what comes next, in blocks of up to 32 MiB: an image of 500 x 375 is decoded
    and resized in two thirds of the time. For processes that do the same again and again; each of their threads may
    keep up to 64 MiB. False where this C library does not do that."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_MMAP_THRESHOLD, _MOST_KEPT)
                                     and libc.mallopt(_TRIM_THRESHOLD, 2 * _MOST_KEPT))


def _glibc() -> Any:
    """The C library of this process; None where it is another, whose mallopt does nothing."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None)
    try:
        libc.gnu_get_libc_version  # noqa: B018
        libc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    except AttributeError:
        return None
    return libc
