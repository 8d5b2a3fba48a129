"""One setting of the C library's allocator, without which a long prompt costs twice the CPU.

glibc gives large blocks back to the kernel as soon as they are free, and the next body of a few hundred KB is faulted
in again, page by page. A relay frees and takes such blocks with every long prompt, so it keeps some.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 8 * 1024 * 1024  # of free memory, beyond which it goes back to the kernel
GROWN_BYTES = 1024 * 1024  # taken from the kernel at once
MAPPED_BYTES = 4 * 1024 * 1024  # a block of this size is mapped by itself, and given back when it is free


def keep_freed_memory() -> bool:
    """Apply the setting to this process, where its C library has it. Environment variables that say otherwise win."""
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    wanted = ((_M_TRIM_THRESHOLD, KEPT_BYTES), (_M_TOP_PAD, GROWN_BYTES), (_M_MMAP_THRESHOLD, MAPPED_BYTES))
    return [mallopt(option, value) for option, value in wanted] == [1, 1, 1]
