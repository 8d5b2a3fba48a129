"""A configuration that changes while its node runs: read and checked whole, then swapped at once, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.node import Node

CHECK_S = 1.0  # between two looks at the file; it is read when two in a row saw the same change
log = logging.getLogger("hierarchy.reload")

Signature = tuple[int, int, int] | None  # of a file: when it was written, its size, its inode


class Reloader:
    """Watches one file for one node.

    read: from the file to the node's configuration, raising UsageError; called in a thread. current: what it said at
    the start.
    """

    def __init__(self, node: Node, path: Path, read: Callable[[], NodeConfig], current: NodeConfig) -> None:
        self._node = node
        self._path = path
        self._read = read
        self._current = current
        self._seen = self._signature()
        self._wanted = asyncio.Event()

    def wish(self) -> None:
        """Read it now, changed or not (SIGHUP)."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        before = self._seen
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), CHECK_S)
            except TimeoutError:
                now = self._signature()
                settled, before = now == before, now
                if now == self._seen or not settled:
                    continue
            self._wanted.clear()
            self._seen = before = self._signature()
            await self.reload()

    async def reload(self) -> bool:
        """Returns whether the new configuration is in force."""
        try:
            config = await asyncio.to_thread(self._read)
            self._refuse_unchangeable(config)
            self._node.access.load_engine_keys(config)
        except UsageError as error:
            log.error("%s is not taken over, the old configuration stays in force: %s", self._path, error)
            return False
        done = self._node.apply(config)
        self._current = config
        log.info("%s was read again: %s", self._path, ", ".join(done) or "nothing changed for this node")
        return True

    def _refuse_unchangeable(self, config: NodeConfig) -> None:
        for field in ("name", "listen", "advertise", "admin", "link", "proxy", "replica_of"):
            old, new = getattr(self._current, field), getattr(config, field)
            if old != new:
                raise UsageError(f"{field} changed from {old!r} to {new!r}, which needs a restart of this node")
        for field in ("security", "tls"):  # what the files that they name hold may change at any time
            if getattr(self._current.settings, field) != getattr(config.settings, field):
                raise UsageError(f"{field} changed, which needs a restart of this node")

    def _signature(self) -> Signature:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
