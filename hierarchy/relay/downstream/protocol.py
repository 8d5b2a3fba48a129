"""Where uvicorn hands over its connections: the parser's callbacks, and the way into the ASGI app.

The class extends uvicorn's and owns a `Connection` and its `Intake`, which gets every byte first. Requests on lane
paths become exchanges; all others go to the ASGI app, on the same port. Habits of uvicorn 0.54 and httptools 0.9 that a
streaming proxy cannot live with are corrected here and in `connection`, each with a test (docs/explanation/compiled.md
has a list).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hierarchy.errors import BadRequest, NotImplementedHere, OutOfConnections, RequestError
from hierarchy.http.link_handshake import asks_for_link, read_link_request
from hierarchy.http.request_head import (
    DEADLINE,
    PREFIX,
    SEQ,
    RequestHead,
    check_request,
    decimal,
    lane_path,
    origin_form,
    without_upgrade,
)
from hierarchy.relay.downstream.clients import Clients
from hierarchy.relay.downstream.connection import Connection
from hierarchy.relay.downstream.intake import Intake
from hierarchy.relay.downstream.parts import AppRequest, Observer
from hierarchy.relay.downstream.places import Guest
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.lane import Lane
from hierarchy.relay.upstream.links import child_of_link

# What a parent adds to a head that was within its limits: its own fields, among them a model's name of at most 256
# characters, percent-encoded, and labels of 1 KB.
PARENT_FIELDS, PARENT_BYTES = 10, 5120
#: bytes waiting for a client above which reading from its child stops. Small, since the kernel holds far more before
#: any wait here, and since one read of uvloop's may still come on top: 256,000 bytes.
HIGH_WATER = 4096


class LaneProtocol(HttpToolsProtocol):
    """One client's connection, from its first byte to its last.

    observer: of a reverse link. handshake: who had its place until now; None if nobody had.
    """

    def __init__(
        self,
        lane: Lane,
        clients: Clients,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        observer: Observer | None = None,
        handshake: Guest | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._handshake = handshake
        self.lane = lane
        self.clients = clients
        self.connection = Connection(lane, server_state, self.loop, observer)
        self.intake = Intake(self.connection, clients.heads, self.parse)
        # uvloop calls what it finds here, so that a read goes to the compiled object without a step in between.
        self.data_received = self.intake.data_received  # type: ignore[method-assign]
        # Strict again: what follows a message that ends the connection is not a request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._in_head = True
        self._head_bytes = 0
        self._idle_bytes = 0  # received since the last complete head or piece of a body

    # -- connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is open."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.intake.opened(transport)
        # What pauses reading, the app's requests among it, pauses what was read and waits for its turn, too.
        self.flow = FlowControl(self.intake.reading)  # type: ignore[arg-type]  # it needs no more of a transport
        self.connection.opened(transport, self.flow, self.client[0] if self.client else "")
        if self._handshake is not None and self.clients.places is not None:
            self.clients.places.discard(self._handshake)
            self._handshake = None
        if not self.clients.add(self.connection, _descriptor(transport)):
            self.connection.turn_away(OutOfConnections("this node has no place for another connection; try again"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.clients.discard(self.connection)
        self.connection.lost()
        self.intake.closed()
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # it refers to this object, and would keep both alive

    def shutdown(self) -> None:
        """The server stops."""
        self.connection.shutdown()

    def pause_writing(self) -> None:
        """The client does not read as fast as this node writes."""
        super().pause_writing()
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        """The client has read what was written."""
        super().resume_writing()
        self.connection.resume_writing()

    def on_response_complete(self) -> None:
        """The app's response is written. Unlike uvicorn's, sets no timer: keep-alive is one of the swept deadlines."""
        self.connection.turn_ends(self.lane.clock())

    # -- parser --------------------------------------------------------------------------------------------------

    def parse(self, data: bytes) -> None:
        """Bytes that begin or continue a request."""
        self._idle_bytes += len(data)
        rest: list[bytes | memoryview] = []
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if asks_for_link(self.url, self.headers):
                    self._become_link(alone=not rest and upgrade.args[0] == len(data))
                    return
                if self._asks_for_web_socket():
                    return
                # In a loop, not by recursion: one read holds thousands of such requests.
                rest += [memoryview(data)[upgrade.args[0] :], self._without_upgrade()]
            except httptools.HttpParserCallbackError as error:
                if not isinstance(error.__context__, RequestError):
                    raise
                self.connection.refuse(error.__context__)
            except httptools.HttpParserError as error:
                self.connection.refuse(BadRequest(f"the request is not well-formed HTTP: {error}"))
            if not rest or self.connection.ignoring:
                break
            data = cast(bytes, rest.pop())
        if self._idle_bytes > 2 * self.lane.settings.max_head_bytes and self.connection.receiving:
            self.connection.refuse(self.lane.head_too_large())

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self.connection.ignoring or self.transport.is_closing():
            raise BadRequest("the connection is being closed")
        # uvicorn builds an ASGI scope here; for the lane that would be wasted.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0
        self._idle_bytes = 0
        self.connection.message_begins()

    def on_url(self, url: bytes) -> None:
        """Part of the request target."""
        self.url += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one trailer."""
        if not self._in_head:
            return  # a trailer: dropped, so that it cannot pass for a field that was checked
        self._grow_head(len(name) + len(value) + 4)
        if len(self.headers) >= self.lane.settings.max_head_fields + PARENT_FIELDS:
            raise self.lane.head_too_large()
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: it is checked, and goes to an exchange or to the app."""
        self._in_head = False
        if self.parser.should_upgrade():
            return  # see _without_upgrade
        version = self.parser.get_http_version()
        found = check_request(self.url, version, self.headers)
        route = self.lane.route(self.url) if self.parser.get_method() == b"POST" else None
        if route is None:
            if not self._within_limits():
                raise self.lane.head_too_large()
            self._hand_to_app(found)
            return
        caller = self.lane.caller(route[1], found)
        head = RequestHead.from_fields(
            route,
            self.headers,
            found,
            http10=version == "1.0",
            keep_alive=self.parser.should_keep_alive(),
            within_limits=self._within_limits(),
            caller=caller,
            stripped=self.lane.access.stripped_fields,
            refusal=self.lane.refusal(caller, route[1], found),
        )
        length = int(found.get(b"content-length", b"0"))
        seq, left_ms = decimal(found.get(SEQ, b"0")), decimal(found.get(DEADLINE, b""))
        self.connection.lane_request(head, seq, length, left_ms, found.get(PREFIX, b""))

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._idle_bytes = 0
        self.connection.pieces += 1
        incoming = self.connection.incoming
        if isinstance(incoming, Exchange):
            self.connection.body_part(incoming, body)
        elif incoming is not None and not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self.parser.should_upgrade():
            return
        if not isinstance(self.connection.incoming, Exchange):
            super().on_message_complete()
        self.connection.message_ends()

    # -- the ASGI app --------------------------------------------------------------------------------------------

    def _hand_to_app(self, found: dict[bytes, bytes]) -> None:
        """Let uvicorn make its object for the request; it is started when it is its turn."""
        url, headers = origin_form(self.url), self.headers
        if url is None:
            raise BadRequest(f"the request target {self.url[:80]!r} is not a URL")
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = found.get(b"expect", b"").lower() == b"100-continue"
        self.cycle = None  # type: ignore[assignment]  # so that uvicorn calls `_start_asgi_task` now
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError:
            raise BadRequest(f"the request target {url[:80]!r} is not a URL") from None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn would start the app; but an earlier request may still be in progress."""
        run = functools.partial(super()._start_asgi_task, cycle, app)
        self.connection.request_for_app(AppRequest(cycle, run))

    # -- upgrades ------------------------------------------------------------------------------------------------

    def _become_link(self, *, alone: bool) -> None:
        """A child asks this node to use its connection for requests. alone: nothing follows its request."""
        try:
            if not alone or self.intake.reading.rest or not self.connection.is_free:
                raise BadRequest("a request for a link has no body, and no other request is before or behind it")
            check_request(self.url, self.parser.get_http_version(), self.headers)
            request = read_link_request(self.parser.get_method(), self.headers)
            child = child_of_link(request, self.lane.registry.children)
            self.lane.check_link_room(child)
        except RequestError as error:
            self.connection.refuse(error)
            return
        self.connection.hand_over()
        self.intake.hand_over()
        self.connections.discard(self)
        self.clients.discard(self.connection)
        self.lane.accept_link(self.transport, child)

    def _asks_for_web_socket(self) -> bool:
        """Refuse a WebSocket on the lane's paths: without its Upgrade it would be a GET of a path that takes none."""
        wanted = b",".join(value for name, value in self.headers if name == b"upgrade").lower()
        if b"websocket" not in wanted or self.parser.get_method() != b"GET" or lane_path(self.url) is None:
            return False
        self.connection.refuse(
            NotImplementedHere('WebSockets are not relayed here; use the same API over HTTP, with "stream": true')
        )
        return True

    def _without_upgrade(self) -> bytes:
        """The head of the message that asked for an upgrade, without that field, to be parsed again by a new parser.

        Nothing is upgraded here. Left alone, httptools ends the message at its head, and parses the body as the next
        request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.connection.refuse(BadRequest("CONNECT is not served here: this is not a forward proxy"))
            return b""
        head = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        return head

    # -- limits --------------------------------------------------------------------------------------------------

    def _grow_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.lane.settings.max_head_bytes + PARENT_BYTES:
            raise self.lane.head_too_large()

    def _within_limits(self) -> bool:
        """The limits for everyone but a parent, which adds fields of its own to a head that it accepted."""
        settings = self.lane.settings
        return self._head_bytes <= settings.max_head_bytes and len(self.headers) <= settings.max_head_fields


def _descriptor(transport: asyncio.Transport) -> int:
    """The number of a connection's file descriptor; -1 if it is closed already."""
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


def protocol_factory(lane: Lane, clients: Clients) -> Callable[..., LaneProtocol]:
    """For `uvicorn.Config(http=...)`."""
    return functools.partial(LaneProtocol, lane, clients)
