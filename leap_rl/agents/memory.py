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
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" and not chosen else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
