"""The child's end of reverse links: connections that it dials, and hands to its own lane as if it had accepted them.

A `Reserve` keeps idle connections to one parent: at least 8, at least a quarter of the busy ones. Those that are taken
are replaced at once, and requests that wait at the parent get a link each (each 101 says how many they are). Otherwise
the reserve fills at the pace that the parent set, so that a parent that was restarted is not run over. A link that
hears its parent's pings is never closed from here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from random import Random
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from hierarchy.relay.downstream.local_handlers import Local
from hierarchy.relay.downstream.protocol import LaneProtocol
from hierarchy.relay.exchange import FOREVER, Exchange
from hierarchy.relay.lane import Lane
from hierarchy.relay.upstream.links import LEAST_IDLE, SILENT_S, reserve_size
from hierarchy.relay.upstream.tcp_keepalive import keep_watch, unheard_s
from hierarchy.uplink.dial import Proxy, open_connection
from hierarchy.uplink.link_handshake import Knock, RefusedError
from hierarchy.uplink.registration import Uplink
from hierarchy.wire.messages import Accepted, Identity

MAX_DIALS = 256  # at once
FIRST_RETRY_S, MAX_RETRY_S = 0.2, 5.0  # after dials that failed; doubled from there, and jittered
AT_FIRST_S = 0.02  # so much of the parent's pace is used up at once
SPREAD_S = 1.0  # links that were lost without need are replaced after a random time of up to this
LOOK_S, UNHEARD_S = 2.0, 9.5  # a busy link whose peer is gone is found within their sum
log = logging.getLogger("hierarchy.link")

Serve = Callable[..., "LinkProtocol"]  # keyword arguments as of `LinkProtocol`, but for uvicorn's


class LinkProtocol(LaneProtocol):
    """A connection on which a parent is the client. It counts itself in its reserve as busy, and as idle again.

    `request_begins` runs for every request, and so spares what it can, calls among that.
    """

    def __init__(
        self, lane: Lane, config: Config, server_state: ServerState, app_state: dict[str, Any], reserve: Reserve
    ) -> None:
        super().__init__(lane, config, server_state, app_state)
        self.keep_alive_s = SILENT_S  # without a ping, instead of the limit on idle clients
        self._reserve = reserve
        self._is_busy = False
        self.counts = True

    @property
    def is_idle(self) -> bool:
        """No request is at work on it, not even one that the app answers."""
        return self.at_work is None and not self._is_busy

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadline = self.lane.clock() + SILENT_S
        self._reserve.links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._reserve.dropped(self, busy=self._is_busy)

    def request_begins(self, exchange: Exchange) -> None:
        if not self._is_busy and not isinstance(exchange, Local):
            self._is_busy = True
            reserve = self._reserve
            reserve.busy = busy = reserve.busy + 1
            spare = len(reserve.links) - busy + reserve.dialling
            if spare < LEAST_IDLE or 4 * spare < busy:  # as `reserve_size`
                reserve.fill()

    def request_ends(self) -> None:
        if self._is_busy and not self.pipeline:
            self._is_busy = False
            self._reserve.busy -= 1

    def shutdown(self) -> None:
        """An idle link is closed at once: the parent was told before, and has nothing more to send."""
        if self.is_idle and not self.receiving:
            self.transport.close()
        else:
            super().shutdown()

    def check_clock(self, now: float) -> None:
        calm = not (self.receiving or self.lingering or self.blocked or self.transport.is_closing())
        if calm and self.at_work is None:
            self.deadline = FOREVER
            self.transport.abort()  # a half-open connection has nobody to say goodbye to
        else:
            super().check_clock(now)


class Reserve:
    """The links to one parent.

    serve: makes the protocol that serves a link. timeout_s: for one link, from its SYN to its 101. tls: for an https
    parent. proxy: through which it is dialled.
    """

    def __init__(
        self,
        uplink: Uplink,
        identity: Identity,
        serve: Serve,
        timeout_s: float,
        *,
        tls: ssl.SSLContext | None,
        proxy: Proxy | None,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self.links: set[LinkProtocol] = set()
        self.busy = 0
        self.dialling = 0
        self.wanted = 0  # requests that waited at the parent when it spoke last
        self.open = False  # we are registered, and it takes links
        self._uplink = uplink
        self._identity = identity
        self._serve = serve
        self._timeout_s = timeout_s
        self._tls = tls
        self._proxy = proxy
        self._clock = clock
        self._rng = rng
        self._parent_instance = ""
        self._links_per_s = 0.0
        self._allowed = 0.0  # dials at the parent's pace
        self._paced_at = clock()
        self._calm_until = 0.0  # nothing is dialled only to fill the reserve
        self._retry_at = 0.0  # nothing is dialled at all
        self._look_at = 0.0  # at busy links
        self._failures = 0  # in a row
        self._complaint = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> int:
        return len(self.links) - self.busy

    # -- how we stand with the parent (uplink.Listener) ------------------------------------------------------

    def accepted(self, accepted: Accepted) -> None:
        """Registered: dial the first link at once, the others at the parent's pace."""
        if accepted.instance != self._parent_instance:
            self._parent_instance = accepted.instance
            self._drop_idle()
        self.open = accepted.link == "reverse"
        self._links_per_s = accepted.links_per_s
        self._allowed = max(1.0, AT_FIRST_S * accepted.links_per_s)
        self._paced_at = self._clock()
        self._calm_until = 0.0
        self.wanted = accepted.wanted
        self.fill()

    def lost(self) -> None:
        """Dial no more. What is open is left to the parent's pings: it may only have been slow to answer."""
        self.open = False

    def close(self) -> None:
        """This node ends; uvicorn closes the links."""
        self.open = False
        for task in self._tasks:
            task.cancel()

    # -- links -----------------------------------------------------------------------------------------------

    def dropped(self, link: LinkProtocol, *, busy: bool) -> None:
        """A link is gone."""
        self.links.discard(link)
        self.busy -= busy
        self._calm_until = max(self._calm_until, self._clock() + self._rng.uniform(0, SPREAD_S))

    def _drop_idle(self) -> None:
        for link in list(self.links):
            if link.is_idle:
                link.transport.abort()

    # -- dialling --------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Called twice a second: dial what is missing, and look at busy links every other second."""
        self.fill()
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for link in [link for link in self.links if not link.is_idle]:
                if unheard_s(link.transport) > UNHEARD_S:
                    link.transport.abort()

    def fill(self) -> None:
        """Dial what is missing now."""
        now = self._clock()
        if not self.open or now < self._retry_at:
            return
        self._allowed = min(self._allowed + (now - self._paced_at) * self._links_per_s, max(1.0, self._links_per_s))
        self._paced_at = now
        missing = reserve_size(self.busy) - self.idle - self.dialling
        at_once = max(self.wanted - self.dialling, missing if self.busy else 0)
        paced = min(missing, int(self._allowed)) if now >= self._calm_until else 0
        count = min(max(at_once, paced), MAX_DIALS - self.dialling)
        for _ in range(count):
            self._allowed = max(0.0, self._allowed - 1)
            self.dialling += 1
            task = asyncio.get_running_loop().create_task(self._dial())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _dial(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                self.wanted = await self._knock()
        except TimeoutError:
            self._failed("no answer in time")
        except RefusedError as error:
            self._refused(error)
        except (OSError, ssl.SSLError) as error:
            self._failed(error.strerror or str(error) or type(error).__name__)
        else:
            self._failures = 0
            self._complaint = ""
        finally:
            self.dialling -= 1
        self.fill()

    async def _knock(self) -> int:
        """Dial a link and hand it to the lane. Returns how many requests wait at the parent."""
        parent = self._uplink.parent
        knock = Knock(parent, self._identity, self._uplink.secret, self._take)
        transport = await open_connection(parent, lambda: knock, tls=self._tls, proxy=self._proxy)
        try:
            return await knock.answered
        finally:
            if not knock.turned:  # else the time was over in the very moment in which it became a link
                transport.abort()

    def _take(self, transport: asyncio.Transport, behind: bytes) -> None:
        """The connection is turned round; `behind` came with the answer."""
        if not self.open:
            transport.abort()
            return
        keep_watch(transport, sends_answers=True)
        protocol = self._serve(reserve=self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if behind:
            protocol.data_received(behind)

    def _refused(self, error: RefusedError) -> None:
        if error.status in (403, 404):  # it was restarted, or believes us to be another
            self.open = False
            self._uplink.register_again()
        self._failed(str(error))

    def _failed(self, why: str) -> None:
        now = self._clock()
        if now >= self._retry_at:  # else it was dialled together with one that has failed already
            self._failures += 1
            wait_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 10))
            self._retry_at = now + wait_s * self._rng.uniform(0.5, 1)
        if why != self._complaint:
            log.warning("cannot open a link to %s: %s; trying on", self._uplink.parent, why)
            self._complaint = why

    def __repr__(self) -> str:
        return f"<Reserve {self._uplink.parent} idle={self.idle} busy={self.busy} dialling={self.dialling}>"


def protocol_factory(lane: Lane, config: Config, server_state: ServerState) -> Serve:
    """Makes protocols for links as uvicorn makes those of accepted connections."""

    def serve(*, reserve: Reserve) -> LinkProtocol:
        return LinkProtocol(lane, config, server_state, cast(dict[str, Any], {}), reserve)

    return serve
