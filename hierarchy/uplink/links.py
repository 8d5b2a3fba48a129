"""The child's end of reverse links: connections that it dials, and serves as if it had accepted them.

A `LinkReserve` keeps idle links to one parent: at least 8, at least a quarter of the busy ones. Links that are taken
are replaced at once, and requests that wait at the parent get a link each (each 101 contains their number). Otherwise
the reserve fills at the pace that the parent set, so that a parent that was restarted is not overwhelmed. A link on
which the parent's pings arrive is never closed from here.
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

from hierarchy.errors import describe
from hierarchy.relay.downstream.clients import Clients
from hierarchy.relay.downstream.parts import Observer
from hierarchy.relay.downstream.protocol import LaneProtocol
from hierarchy.relay.lane import Lane
from hierarchy.relay.upstream.links import LEAST_IDLE, SILENT_S, reserve_size
from hierarchy.runtime import awake
from hierarchy.runtime.resolver import Resolver
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.runtime.tcp_keepalive import unacknowledged_s, watch_peer
from hierarchy.uplink.dial import Proxy, open_connection
from hierarchy.uplink.link_handshake import LinkHandshake, RefusedError
from hierarchy.uplink.registration import Uplink
from hierarchy.wire.messages import Accepted, Identity

MAX_DIALS = 256  # at once
FIRST_RETRY_S, MAX_RETRY_S = 0.2, 5.0  # after dials that failed; doubled from there, and jittered
INITIAL_BURST_S = 0.02  # this much of the parent's pace is used at once
SPREAD_S = 1.0  # links that were lost while idle are replaced after a random time of up to this
LOOK_S, UNACKNOWLEDGED_S = 2.0, 9.5  # a busy link whose peer is gone is found within their sum
log = logging.getLogger("hierarchy.link")

ServeLink = Callable[["LinkReserve"], "LinkProtocol"]


class LinkUse(Observer):
    """Counts one link as busy or idle in its reserve. Called for every request, so it is short."""

    def __init__(self, reserve: LinkReserve) -> None:
        self.busy = False
        self._reserve = reserve

    def request_begins(self, *, local: bool) -> None:
        """Count the link as busy, and dial another one if few are left."""
        if not self.busy and not local:
            self.busy = True
            reserve = self._reserve
            reserve.busy = busy = reserve.busy + 1
            spare = len(reserve.links) - busy + reserve.dialling
            if spare < LEAST_IDLE or 4 * spare < busy:  # as `reserve_size`
                reserve.fill()

    def request_ends(self, *, last: bool) -> None:
        """Count the link as idle."""
        if self.busy and last:
            self.busy = False
            self._reserve.busy -= 1


class LinkProtocol(LaneProtocol):
    """A connection on which a parent is the client."""

    def __init__(
        self,
        lane: Lane,
        clients: Clients,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        reserve: LinkReserve,
    ) -> None:
        self._use = LinkUse(reserve)
        self._reserve = reserve
        super().__init__(lane, clients, config, server_state, app_state, observer=self._use)
        self.connection.keep_alive_s = SILENT_S  # without a ping, instead of the limit on idle clients

    @property
    def is_idle(self) -> bool:
        """No request is in progress on it, not even one that the app answers."""
        return self.connection.in_progress is None and not self._use.busy

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The link is open."""
        super().connection_made(transport)
        self.connection.deadline = self.lane.clock() + SILENT_S
        self._reserve.links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The link is gone."""
        super().connection_lost(exc)
        self._reserve.dropped(self, busy=self._use.busy)


class LinkReserve:
    """The links to one parent.

    serve: makes the protocol that serves a link. timeout_s: for one link, from its SYN to its 101. tls: for an https
    parent. proxy: through which it is dialled. resolver: looks up the name of either.
    """

    def __init__(
        self,
        uplink: Uplink,
        identity: Identity,
        serve: ServeLink,
        timeout_s: float,
        *,
        tls: ssl.SSLContext | None,
        proxy: Proxy | None,
        clock: Callable[[], float],
        rng: Random,
        resolver: Resolver | None = None,
    ) -> None:
        self.links: set[LinkProtocol] = set()
        self.busy = 0  # links with a request
        self.dialling = 0  # links that are being opened
        self.wanted = 0  # requests that waited at the parent, by its last message
        self.uplink = uplink
        self.open = False  # this node is registered, and the parent accepts links
        self._identity = identity
        self._serve = serve
        self._timeout_s = timeout_s
        self._tls = tls
        self._proxy = proxy
        self._resolver = resolver
        self._clock = clock
        self._rng = rng
        self._parent_instance = ""
        self._links_per_s = 0.0  # the parent's pace
        self._allowed = 0.0  # dials at the parent's pace
        self._paced_at = clock()
        self._calm_until = 0.0  # nothing is dialled only to fill the reserve
        self._retry_at = 0.0  # nothing is dialled at all
        self._look_at = 0.0  # when busy links are looked at next
        self._failures = 0  # in a row
        self._complaint = ""  # that was logged last
        self._tasks = BackgroundTasks()

    @property
    def idle(self) -> int:
        """Links without a request."""
        return len(self.links) - self.busy

    # -- the registration's state (uplink.Listener) --------------------------------------------------------------

    def accepted(self, accepted: Accepted) -> None:
        """Registered: dial the first link at once, the others at the parent's pace."""
        if accepted.instance != self._parent_instance:
            self._parent_instance = accepted.instance
            self._drop_idle()
        self.open = accepted.link == "reverse"
        self._links_per_s = accepted.links_per_s
        self._allowed = max(1.0, INITIAL_BURST_S * accepted.links_per_s)
        self._paced_at = self._clock()
        self._calm_until = 0.0
        self.wanted = accepted.wanted
        self.fill()

    def lost(self) -> None:
        """Dial no more. Open links depend on the parent's pings: it may only have been slow to answer."""
        self.open = False

    def close(self) -> None:
        """This node ends; uvicorn closes the links."""
        self.open = False
        self._tasks.cancel_all()

    # -- links ---------------------------------------------------------------------------------------------------

    def dropped(self, link: LinkProtocol, *, busy: bool) -> None:
        """A link is gone."""
        self.links.discard(link)
        self.busy -= busy
        self._calm_until = max(self._calm_until, self._clock() + self._rng.uniform(0, SPREAD_S))

    def _drop_idle(self) -> None:
        for link in list(self.links):
            if link.is_idle:
                link.transport.abort()

    # -- dialling ------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Called twice a second: dial what is missing, and look at busy links every other second."""
        self.fill()
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for link in [link for link in self.links if not link.is_idle]:
                if unacknowledged_s(link.transport) > UNACKNOWLEDGED_S:
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
            self._tasks.spawn(self._dial(), f"link to {self.uplink.parent}")

    async def _dial(self) -> None:
        try:
            async with awake.timeout(self._timeout_s):
                self.wanted = await self._open_link()
        except TimeoutError:
            self._failed("no answer in time")
        except RefusedError as error:
            self._refused(error)
        except (OSError, ssl.SSLError) as error:
            self._failed(error.strerror or describe(error))
        else:
            self._failures = 0
            self._complaint = ""
        finally:
            self.dialling -= 1
        self.fill()

    async def _open_link(self) -> int:
        """Dial a link and serve it. Returns how many requests wait at the parent."""
        parent = self.uplink.parent
        handshake = LinkHandshake(parent, self._identity, self.uplink.secret, self._take)
        transport = await open_connection(
            parent, lambda: handshake, tls=self._tls, proxy=self._proxy, resolver=self._resolver
        )
        try:
            return await handshake.answered
        finally:
            if not handshake.done:  # else the time was over at the moment at which it became a link
                transport.abort()

    def _take(self, transport: asyncio.Transport, behind: bytes) -> None:
        """The parent accepted the connection; the bytes `behind` came with its 101."""
        if not self.open:
            transport.abort()
            return
        watch_peer(transport, sends_responses=True)
        protocol = self._serve(self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if behind:
            protocol.data_received(behind)

    def _refused(self, error: RefusedError) -> None:
        if error.status in (403, 404):  # the parent was restarted, or takes this node for another one
            self.open = False
            self.uplink.register_again()
        self._failed(str(error))

    def _failed(self, reason: str) -> None:
        now = self._clock()
        if now >= self._retry_at:  # else it was dialled together with one that has failed already
            self._failures += 1
            wait_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 10))
            self._retry_at = now + wait_s * self._rng.uniform(0.5, 1)
        if reason != self._complaint:
            log.warning("cannot open a link to %s: %s; retrying", self.uplink.parent, reason)
            self._complaint = reason

    def __repr__(self) -> str:
        return f"<LinkReserve {self.uplink.parent} idle={self.idle} busy={self.busy} dialling={self.dialling}>"


def link_factory(lane: Lane, clients: Clients, config: Config, server_state: ServerState) -> ServeLink:
    """Makes protocols for links as uvicorn makes those of accepted connections."""

    def serve(reserve: LinkReserve) -> LinkProtocol:
        return LinkProtocol(lane, clients, config, server_state, cast(dict[str, Any], {}), reserve)

    return serve
