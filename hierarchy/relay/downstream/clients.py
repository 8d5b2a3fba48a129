"""All open connections of clients, and what is done to all of them at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from hierarchy.errors import ChildFailed, Unavailable
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.registry.public_name import said_of
from hierarchy.relay.downstream.connection import Connection
from hierarchy.relay.downstream.head_cache import HeadCache
from hierarchy.relay.downstream.places import Places
from hierarchy.relay.evidence import Finding, find, is_quiet
from hierarchy.relay.relief import is_doubtful, relieve

log = logging.getLogger("hierarchy.lane")


class Clients:
    """The connections on which clients and parents send requests. Each adds itself, and removes itself at its end."""

    def __init__(self, places: Places | None = None) -> None:
        self.places = places  # limits their number; None for no limit
        self.heads = HeadCache()  # of requests, as all connections have seen them
        self._open: set[Connection] = set()
        self._relieved: dict[Child, int] = {}  # requests that have left a child since it is suspect

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    def add(self, connection: Connection, number: int = -1) -> bool:
        """A connection is open. number: of its descriptor. Returns False if there are too many."""
        self._open.add(connection)
        # The links that this node dialled are as many as it wants.
        return self.places is None or connection.observer is not None or self.places.add(connection, number)

    def discard(self, connection: Connection) -> None:
        """A connection is gone, or no longer a client's."""
        self._open.discard(connection)
        if self.places is not None:
            self.places.discard(connection)

    def sweep(self, now: float) -> None:
        """Look at every deadline. Called twice a second, so a limit is enforced half a second late at most."""
        for connection in [one for one in self._open if now >= one.deadline]:
            connection.check_clock(now)

    def rescue(self, child: Child, reason: str) -> None:
        """The child is known to be dead: its requests that got no byte yet go to other children."""
        moved = sum([connection.give_up_on(child, reason) for connection in self])
        self._log_moved(child, self._relieved.pop(child, 0) + moved, f"it is taken for dead: {reason}")

    def relieve(self, registry: Registry) -> None:
        """Let requests leave the children that may be dead. Call it twice a second."""
        doubtful = [child for child in registry if child.in_flight and is_doubtful(child)]
        if doubtful or self._relieved:
            running = [connection.running for connection in self._open if connection.running is not None]
            for child in doubtful:
                self._count_moved(child, relieve(running, registry, child))
            for child in [one for one in self._relieved if one.suspect is None or one not in doubtful]:
                self._log_moved(child, self._relieved.pop(child), "it was suspect")

    def _count_moved(self, child: Child, count: int) -> None:
        """Requests have left a child: those of a suspect are logged once, when it is none any more."""
        if child.down is not None:
            self._log_moved(child, count + self._relieved.pop(child, 0), f"it is down: {child.down}")
        else:
            self._relieved[child] = self._relieved.get(child, 0) + count

    def _log_moved(self, child: Child, count: int, reason: str) -> None:
        if count:
            log.warning("%d requests that waited for %s have left it: %s", count, child.name, reason)

    def silent_connections(self, children: Iterable[Child], now: float) -> list[Finding]:
        """What the kernel knows of the children that have requests and from which nothing comes."""
        quiet = {child for child in children if is_quiet(child, now)}
        if not quiet:
            return []
        attempts = [connection.running.attempt for connection in self if connection.running is not None]
        return find([one for one in attempts if one is not None and one.child in quiet], now)

    def drop_child(self, child: Child) -> None:
        """A child is no longer one: end what it is answering."""
        for connection in self:
            connection.drop_child(child, ChildFailed(said_of(child, "was disconnected: its registration is revoked")))

    def cut_all(self) -> None:
        """The grace is over: end what still runs, with an error that its client can read."""
        for connection in self:
            connection.cut(Unavailable("this node is shutting down"))

    def __repr__(self) -> str:
        return f"<Clients {len(self)}>"
