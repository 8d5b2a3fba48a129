"""Pings to the child nodes that this node dials, which measure how far away they are.

Engines are probed and reverse links pinged anyway. A node that is dialled reports by itself, so nothing but requests
would ever go to it, and their time is the engine's. A ping goes over an idle connection, or over a new one that is kept
like one of a request. A child that does not respond loses nothing: whether it lives is judged by its reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import Child
from hierarchy.relay.lane import Lane
from hierarchy.relay.upstream.connection import ResponseHandler, Upstream
from hierarchy.relay.upstream.pool import Pool

EVERY_S: Final = 10.0  # between two pings to a child
LATE_S: Final = 5.0  # after this time a ping is given up, with its connection
AT_ONCE: Final = 64  # pings that begin in one sweep


class Ping(ResponseHandler):
    """One ping, on a connection that carries nothing else meanwhile."""

    def __init__(self, child: Child, upstream: Upstream, clock: Callable[[], float]) -> None:
        self.upstream = upstream
        self.sent_at = clock()
        self.is_over = False
        self._child = child
        self._clock = clock

    def response_started(self, response: UpstreamResponse) -> None:
        """The child has responded, whatever it responds."""
        now = self._clock()
        self._child.round_trip.note(now - self.sent_at, now)

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        """Nothing of interest."""

    def response_ended(self, response: UpstreamResponse) -> None:
        """The connection is idle again."""
        self.is_over = True

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        """Both at once."""
        self.response_started(response)
        self.response_ended(response)

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        """No sample."""
        self.is_over = True


class Pings:
    """The pings of one node. clock: monotonic seconds."""

    def __init__(self, lane: Lane, clock: Callable[[], float]) -> None:
        self._lane = lane
        self._clock = clock
        self._due: dict[Child, float] = {}  # when each child is pinged next
        self._open: dict[Child, Ping | None] = {}  # None while a connection is being made

    def sweep(self) -> None:
        """Call it twice a second: begin pings that are due, give up those that are late."""
        now = self._clock()
        for child, ping in list(self._open.items()):
            if ping is not None and (ping.is_over or now - ping.sent_at >= LATE_S):
                del self._open[child]
                if not ping.is_over:
                    ping.upstream.abort()
        children = [child for child in self._lane.registry if child.is_node and not child.reverse]
        self._due = {child: self._due.get(child, now) for child in children}
        begun = 0
        for child in children:
            if begun < AT_ONCE and now >= self._due[child] and child not in self._open and child.available(now):
                self._due[child] = now + EVERY_S
                self._begin(child)
                begun += 1

    def _begin(self, child: Child) -> None:
        pool = self._lane.pool(child)
        upstream = pool.take(self._clock())
        if upstream is not None:
            self._send(child, pool, upstream)
        else:
            self._open[child] = None
            self._lane.spawn(self._dial(child, pool), f"ping to {child.name}")

    async def _dial(self, child: Child, pool: Pool) -> None:
        try:
            upstream = await pool.dial()
        except OSError:  # requests that need the child find out the same, and say so
            self._open.pop(child, None)
        except asyncio.CancelledError:
            self._open.pop(child, None)
            raise
        else:
            self._send(child, pool, upstream)

    def _send(self, child: Child, pool: Pool, upstream: Upstream) -> None:
        ping = self._open[child] = Ping(child, upstream, self._clock)
        upstream.send(ping, pool.ping, [], 0)

    def __repr__(self) -> str:
        return f"<Pings children={len(self._due)} open={len(self._open)}>"
