"""What comes in on a client's connection: uvicorn's own protocol, with an `Exchange` for each request on a lane path.

Requests on other paths fall through to the ASGI app, on the same port. What uvicorn 0.54 and httptools 0.9 do that a
streaming proxy cannot live with is met here and in `turns`, each with a test (docs/reference/protocol.md lists them).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from hierarchy.errors import BadRequest, NotImplementedHere, RequestError
from hierarchy.http.request_head import (
    DEADLINE,
    SEQ,
    RequestHead,
    check_request,
    decimal,
    lane_path,
    origin_form,
    without_upgrade,
)
from hierarchy.relay.downstream.connection import head_too_large
from hierarchy.relay.downstream.turns import CONTINUE, Turns
from hierarchy.relay.exchange import FOREVER, Exchange
from hierarchy.relay.upstream.links import admit, asks_for_link

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane

# What a parent adds to a head that was within its limits: its own fields, among them a model's name of at most 256
# characters, percent-encoded.
PARENT_FIELDS, PARENT_BYTES = 8, 4096


class LaneProtocol(Turns):
    """One client's connection, from its first byte to its last."""

    def __init__(
        self,
        lane: Lane,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(lane, config, server_state, app_state, _loop)
        # Strict again: what follows a message that ends the connection is not a request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._in_head = True
        self._head_bytes = 0
        self._idle_bytes = 0  # fed since something came of it: the head, or a piece of body

    def parse(self, data: bytes) -> None:
        self._idle_bytes += len(data)
        rest: list[bytes | memoryview] = []
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if asks_for_link(self.url, self.headers):
                    self._turn_round(alone=not rest and upgrade.args[0] == len(data))
                    return
                if self._asks_for_web_socket():
                    return
                # In a loop, not by recursion: one read holds thousands of such requests.
                rest += [memoryview(data)[upgrade.args[0] :], self._without_upgrade()]
            except httptools.HttpParserCallbackError as error:
                if not isinstance(error.__context__, RequestError):
                    raise
                self.refuse(error.__context__)
            except httptools.HttpParserError as error:
                self.refuse(BadRequest(f"the request is not well-formed HTTP: {error}"))
            if not rest or self.deaf:
                break
            data = cast(bytes, rest.pop())
        if self._idle_bytes > 2 * self.lane.settings.max_head_bytes and self.receiving:
            self.refuse(head_too_large(self.lane))

    # -- parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.deaf or self.transport.is_closing():
            raise BadRequest("the connection is being closed")
        # uvicorn builds an ASGI scope here; for the lane that would be for nothing.
        self.receiving = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0
        self._idle_bytes = 0
        if not self.pipeline and self.at_work is None:
            self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: dropped, so that it cannot pass for a field that was checked
        self._grow_head(len(name) + len(value) + 4)
        if len(self.headers) >= self.lane.settings.max_head_fields + PARENT_FIELDS:
            raise head_too_large(self.lane)
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade():
            return  # see _without_upgrade
        version = self.parser.get_http_version()
        found = check_request(self.url, version, self.headers)
        route = self.lane.route(self.url) if self.parser.get_method() == b"POST" else None
        if route is None:
            if not self._within_limits():
                raise head_too_large(self.lane)
            self._fall_through(found)
            return
        head = RequestHead.from_fields(
            route,
            self.headers,
            found,
            http10=version == "1.0",
            keep_alive=self.parser.should_keep_alive(),
            within_limits=self._within_limits(),
            caller=self.lane.caller(route[1], found),
            stripped=self.lane.stripped,
        )
        exchange = self.lane.exchange(self, head, self.lane.clock())
        before = self.cycle
        self.cycle = self.incoming = exchange
        if (before is None or before.response_complete) and not self.blocked:
            exchange.my_turn = True
            self.running = exchange
        else:
            self.pipeline.appendleft((exchange, self.app))
            self._pace()
        seq, left_ms = found.get(SEQ, b"0"), found.get(DEADLINE, b"")
        self.begin(
            exchange,
            decimal(seq),
            int(found.get(b"content-length", b"0")),
            decimal(left_ms),
        )
        if head.expects:
            if exchange.my_turn:
                self.transport.write(CONTINUE)
        elif head.keep_alive:
            self.taken = head

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        incoming = self.incoming
        if isinstance(incoming, Exchange):
            if not incoming.response_complete:
                incoming.body_part(body)
                if not incoming.my_turn:
                    self._pace()
        elif not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.receiving = False
        incoming, self.incoming = self.incoming, None
        if incoming is self.at_work:
            self.deadline = FOREVER  # from here on it is ours, or the app's, and no longer the client's
        if not isinstance(incoming, Exchange):
            super().on_message_complete()
        elif not incoming.response_complete:
            incoming.request_complete()

    # -- requests ------------------------------------------------------------------------------------------------

    def _fall_through(self, found: dict[bytes, bytes]) -> None:
        """Hand the request to uvicorn as if nothing had happened."""
        url, headers = origin_form(self.url), self.headers
        if url is None:
            raise BadRequest(f"the request target {self.url[:80]!r} is no URL")
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = found.get(b"expect", b"").lower() == b"100-continue"
        before = self.cycle
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError:
            raise BadRequest(f"the request target {url[:80]!r} is no URL") from None
        finally:
            if self.cycle is not before:
                self.incoming = self.cycle
                if self.pipeline:
                    self._pace()

    def _turn_round(self, *, alone: bool) -> None:
        """A child asks for its connection to be used for our requests. alone: nothing stands behind its request."""
        try:
            if not alone or self.pipeline or self.at_work is not None:
                raise BadRequest("a request for a link has no body, and nothing comes before its answer or behind it")
            check_request(self.url, self.parser.get_http_version(), self.headers)
            child = admit(self.parser.get_method(), self.headers, self.lane.registry.children)
        except RequestError as error:
            self.refuse(error)
            return
        self.deaf = True
        self.deadline = FOREVER
        self.connections.discard(self)  # of clients: from here on it is one to a child
        self.flow.resume_reading()
        self.lane.turn_round(self.transport, child)

    def _asks_for_web_socket(self) -> bool:
        """Refuse a WebSocket on the lane's paths: without its Upgrade it would be a GET of a path that takes none."""
        wanted = b",".join(value for name, value in self.headers if name == b"upgrade").lower()
        if b"websocket" not in wanted or self.parser.get_method() != b"GET" or lane_path(self.url) is None:
            return False
        self.refuse(
            NotImplementedHere('WebSockets are not relayed here; use the same API over HTTP, with "stream": true')
        )
        return True

    def _without_upgrade(self) -> bytes:
        """The head of the message that asked for an upgrade, without that field, to be parsed again by a new parser.

        Nothing is upgraded here. Left alone, httptools ends the message at its head, and the body is parsed as the
        next request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(BadRequest("CONNECT is not served here: this is no forward proxy"))
            return b""
        head = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        return head

    # -- limits --------------------------------------------------------------------------------------------------

    def _grow_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.lane.settings.max_head_bytes + PARENT_BYTES:
            raise head_too_large(self.lane)

    def _within_limits(self) -> bool:
        """The limits as they are for everyone but a parent, which adds fields of its own to what it let pass."""
        settings = self.lane.settings
        return self._head_bytes <= settings.max_head_bytes and len(self.headers) <= settings.max_head_fields
