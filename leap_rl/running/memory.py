"""Memory that one update frees, kept for the next."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MOST_KEPT = 1 << 30
LARGEST_KEPT = 32 << 20  # glibc takes no more


def keep_freed_memory() -> None:
    """
    Ask glibc to keep freed memory, at most 1 GiB at the end of the heap.

    An update on images takes and frees tens of megabytes. By default glibc gives them back to the kernel each time,
    which maps the same pages and fills them with zeros at the next: some hundred page faults per step of training,
    a tenth to a fifth of its time. This is of the whole process, and changes no result. Who has set ``MALLOC_*`` or
    ``GLIBC_TUNABLES`` has chosen otherwise, and other C libraries have nothing of the kind: then nothing is done.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


def give_back_freed_memory() -> None:
    """
    Give back what is free now, once, where ``keep_freed_memory`` keeps it. What small and lasting things leave of a gap
    no longer holds a large one, so that a heap from which nothing is ever given back grows for hours.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and its user left the choice to us."""
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or chosen:
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
