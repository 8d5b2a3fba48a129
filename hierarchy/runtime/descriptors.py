"""This process's file descriptors: their limit, how many are free, and what happens before none is left.

The kernel gives each new socket the lowest free number. So the number of the newest socket shows, at no cost, how many
descriptors are in use at least; and once it is above a mark, that all below the mark are in use.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable

#: more is of no use, and programs that close all possible descriptors take seconds with a limit of a billion
HIGHEST = 1 << 20
FALLBACKS = (1 << 16, 10_240, 4096)  # where the kernel has a lower limit than the hard one: macOS has OPEN_MAX, 10240
RESERVED_SHARE, LEAST_RESERVED, MOST_RESERVED = 8, 32, 1024


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as far as the kernel allows. Returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = HIGHEST if hard == resource.RLIM_INFINITY else min(hard, HIGHEST)
    if soft != resource.RLIM_INFINITY:
        for wanted in (highest, *FALLBACKS):
            if soft < wanted <= highest and _allows(wanted, hard):
                break
    return limit()


def _allows(soft: int, hard: int) -> bool:
    """Set the limits of this process. Returns False if the kernel does not allow it."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (ValueError, OSError):
        return False
    return True


def set_soft_limit(pid: int, soft: int) -> None:
    """Set the soft limit of another process, where the kernel can (Linux).

    A process inherits a limit that was raised; programs that use `select` break with descriptors above 1,023.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def limit() -> int:
    """The soft limit of open files."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return HIGHEST if soft == resource.RLIM_INFINITY else soft


class Descriptors:
    """What is left of the limit.

    Clients and links may use all but a reserve. Half of the reserve is for connections to children; the other half for
    files, probes and engines.
    """

    def __init__(self, limit: int) -> None:
        reserve = min(MOST_RESERVED, max(LEAST_RESERVED, limit // RESERVED_SHARE))
        self.limit = limit
        self.for_clients = max(1, limit - reserve)  # the number from which on a descriptor is not for a client
        self.for_children = max(1, limit - reserve // 2)
        self.for_idle = max(1, limit - 2 * reserve)  # beyond, no connection to a child is kept that is not in use
        self.newest = 0  # number of the newest socket
        self.givers: list[Callable[[], object]] = []  # each closes what is needed least

    @property
    def are_scarce(self) -> bool:
        """Shall a connection to a child be closed as soon as it is idle?"""
        return self.newest >= self.for_idle

    @property
    def free(self) -> int:
        """How many more clients and links there may be, as far as the newest socket shows."""
        return max(0, self.for_clients - self.newest)

    def make_room(self) -> None:
        """Close what is needed least. The descriptors are free in the next turn of the event loop."""
        for give in self.givers:
            give()

    def note(self, number: int) -> None:
        """A new socket has this number. Makes room if clients have all that they may have."""
        self.newest = number
        if number >= self.for_clients:
            self.make_room()

    def __repr__(self) -> str:
        return f"<Descriptors newest={self.newest} limit={self.limit}>"
