"""How this process's allocator treats the buffers of clumps.

glibc maps new pages for every allocation of 128 KiB and more, such as a decoded clump. Each page
costs a page fault at its first use: a good part of the time that decompressing a clump took. With
higher thresholds glibc keeps freed memory of that size and uses the same pages again; see
docs/performance.md.
"""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_OWN_PAGES_FROM = 4 << 20
_KEPT_MAX = 1 << 30


@cache
def keep_freed_clumps() -> None:
    """Set malloc's thresholds, once in a process; does nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_MAX)
