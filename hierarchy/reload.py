"""A changed configuration of a running node: read and checked completely, then applied at once, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from hierarchy.config.address import Address, join_address
from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.node import Node
from hierarchy.runtime.files import FileWatch
from hierarchy.runtime.log_file import LogFile

READ_LATE_S = 60.0  # for reading and checking a configuration; a large tree takes seconds of processor time
CHECK_INTERVAL_S = 1.0  # between two checks of the file
FIXED_FIELDS = ("name", "listen", "advertise", "admin", "link", "replica_of")
FIXED_SECRETS = ("proxy",)  # not shown, since a proxy's URL may contain a password
# The content of the files that these settings name may change at any time.
FIXED_SETTINGS = ("security", "tls")
log = logging.getLogger("hierarchy.reload")


class Reloader:
    """Watches the configuration file of a node, by polling (see `FileWatch`).

    A changed file is read at the first check at which it has not changed further.
    """

    def __init__(
        self,
        node: Node,
        path: Path,
        read: Callable[[], NodeConfig],
        current: NodeConfig,
        *,
        check_interval_s: float = CHECK_INTERVAL_S,
    ) -> None:
        """
        Args:
            read: returns the node's configuration from the file, or raises UsageError; called in a thread.
            current: the present configuration of the node.
        """
        self._node = node
        self.path = path
        self._read = read
        self._current = current
        self._check_interval_s = check_interval_s
        self._watch = FileWatch(path)
        self._place = node.access.disk.file(path, "changes of it are not applied")
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Read the file now, even if it has not changed (SIGHUP)."""
        self._requested.set()

    async def run(self) -> None:
        """Reload until cancelled."""
        pending = False  # the file had changed at the last check, and may still be being written
        while True:
            try:
                await asyncio.wait_for(self._requested.wait(), self._check_interval_s)
            except TimeoutError:
                try:
                    changed = await self._place.run(self._watch.changed)
                except TimeoutError:  # the log has it already
                    continue
                if changed or not pending:
                    pending = changed
                    continue
            self._requested.clear()
            pending = False
            await self.reload()

    async def reload(self) -> bool:
        """Read and apply the configuration. Returns False, and logs why, if it cannot be applied."""
        try:
            config, engine_keys = await self._place.run(self._read_all, READ_LATE_S)
            self._check_fixed(config)
        except (UsageError, TimeoutError) as error:
            problem = error.strerror if isinstance(error, TimeoutError) else error
            log.error("%s is not applied, the old configuration stays in force: %s", self.path, problem)
            return False
        self._node.access.engine_keys = engine_keys
        changes = await self._node.apply(config)
        self._current = config
        log.info("%s was read again: %s", self.path, ", ".join(changes) or "nothing changed for this node")
        return True

    def _read_all(self) -> tuple[NodeConfig, dict[str, str]]:
        """The configuration, and the keys of its engines. Blocks."""
        self._watch.changed()  # so that the next check does not report the version that is read now
        config = self._read()
        return config, self._node.access.read_engine_keys(config)

    def _check_fixed(self, config: NodeConfig) -> None:
        """Raise `UsageError` if a setting changed that a running node cannot apply."""
        for field in FIXED_FIELDS:
            old, new = getattr(self._current, field), getattr(config, field)
            if old != new:
                raise UsageError(f"{field} changed from {_shown(old)} to {_shown(new)}; restart this node to apply it")
        changed = [field for field in FIXED_SECRETS if getattr(self._current, field) != getattr(config, field)]
        old, new = self._current.settings, config.settings
        changed += [field for field in FIXED_SETTINGS if getattr(old, field) != getattr(new, field)]
        if changed:
            raise UsageError(f"{changed[0]} changed; restart this node to apply it")


async def read_files_again(node: Node, log_file: LogFile, reloader: Reloader | None) -> None:
    """What a node does at SIGHUP: it reopens its log, and reads everything that files may have changed."""
    await asyncio.to_thread(log_file.reopen_and_log)
    files = node.access.reread()
    if reloader is not None:
        reloader.request()
        files.append(str(reloader.path))
    log.info("a hangup ends nothing; read again: %s", ", ".join(files) or "no file, since this node has none")


def _shown(value: str | tuple[Address, ...] | None) -> str:
    """A value as it is in the file."""
    return ", ".join(map(join_address, value)) or "none" if isinstance(value, tuple) else value or "none"
