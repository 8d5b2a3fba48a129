"""How many connections the probes of one node may have, so that requests never lack descriptors because of them."""

from __future__ import annotations

import errno
import logging
from typing import Final

#: Of the limit of open files. Up to this, a connection is kept from one probe to the next.
KEPT_SHARE: Final = 0.5
#: Up to this there may be connections at all: those of engines that do not answer stay open for long. Of the rest a
#: process with the lowest usual limit, 256, has 40 open anyway, and requests need two each.
MOST_SHARE: Final = 0.625
log = logging.getLogger("hierarchy.health")


class ProbeSockets:
    """Counts them, by who has one."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: of this process's open files.
        """
        self._limit = limit
        self._holders: set[object] = set()
        self._is_logged = False

    def __len__(self) -> int:
        return len(self._holders)

    def take(self, holder: object) -> None:
        """`holder` opens a connection in place of the one that it had, if any. Raises OSError if there are too many."""
        if len(self._holders) >= MOST_SHARE * self._limit and holder not in self._holders:
            self._log()
            raise OSError(errno.EMFILE, "this node has as many connections for probes as its descriptors allow")
        self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Its connection is closed, if it had one."""
        self._holders.discard(holder)

    @property
    def are_scarce(self) -> bool:
        """Shall a connection be closed after its probe?"""
        if len(self._holders) <= KEPT_SHARE * self._limit:
            return False
        self._log()
        return True

    def _log(self) -> None:
        if not self._is_logged:
            self._is_logged = True
            log.warning(
                "probes of so many engines take half of the %d files that may be open: the others are connected for "
                "each probe anew; raise the limit (ulimit -n, LimitNOFILE)",
                self._limit,
            )

    def __repr__(self) -> str:
        return f"<ProbeSockets {len(self._holders)} of {self._limit}>"
