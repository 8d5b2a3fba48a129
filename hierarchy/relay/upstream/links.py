"""The parent's end of reverse links: connections that a child dialled, on which this node is the HTTP client.

A child that its parent cannot dial asks for `GET /link` with `Upgrade: hierarchy-link/1` on the parent's ordinary port,
and gets a 101. From then on the connection is in that child's ordinary pool, as if this node had dialled it.

A `LinkPool` never dials. A request that finds no idle link waits for the next one that arrives or is given back, and
each 101 contains how many wait. Idle links are pinged, since a NAT that forgot one notifies neither end. Surplus links
are closed by this end only, so that no request runs into a close.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from hierarchy.errors import NotPermitted, UnknownChild
from hierarchy.http.link_handshake import PING, LinkRequest, link_accepted
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import Child
from hierarchy.relay.turns import Turns
from hierarchy.relay.upstream.connection import ResponseHandler, Upstream
from hierarchy.relay.upstream.pool import MAX_IDLE, NODE_IDLE_S, Pool
from hierarchy.runtime import awake
from hierarchy.runtime.descriptors import Descriptors
from hierarchy.runtime.resolver import Resolver
from hierarchy.runtime.tcp_keepalive import watch_peer
from hierarchy.security.dial_guard import DialGuard

#: an idle link is pinged after this time at the latest, and dropped if the response takes longer: a dead one is found
#: within 11 s, sweeps included
PING_S, PONG_S = 5.0, 5.0
PING_FROM_S, PINGED_AT_ONCE = 2.5, 5  # from this age on a sweep pings one link in five, so that few are away at a time
#: the child drops a link on which it heard nothing for this time: two pings were lost by then
SILENT_S: Final = 11.0
LEAST_IDLE: Final = 8


def reserve_size(busy: int) -> int:
    """How many idle links there should be beside `busy` ones; both ends compute it."""
    return max(LEAST_IDLE, -(-busy // 4))


class Link(Upstream):
    """One reverse link, as the parent sees it."""

    __slots__ = ("pinged_at", "pinging", "used_at")

    def __init__(self, pool: LinkPool, now: float) -> None:
        super().__init__(pool)
        self.pinging = False  # a ping is on its way
        self.pinged_at = self.used_at = now  # clock of the last ping, the last request


class _Pong(ResponseHandler):
    """Receives the response to a ping. Its end gives the link back, and nothing else matters."""

    def response_started(self, response: UpstreamResponse) -> None:
        pass

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        pass

    def response_ended(self, response: UpstreamResponse) -> None:
        pass

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        pass

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        pass


PONG: Final = _Pong()


class LinkPool(Pool):
    """The links of one child. Idle ones are taken last in, first out; those that were pinged go to the far end.

    wait_s: how long a request waits for a link: as long as a connection may take to be made.
    """

    def __init__(
        self,
        child: Child,
        wait_s: float,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        guard: DialGuard | None = None,
        resolver: Resolver | None = None,
        turns: Turns | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        super().__init__(child, wait_s, tls, clock, guard, resolver, turns, descriptors)
        self.idle: OrderedDict[Upstream, None] = OrderedDict()
        self.idle_s = math.inf  # see `sweep`
        self.instance = child.instance
        self.links: set[Upstream] = set()  # idle, busy and pinged ones; not those of a former instance
        self._pinging: set[Link] = set()
        self._waiting: dict[asyncio.Future[Upstream], None] = {}  # in the order in which they came

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a link."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Number of links with a request."""
        return len(self.links) - len(self.idle) - len(self._pinging)

    async def dial(self) -> Upstream:
        """An idle link, or the next one that comes.

        Raises:
            OSError: none came in time, or the child left.
        """
        async with awake.timeout(self._connect_timeout_s):
            while True:
                if self.closed:
                    raise ConnectionResetError("its links were closed")
                upstream = self.take(self.clock()) or await self._next()
                if upstream.is_open:
                    return upstream

    async def _next(self) -> Upstream:
        waiter: asyncio.Future[Upstream] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.put(waiter.result())  # it came at the moment at which the time was over
            raise
        finally:
            self._waiting.pop(waiter, None)

    def add(self, link: Link) -> None:
        """A new link."""
        watch_peer(link.transport, sends_responses=False)
        self.links.add(link)
        self.put(link)

    def put(self, upstream: Upstream) -> None:
        """Take back a link whose response, or pong, is complete."""
        if self.closed or upstream not in self.links or len(self.idle) >= MAX_IDLE:
            upstream.transport.close()
            return
        assert isinstance(upstream, Link)
        now = upstream.idle_since = self.clock()
        pinged, upstream.pinging = upstream.pinging, False
        if pinged:
            self.child.round_trip.note(now - upstream.pinged_at, now)
            self._pinging.discard(upstream)
        else:
            upstream.used_at = now
        upstream.pinged_at = now
        while self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(upstream)
                return
        self.idle[upstream] = None
        if pinged:  # it stays the one that was unused for longest
            self.idle.move_to_end(upstream, last=False)

    def forget(self, upstream: Upstream) -> None:
        """A link was lost."""
        super().forget(upstream)
        self.links.discard(upstream)
        if isinstance(upstream, Link):
            self._pinging.discard(upstream)

    def renew(self) -> None:
        """The child is another process now: links of the former one are closed, at once or when they fall idle."""
        self.instance = self.child.instance
        self.links.clear()
        self._pinging.clear()
        while self.idle:
            self.idle.popitem()[0].transport.close()

    def sweep(self) -> None:
        """Drop links without a pong, close surplus ones, ping those that were silent lately."""
        now = self.clock()
        for link in [one for one in self._pinging if now - one.pinged_at >= PONG_S]:
            link.abort()
            self.forget(link)
        surplus = len(self.idle) + len(self._pinging) - reserve_size(self.busy)
        for upstream in list(self.idle):
            assert isinstance(upstream, Link)
            if surplus <= 0 or now - upstream.used_at < NODE_IDLE_S:
                break
            surplus -= 1
            del self.idle[upstream]
            self.links.discard(upstream)
            upstream.transport.close()
        self._ping(now)

    def _ping(self, now: float) -> None:
        from_s = PING_FROM_S if self.child.round_trip.is_known else 0.0  # a new child looks near until it is pinged
        due = [link for link in self.idle if isinstance(link, Link) and now - link.pinged_at >= from_s]
        due.sort(key=lambda link: link.pinged_at)
        late = sum(now - link.pinged_at >= PING_S for link in due)
        for link in due[: max(late, -(-len(self.links) // PINGED_AT_ONCE))]:
            del self.idle[link]
            link.pinging, link.pinged_at = True, now
            self._pinging.add(link)
            link.send(PONG, PING, [], 0)

    def close(self) -> None:
        """Close the idle links now, and the busy ones when their responses end; no request waits any more."""
        super().close()
        for link in list(self._pinging):
            link.transport.close()
        self._pinging.clear()
        while self._waiting:
            waiter, _ = self._waiting.popitem()
            if not waiter.done():
                waiter.set_exception(ConnectionResetError("its links were closed"))

    def __repr__(self) -> str:
        return f"<LinkPool {self.child.name} idle={len(self.idle)} busy={self.busy} waiting={self.waiting}>"


# -- accepting a link ----------------------------------------------------------------------------------------


def child_of_link(request: LinkRequest, children: Mapping[str, Child]) -> Child:
    """The registered child that offers a connection.

    Raises:
        UnknownChild: it has to register (again) first.
        NotPermitted: its secret is not the one that it registered with.
    """
    name = request.node
    child = children.get(name)
    if child is None or child.group:  # one of several instances, which are listed as NAME, NAME~2 and so on
        same = (one for one in children.values() if one.group and one.group == name)
        child = next((one for one in same if request.instance == one.instance.encode()), None)
    if child is None or not child.reverse or request.instance != child.instance.encode():
        raise UnknownChild(f"no child named {name[:100]!r} with a reverse link is registered here; register first")
    if not child.secret or not hmac.compare_digest(request.secret, child.secret):
        raise NotPermitted(f"the secret of {name!r} is not the one that it registered with")
    return child


def accept_link(transport: asyncio.Transport, pool: LinkPool, now: float) -> None:
    """Answer 101, and be the client on this connection from here on."""
    transport.write(link_accepted(max(0, pool.waiting - 1)))
    link = Link(pool, now)
    transport.set_protocol(link)
    link.connection_made(transport)
    transport.set_write_buffer_limits(high=64 * 1024)
    pool.add(link)
