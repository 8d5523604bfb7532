"""How a process that lives long, and holds and copies much, keeps its memory."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["keep_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_IN_HEAP = 32 << 20
"""The most that glibc takes for M_MMAP_THRESHOLD, in bytes."""
KEPT_FREE_BYTES = 64 << 20


def keep_memory() -> None:
    """Leave alone what the start made, look for garbage less often, and keep freed memory for the next value.

    The last is glibc's alone: by default it gives blocks of megabytes back to the kernel, and then takes a page fault
    for every 4 KiB of the next one, which costs more than the copy that fills it. Source: mallopt(3).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
