"""The connections to one child: the idle ones, how a new one is made, and the head with which its requests begin."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hierarchy.http import render
from hierarchy.http.link_handshake import ping_request
from hierarchy.http.request_head import (
    ATTEMPTS,
    AUTH,
    HOPS,
    MODEL,
    OTHERS,
    REQUIRE,
    SEQ,
    RequestHead,
    request_opening,
)
from hierarchy.labels import Requirement
from hierarchy.registry.child import Child
from hierarchy.relay.turns import Turns
from hierarchy.relay.upstream.connection import ConnectionPool, Upstream
from hierarchy.runtime import awake
from hierarchy.runtime.descriptors import Descriptors
from hierarchy.runtime.resolver import Resolver
from hierarchy.runtime.tcp_keepalive import watch_peer
from hierarchy.security.dial_guard import DialGuard, connect

# Engines built on uvicorn or cpp-httplib close idle connections after 5 s; being first avoids a race with their FIN.
ENGINE_IDLE_S, NODE_IDLE_S = 4.0, 30.0
MAX_IDLE: Final = 4096  # connections kept
NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
MAX_OPENINGS: Final = 1024  # beginnings of request heads, kept


class Pool(ConnectionPool):
    """The connections to one child. Idle ones are taken last in, first out, so that a burst's surplus can age away.

    clock: monotonic seconds. guard: checks the address before it is dialled; None for a declared engine.
    resolver: looks up its name. turns, descriptors: of the node.
    """

    def __init__(
        self,
        child: Child,
        connect_timeout_s: float,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        guard: DialGuard | None = None,
        resolver: Resolver | None = None,
        turns: Turns | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        self.child = child
        self.descriptors = descriptors
        self.turns = turns if turns is not None else Turns()
        self.url = child.url
        self.path = render.field_value(child.group or child.label)  # for x-hierarchy-path
        self.idle: dict[Upstream, None] = {}  # in the order in which they came back
        self.idle_s = NODE_IDLE_S if child.is_node else ENGINE_IDLE_S
        self.closed = False
        self.numbered = child.is_node  # its requests carry a number, and what else a parent tells a node
        self.clock = clock
        self.connect: Callable[..., Awaitable[Any]] = connect  # replaced by tests
        self._openings: dict[tuple[RequestHead, str, int, int, bool, Requirement | None], bytes] = {}
        self._secret = child.secret  # with which `_openings` were made
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls if child.tls else None
        self._guard = guard
        self._resolver = resolver or Resolver(clock)

    def take(self, now: float) -> Upstream | None:
        """An idle connection, or None: then `dial`."""
        while self.idle:
            upstream, _ = self.idle.popitem()
            if now - upstream.idle_since < upstream.idle_s and not upstream.transport.is_closing():
                return upstream
            upstream.transport.close()
        return None

    def opening(
        self, head: RequestHead, model: str, hops: int, lent: int, others: bool, require: Requirement | None = None
    ) -> bytes:
        """A request's head as this child gets it, up to its first number: the request's if `numbered`, else the length.

        model, hops, lent, others: sent to a node below; `lent` are attempts, `others`: others could take the request,
        `require`: the labels that it requires, as the child hears it.
        Cached, since clients send the same head again and again.
        """
        child = self.child
        if self._secret is not child.secret:
            self._secret = child.secret
            self._openings.clear()
        key = head, model, hops, lent, others, require
        opening = self._openings.get(key)
        if opening is None:
            node_fields = [
                (AUTH, child.secret),
                (MODEL, render.field_value(model)),
                (HOPS, b"%d" % hops),
                (ATTEMPTS, b"%d" % lent),
                (OTHERS, b"1" if others else b"0"),
                (SEQ, b""),
            ]
            if require is not None:
                node_fields.insert(0, (REQUIRE, require.field))
            fields = head.fields + child.credential
            opening = request_opening(
                child.prefix + head.target, child.authority, fields, node_fields if self.numbered else ()
            )
            if len(self._openings) >= MAX_OPENINGS:
                self._openings.clear()
            self._openings[key] = opening
        return opening

    @property
    def ping(self) -> bytes:
        """A request that a node answers at once; through a proxy in front of it, too."""
        return ping_request(self.child.prefix, self.child.authority)

    def forget_openings(self) -> None:
        """Forget the beginnings of heads: of clients that went, they would stay until `MAX_OPENINGS` are there."""
        self._openings.clear()

    async def dial(self) -> Upstream:
        """A new connection. Where no descriptor is left for it, idle connections make room.

        Raises:
            OSError: it could not be made, or not in time (TimeoutError is one).
        """
        try:
            return await self._dial()
        except OSError as error:
            if self.descriptors is None or error.errno not in NO_DESCRIPTORS:
                raise
            self.descriptors.make_room()
        await asyncio.sleep(0)
        return await self._dial()

    async def _dial(self) -> Upstream:
        child = self.child
        try:
            async with awake.timeout(self._connect_timeout_s):
                upstream: Upstream = await self.connect(
                    lambda: Upstream(self),
                    child.host,
                    child.port,
                    self._tls,
                    self._guard,
                    self._resolver,
                    local=child.local,
                )
        except (UnicodeError, OverflowError) as error:  # the resolver's answer to an impossible name or port
            raise OSError(f"{child.host}:{child.port} is not an address: {error}") from None
        if not upstream.is_open:
            raise ConnectionResetError("it closed the new connection at once")
        self._check_descriptor(upstream)
        # An engine may take its time to read a long prompt.
        watch_peer(upstream.transport, sends_responses=not child.is_node)
        return upstream

    def _check_descriptor(self, upstream: Upstream) -> None:
        """Raise OSError if a new connection would use a descriptor that is kept for files, probes and engines."""
        sock = upstream.transport.get_extra_info("socket")
        if self.descriptors is None or sock is None:
            return
        number = int(sock.fileno())
        self.descriptors.note(number)
        if number >= self.descriptors.for_children:
            upstream.transport.abort()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def put(self, upstream: Upstream) -> None:
        """Take back a connection whose response is complete."""
        is_scarce = self.descriptors is not None and self.descriptors.are_scarce
        if self.closed or is_scarce or len(self.idle) >= MAX_IDLE:
            upstream.transport.close()
            return
        upstream.idle_since = self.clock()
        self.idle[upstream] = None

    def forget(self, upstream: Upstream) -> None:
        """A connection was lost; if it was idle, it is not taken any more."""
        self.idle.pop(upstream, None)

    def sweep(self) -> None:
        """Close connections that have been idle for too long."""
        now = self.clock()
        for upstream in [one for one in self.idle if now - one.idle_since >= one.idle_s]:
            del self.idle[upstream]
            upstream.transport.close()

    def close_idle(self) -> None:
        """Others need the descriptors more."""
        while self.idle:
            self.idle.popitem()[0].transport.close()

    def close(self) -> None:
        """Close the idle connections now, and the busy ones when their responses end."""
        self.closed = True
        self.close_idle()

    def __repr__(self) -> str:
        return f"<Pool {self.child.name} idle={len(self.idle)}>"
