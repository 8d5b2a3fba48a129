"""What comes in on a client's connection: uvicorn's own protocol, with an `Exchange` for each request on a lane path.

Requests on other paths fall through to the ASGI app, on the same port. What uvicorn 0.54 and httptools 0.9 do that a
streaming proxy cannot live with is met here and in `turns`, each with a test (docs/protocol.md lists them).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from hierarchy.errors import (
    BadRequest,
    BodyTooLarge,
    HeadTooLarge,
    InvalidApiKey,
    LoopDetected,
    NotImplementedHere,
    RequestError,
)
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.head import DEADLINE, SEQ, check_request, lane_path, origin_form, without_upgrade
from hierarchy.relay.link import admit, asks_for_link
from hierarchy.relay.seen import RequestHead, Split, is_number
from hierarchy.relay.turns import CONTINUE, FOREVER, Turns

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane

MAX_HOPS = 32  # levels of nodes; more is a loop
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
        self._taken: RequestHead | None = None  # the lane request that the last read brought
        self._last: Split | None = None  # the head at the start of an earlier read, which mostly comes again
        self._left = 0  # bytes of body still to come, of a request whose head was known
        self._head_bytes = 0
        self._idle_bytes = 0  # fed since something came of it: the head, or a piece of body

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._left:
            data = self._take_rest(data)
            if not data or self._deaf:
                return
        begun = None
        if not (self._receiving or self.pipeline or self._refusal or self.flow.write_paused or self._at_work):
            self._last = begun = self.lane.seen.find(data, self._last)
            if begun is not None and begun.head is not None and self._take_known(begun, begun.head, data):
                return
        self._parse(data)
        head, self._taken = self._taken, None
        if begun is None or head is None or len(data) > begun.end + begun.length:
            return
        if begun.seq >= 0 or not head.auth:  # a parent's number that stands elsewhere would be remembered with it
            self.lane.seen.add(begun, head)

    def _take_known(self, begun: Split, head: RequestHead, data: bytes) -> bool:
        """Take a request, or its beginning, if its head is one that the parser has taken before."""
        left = begun.end + begun.length - len(data)
        if left < 0 or self.transport.is_closing():
            return False
        now = self.lane.clock()
        self.cycle = self._running = exchange = self.lane.exchange(self, head, now)  # type: ignore[assignment]
        exchange.my_turn = True
        try:
            self._begin(exchange, begun.seq, begun.length, begun.left_ms)
            if left:
                exchange.body_part(data[begun.end :])
        except RequestError as error:
            exchange.received, exchange.keep_alive = not left, False  # as if it had been refused while it came
            exchange.fail(error)
            return True
        if left:
            self._left, self._receiving, self._incoming = left, True, exchange
            self.deadline = now + self.lane.settings.receive_timeout_s
        else:
            self.deadline = FOREVER
            exchange.take_whole(data[begun.end :])
        return True

    def _take_rest(self, data: bytes) -> bytes:
        """More of the body of a request whose head was known. Returns what stands behind it."""
        rest = data[self._left :]
        if rest:
            data = data[: self._left]
        self._left -= len(data)
        exchange = self._incoming
        try:
            exchange.body_part(data)
        except RequestError as error:
            self._left = 0
            self._refuse(error)
            return b""
        if not self._left:
            self._receiving, self._incoming = False, None
            self.deadline = FOREVER
            exchange.request_complete()
        return rest

    def _parse(self, data: bytes) -> None:
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
                self._refuse(error.__context__)
            except httptools.HttpParserError as error:
                self._refuse(BadRequest(f"the request is not well-formed HTTP: {error}"))
            if not rest or self._deaf:
                break
            data = cast(bytes, rest.pop())
        if self._idle_bytes > 2 * self.lane.settings.max_head_bytes and self._receiving:
            self._refuse(self._head_too_large())

    # -- parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._deaf or self.transport.is_closing():
            raise BadRequest("the connection is being closed")
        # uvicorn builds an ASGI scope here; for the lane that would be for nothing.
        self._receiving = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0
        self._idle_bytes = 0
        if not self.pipeline and self._at_work is None:
            self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: dropped, so that it cannot pass for a field that was checked
        self._grow_head(len(name) + len(value) + 4)
        if len(self.headers) >= self.lane.settings.max_head_fields + PARENT_FIELDS:
            raise self._head_too_large()
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
                raise self._head_too_large()
            self._fall_through(found)
            return
        head = RequestHead.of(
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
        self.cycle = self._incoming = cast(Any, exchange)
        if (before is None or before.response_complete) and not self.flow.write_paused:
            exchange.my_turn = True
            self._running = exchange
        else:
            self.pipeline.appendleft((cast(Any, exchange), self.app))
            self._pace()
        seq, left_ms = found.get(SEQ, b"0"), found.get(DEADLINE, b"")
        self._begin(
            exchange,
            int(seq) if is_number(seq) else -1,
            int(found.get(b"content-length", b"0")),
            int(left_ms) if is_number(left_ms) else -1,
        )
        if head.expects:
            if exchange.my_turn:
                self.transport.write(CONTINUE)
        elif head.keep_alive:
            self._taken = head

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        incoming = self._incoming
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
        self._receiving = False
        incoming, self._incoming = self._incoming, None
        if incoming is self._at_work:
            self.deadline = FOREVER  # from here on it is ours, or the app's, and no longer the client's
        if not isinstance(incoming, Exchange):
            super().on_message_complete()
        elif not incoming.response_complete:
            incoming.request_complete()

    # -- requests ------------------------------------------------------------------------------------------------

    def _begin(self, exchange: Exchange, seq: int, length: int, left_ms: int) -> None:
        """The head of a lane request is complete: whom it comes from, and what that means for it.

        seq: its number, if it is a parent's, else -1. length: of its body, as far as its head says. left_ms: what the
        parent leaves of the time for the whole of it; -1 if it sets no limit.

        Raises:
            RequestError: it is not taken.
        """
        head = exchange.head
        parent = self.lane.trust(head.auth, seq) if head.auth and seq >= 0 else None
        if parent is not None:
            exchange.trust(parent)
            if left_ms >= 0:
                exchange.ends_at = self.lane.clock() + left_ms / 1000
            if head.hops > MAX_HOPS:
                raise LoopDetected(f"the request has passed {head.hops} nodes; the tree has a loop")
        elif not head.within_limits:
            raise self._head_too_large()
        elif head.caller.refusal:
            raise InvalidApiKey(head.caller.refusal)
        limit = self.lane.settings.max_body_bytes
        if length > limit:
            raise BodyTooLarge(f"the body of {length} bytes is larger than {limit}, the limit of this node")

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
                self._incoming = self.cycle
                if self.pipeline:
                    self._pace()

    def _turn_round(self, *, alone: bool) -> None:
        """A child asks for its connection to be used for our requests. alone: nothing stands behind its request."""
        try:
            if not alone or self.pipeline or self._at_work is not None:
                raise BadRequest("a request for a link has no body, and nothing comes before its answer or behind it")
            check_request(self.url, self.parser.get_http_version(), self.headers)
            child = admit(self.parser.get_method(), self.headers, self.lane.registry.children)
        except RequestError as error:
            self._refuse(error)
            return
        self._deaf = True
        self.deadline = FOREVER
        self.connections.discard(self)  # of clients: from here on it is one to a child
        self.flow.resume_reading()
        self.lane.turn_round(self.transport, child)

    def _asks_for_web_socket(self) -> bool:
        """Refuse a WebSocket on the lane's paths: without its Upgrade it would be a GET of a path that takes none."""
        wanted = b",".join(value for name, value in self.headers if name == b"upgrade").lower()
        if b"websocket" not in wanted or self.parser.get_method() != b"GET" or lane_path(self.url) is None:
            return False
        self._refuse(
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
            self._refuse(BadRequest("CONNECT is not served here: this is no forward proxy"))
            return b""
        head = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        return head

    # -- limits --------------------------------------------------------------------------------------------------

    def _grow_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.lane.settings.max_head_bytes + PARENT_BYTES:
            raise self._head_too_large()

    def _within_limits(self) -> bool:
        """The limits as they are for everyone but a parent, which adds fields of its own to what it let pass."""
        settings = self.lane.settings
        return self._head_bytes <= settings.max_head_bytes and len(self.headers) <= settings.max_head_fields

    def _head_too_large(self) -> HeadTooLarge:
        settings = self.lane.settings
        limits = f"{settings.max_head_bytes} bytes or {settings.max_head_fields} fields"
        return HeadTooLarge(f"the request's head is over the limit of {limits}")
