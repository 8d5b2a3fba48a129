"""Settings of the C library's allocator, without which a long prompt costs twice the CPU time.

glibc returns large blocks to the kernel when they are freed, so the next body of a few hundred KB causes a page fault
for each of its pages. A relay frees and allocates such blocks with every long prompt, so it keeps some freed memory.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
TRIM_THRESHOLD_BYTES = 8 * 1024 * 1024  # free memory above this is returned to the kernel
TOP_PAD_BYTES = 1024 * 1024  # extra memory requested from the kernel each time
MMAP_THRESHOLD_BYTES = 4 * 1024 * 1024  # such a block has a mapping of its own, returned when freed


def keep_freed_memory() -> bool:
    """Apply the settings to this process, unless MALLOC_* is set. Returns whether they were applied."""
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    settings = (
        (_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (_M_TOP_PAD, TOP_PAD_BYTES),
        (_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
    )
    return [mallopt(option, value) for option, value in settings] == [1, 1, 1]
