"""Descriptors 0, 1 and 2 of a process that was started without some of them, as by `hierarchy serve >&- 2>&-`.

The system gives the next file or socket the lowest free number. So a client's connection could be number 2, to which
log lines are written.
"""

from __future__ import annotations

import os
import sys

#: how /dev/null takes the place of each: reading finds the end, output is refused as by the closed descriptor, since a
#: command must not say that it printed something, and log lines are dropped
MODES = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)


def open_closed() -> None:
    """Called first of all, before anything else is opened."""
    for fd, mode in enumerate(MODES):
        if not _is_open(fd):
            os.set_inheritable(os.open(os.devnull, mode), True)  # of the lowest number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as Python leaves it open
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
