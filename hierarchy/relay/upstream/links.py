"""The parent's end of reverse links: connections that a child dialled, on which this node is the HTTP client.

A child that its parent cannot dial asks for `GET /link` with `Upgrade: hierarchy-link/1` on the parent's ordinary port,
and is answered 101. From then on the connection stands in that child's ordinary pool, as if this node had dialled it.

A `LinkPool` never dials. A request that finds no idle link waits for the next one that arrives or is given back, and
the child is told with each 101 how many wait. Idle links are pinged, since a NAT that forgot one tells nobody. Surplus
ones are closed by this end only, so that no request runs into a close.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from hierarchy.errors import BadRequest, NotPermitted, UnknownChild
from hierarchy.http.request_head import AUTH, OURS, Fields, named_by_connection
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import Child
from hierarchy.relay.upstream.connection import Upstream
from hierarchy.relay.upstream.pool import MAX_IDLE, NODE_IDLE_S, Pool
from hierarchy.relay.upstream.tcp_keepalive import keep_watch
from hierarchy.security.dial_guard import DialGuard

LINK_PATH, LINK_PROTOCOL = b"/link", b"hierarchy-link/1"
NODE, INSTANCE, WANTED = (OURS + name for name in (b"node", b"instance", b"wanted"))
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: %b\r\n%b: %d\r\n\r\n"
PING: Final = b"POST %b HTTP/1.1\r\nhost: link\r\ncontent-length: 0\r\n\r\n" % LINK_PATH
#: an idle link is pinged at the latest after so long, and dropped if the answer takes longer: a dead one is found
#: within 11 s, sweeps included
PING_S, PONG_S = 5.0, 5.0
PING_FROM_S, PINGED_AT_ONCE = 2.5, 5  # from here on a sweep pings one in so many, so that few are away at a time
#: the child drops a link on which it heard nothing for so long: two pings were lost by then
SILENT_S: Final = 11.0
LEAST_IDLE: Final = 8


def reserve_size(busy: int) -> int:
    """How many idle links there shall be beside so many busy ones; both ends reckon with it."""
    return max(LEAST_IDLE, -(-busy // 4))


class Link(Upstream):
    """One reverse link, seen from the parent. used_at, pinged_at: clock of the last request, the last ping."""

    __slots__ = ("pinged_at", "pinging", "used_at")

    def __init__(self, pool: LinkPool, now: float) -> None:
        super().__init__(pool)
        self.pinging = False
        self.pinged_at = self.used_at = now


class _Pong:
    """Who waits for the answer to a ping. Its end gives the link back, and nothing else matters."""

    def answer_started(self, answer: UpstreamResponse) -> None:
        pass

    def answer_body(self, data: bytes) -> None:
        pass

    def answer_ended(self) -> None:
        pass

    def answer_whole(self, answer: UpstreamResponse, body: bytes) -> None:
        pass

    def answer_broken(self, why: str, *, stale: bool = False) -> None:
        pass


PONG: Final = _Pong()


class LinkPool(Pool):
    """The links of one child. Idle ones are taken last in, first out; those that were pinged go to the far end.

    `wait_s`: how long a request waits for a link, as long as a connection may take to be made.
    """

    def __init__(
        self,
        child: Child,
        wait_s: float,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        guard: DialGuard | None = None,
    ) -> None:
        super().__init__(child, wait_s, tls, clock, guard)
        self.idle: OrderedDict[Upstream, None] = OrderedDict()
        self.idle_s = math.inf  # see `sweep`
        self.instance = child.instance
        self.links: set[Upstream] = set()  # idle, busy and pinged ones; those of a former instance no longer
        self._pinging: set[Link] = set()
        self._waiting: dict[asyncio.Future[Upstream], None] = {}  # in the order in which they came

    @property
    def waiting(self) -> int:
        """Requests for which there is no link yet."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        return len(self.links) - len(self.idle) - len(self._pinging)

    async def dial(self) -> Upstream:
        """An idle link, or the next one that comes.

        Raises:
            OSError: none came in time, or the child left.
        """
        async with asyncio.timeout(self._connect_timeout_s):
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
                self.put(waiter.result())  # it came in the very moment in which the time was over
            raise
        finally:
            self._waiting.pop(waiter, None)

    def add(self, link: Link) -> None:
        """A link has come."""
        keep_watch(link.transport, sends_answers=False)
        self.links.add(link)
        self.put(link)

    def put(self, upstream: Upstream) -> None:
        """Give back a link whose answer, or pong, is complete."""
        if self.closed or upstream not in self.links or len(self.idle) >= MAX_IDLE:
            upstream.transport.close()
            return
        assert isinstance(upstream, Link)
        now = upstream.idle_since = self.clock()
        pinged, upstream.pinging = upstream.pinging, False
        upstream.pinged_at = now
        if pinged:
            self._pinging.discard(upstream)
        else:
            upstream.used_at = now
        while self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(upstream)
                return
        self.idle[upstream] = None
        if pinged:  # it stays the one that was not used for longest
            self.idle.move_to_end(upstream, last=False)

    def forget(self, upstream: Upstream) -> None:
        super().forget(upstream)
        self.links.discard(upstream)
        if isinstance(upstream, Link):
            self._pinging.discard(upstream)

    def renew(self) -> None:
        """The child is another process now: what its former self dialled is closed, at once or when it falls idle."""
        self.instance = self.child.instance
        self.links.clear()
        self._pinging.clear()
        while self.idle:
            self.idle.popitem()[0].transport.close()

    def sweep(self) -> None:
        """Drop links without a pong, close surplus ones, ping those of which nothing was heard lately."""
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
        due = [link for link in self.idle if isinstance(link, Link) and now - link.pinged_at >= PING_FROM_S]
        due.sort(key=lambda link: link.pinged_at)
        late = sum(now - link.pinged_at >= PING_S for link in due)
        for link in due[: max(late, -(-len(self.links) // PINGED_AT_ONCE))]:
            del self.idle[link]
            link.pinging, link.pinged_at = True, now
            self._pinging.add(link)
            link.send(PONG, PING, [], 0)

    def close(self) -> None:
        """Close the idle ones now, and the busy ones when their answers end; nobody needs to wait any more."""
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


# -- turning a connection round ------------------------------------------------------------------------------


def asks_for_link(target: bytes, fields: Fields) -> bool:
    """Does a head with an Upgrade field ask for a link?"""
    return target == LINK_PATH and any(
        name == b"upgrade" and value.strip().lower().startswith(b"hierarchy-link/") for name, value in fields
    )


def admit(method: bytes, fields: Fields, children: Mapping[str, Child]) -> Child:
    """The child that asks for a link.

    Raises:
        BadRequest: not the form that a link is asked for in, or a later one of it.
        UnknownChild: it has to register (again) first.
        NotPermitted: its secret is not the one that it registered with.
    """
    found = dict(fields)
    if method != b"GET" or b"upgrade" not in named_by_connection(fields):
        raise BadRequest("a link is asked for by GET /link with `Connection: Upgrade`")
    if b"transfer-encoding" in found or found.get(b"content-length", b"0") != b"0":
        raise BadRequest("a request for a link has no body")
    if found[b"upgrade"].strip().lower() != LINK_PROTOCOL:
        raise BadRequest(f"only {LINK_PROTOCOL.decode()} is spoken here")
    name = found.get(NODE, b"").decode("latin-1")
    child = children.get(name)
    if child is None or not child.reverse or found.get(INSTANCE, b"") != child.instance.encode():
        raise UnknownChild(
            f"no child of the name {name[:100]!r} with a reverse link is registered here; register first"
        )
    if not child.secret or not hmac.compare_digest(found.get(AUTH, b""), child.secret):
        raise NotPermitted(f"the secret of {name!r} is not the one that it registered with")
    return child


def turn_round(transport: asyncio.Transport, pool: LinkPool, now: float) -> None:
    """Answer 101, and be the client on this connection from here on."""
    wanted = max(0, pool.waiting - 1)
    transport.write(SWITCHING % (LINK_PROTOCOL, WANTED, wanted))
    link = Link(pool, now)
    transport.set_protocol(link)
    link.connection_made(transport)
    transport.set_write_buffer_limits(high=64 * 1024)
    pool.add(link)
