"""The drains of one node's children. All instances of the node have the same ones; see `gossip`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from hierarchy.gossip import Board
from hierarchy.registry import Registry, drain_key
from hierarchy.registry.drain import Drain
from hierarchy.wire.record import Record

TOPIC = "drain"
ENDED_S = 30 * 86400.0  # for which it is kept that a drain has ended: an instance that was away still has the drain
log = logging.getLogger("hierarchy.drain")


class Drains:
    """Begins and ends drains, logs each change once, and restores them after a restart.

    now: Unix seconds.
    """

    def __init__(self, registry: Registry, board: Board, now: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._board = board
        self._now = now
        for record in board.subscribe(TOPIC, self._changed):
            if not record.ended and (drain := _decoded(record)) is not None:
                registry.set_drain(record.key, drain)
                log.info("%s is still drained %s", record.key, drain)

    def keys(self, name: str) -> list[str]:
        """What the name in a path means: `drain_key` of a child, or the group of a replicated one. Empty: nothing.

        A child that left, or that was drained before it came, can be drained and undrained as well.
        """
        if not name:  # the group of all that are not replicated
            return []
        known = [*self._registry, *self._registry.departed.values()]
        if name in self._registry.drained or any(child.group == name for child in known):
            return [name]
        return [drain_key(child) for child in known if child.name == name][:1]

    def drain(self, key: str, by: str, reason: str) -> Drain:
        """Drain a child. Again: only a new reason is recorded. Returns the drain."""
        before = self._registry.drained.get(key)
        if before is not None and reason in ("", before.reason):
            return before
        drain = Drain(before.since if before is not None else self._now(), by, reason)
        self._board.publish(TOPIC, key, msgspec.to_builtins(drain))
        return drain

    def undrain(self, key: str, by: str, reason: str) -> None:
        """End a drain, also one of another instance that this one does not know yet."""
        until_ms = int((self._now() + ENDED_S) * 1000)
        drain = msgspec.to_builtins(Drain(self._now(), by, reason))
        self._board.publish(TOPIC, key, drain, ended=True, until_ms=until_ms)

    async def keep(self) -> bool:
        """Write the drains to this node's file. Returns whether they outlast a restart of this node."""
        return await self._board.save()

    def _changed(self, record: Record, from_other: bool) -> None:
        """Apply a record of this node or of another instance."""
        drain, before = _decoded(record), self._registry.drained.get(record.key)
        if drain is None:
            return
        self._registry.set_drain(record.key, None if record.ended else drain)
        source = " (from another instance)" if from_other else ""
        if not record.ended:
            if before is not None and (before.by, before.reason) == (drain.by, drain.reason):
                return  # the node above sent the command to each instance
            log.info("%s is drained %s", record.key, f"{drain}{source}")
        elif before is not None:
            why = f": {drain.reason}" if drain.reason else ""
            log.info("%s is undrained %s", record.key, f"by {drain.by or 'an operator'}{why}{source}")


def _decoded(record: Record) -> Drain | None:
    try:
        return msgspec.convert(record.value, Drain)
    except msgspec.ValidationError as error:
        log.warning("the drain of %s is not understood: %s", record.key, error)
        return None
