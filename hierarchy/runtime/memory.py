"""How much memory this process may use: the machine's, or that of its container."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

UNKNOWN_BYTES = 8 << 30  # where the system does not say
#: files with the limit of a container, by cgroups of version 2 and 1
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@functools.cache
def memory_bytes() -> int:
    """The memory of this machine, or the limit of the container if that is lower."""
    found = [limit for path in LIMITS if (limit := _read(Path(path)))]
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min((bytes_ for bytes_ in found if bytes_ > 0), default=UNKNOWN_BYTES)


def _read(path: Path) -> int:
    """A number in a file; 0 for none, or for `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
