"""The server side of the data path: uvicorn's own protocol, with an `Exchange` for each request on a lane path.

Requests on other paths fall through to the ASGI app, on the same port. What uvicorn 0.54 and httptools 0.9 do that a
streaming proxy cannot live with is met here, each with a test (docs/protocol.md lists them).
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import re
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hierarchy.child import Child, Share
from hierarchy.config import Settings
from hierarchy.dispatch import Dispatch
from hierarchy.errors import (
    BadRequest,
    BodyTooLarge,
    HeadTooLarge,
    LoopDetected,
    ReceiveTimeout,
    RequestError,
    Unavailable,
)
from hierarchy.metrics import Metrics, Tally
from hierarchy.registry import Registry
from hierarchy.relay import render
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.head import AUTH, HOPS, MODEL, SEQ
from hierarchy.relay.upstream import HIGH_WATER, Pool
from hierarchy.status import Api

MAX_HOPS = 32  # levels of nodes; more is a loop
LINGER_S = 2.0  # how long the rest of a refused body is read and thrown away, so that the refusal is not lost
SWEEP_S = 0.5  # how often deadlines are looked at; they are late by this much at most
_FOREVER = float("inf")
_LANE_PATH = re.compile(rb"/v1/[A-Za-z0-9_\-./:@]+")
log = logging.getLogger("hierarchy.lane")

Trust = Callable[[bytes, int], bool]


class Lane:
    """What all connections of a node share.

    trust: tells whether a secret is one that we gave to a parent, and notes the request's number as received from it.
    """

    def __init__(
        self, registry: Registry, dispatch: Dispatch, metrics: Metrics, settings: Settings, trust: Trust,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.registry = registry
        self.dispatch = dispatch
        self.metrics = metrics
        self.settings = settings
        self.trust = trust
        self.clock = clock
        self.access_log: Callable[[Exchange, str], None] | None = _log_access if settings.access_log else None
        self._pools: dict[str, Pool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def pool(self, child: Child) -> Pool:
        """The child's connections. A child that moved or was replaced gets new ones."""
        pool = self._pools.get(child.name)
        if pool is None or pool.child is not child or pool.url != child.url:
            if pool is not None:
                pool.close()
            tls = ssl.create_default_context() if child.tls else None
            pool = self._pools[child.name] = Pool(child, self.settings.connect_timeout_s, tls, self.clock)
        return pool

    def tally(self, share: Share) -> Tally:
        """The counts for a share; looked up once."""
        tally: Tally | None = share.tally
        if tally is None:
            tally = share.tally = self.metrics.tally(*share.key, share.child.name)
        return tally

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the uncommon case that has to await something."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def sweep(self, connections: set[Any]) -> None:
        """Look at every deadline: of clients' connections, and of idle ones to children."""
        now = self.clock()
        for protocol in list(connections):
            if isinstance(protocol, LaneProtocol) and now >= protocol.deadline:
                protocol.check_clock(now)
        for name, pool in list(self._pools.items()):
            pool.sweep()
            if self.registry.children.get(name) is not pool.child:
                pool.close()
                del self._pools[name]

    def cut_all(self, connections: set[Any]) -> None:
        """The grace is over: end what still runs, with an error that its client can read."""
        for protocol in list(connections):
            if isinstance(protocol, LaneProtocol):
                protocol.cut(Unavailable("this node is shutting down"))

    def close(self) -> None:
        """Close all connections to children."""
        for pool in self._pools.values():
            pool.close()

    def protocol_factory(self) -> Callable[..., LaneProtocol]:
        """For `uvicorn.Config(http=...)`."""
        return functools.partial(LaneProtocol, self)


@functools.lru_cache(maxsize=1024)
def lane_path(url: bytes) -> tuple[Api, bytes] | None:
    """Is this request target one that the lane serves? Returns the API family and the target for the child."""
    if not url.startswith(b"/"):  # absolute-form
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            return None
        url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
    path = url.partition(b"?")[0]
    if path == b"/worker_generate_stream":
        return "fastchat", url
    if _LANE_PATH.fullmatch(path) and b"//" not in path and not {b".", b".."} & set(path.split(b"/")):
        return "openai", url
    return None


class LaneProtocol(HttpToolsProtocol):
    """One client's connection. `deadline` is the one time limit in force now; `Lane.sweep` looks at it."""

    def __init__(
        self,
        lane: Lane,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # Strict again: what follows a message that ends the connection is not a request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self.lane = lane
        self.deadline = _FOREVER
        self._running: Exchange | None = None
        self._app_cycle: Any = None  # uvicorn's, while lane requests are queued behind it
        self._receiving = False  # a request has begun and is not complete
        self._in_head = True
        self._deaf = False  # what comes in is no longer looked at
        self._lingering = False
        self._head_bytes = 0
        self._fed_bytes = 0  # of a head that has not ended yet
        self._unread = 0

    # -- connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.client_gone()
        if isinstance(self.cycle, Exchange):
            # uvicorn looks at the newest request only; the one at work may be one of its own.
            self.cycle, self._app_cycle = self._app_cycle, None
        self.pipeline.clear()
        self.deadline = _FOREVER
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, RequestError):
                raise
            self._refuse(error.__context__)
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"the request is not well-formed HTTP: {error}"))
        else:
            if self._in_head and self._fed_bytes > 2 * self.lane.settings.max_head_bytes and not self._deaf:
                self._refuse(self._head_too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._running is not None:
            self._unread = self.transport.get_write_buffer_size()
            self._running.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._running is not None:
            self._running.resume()

    def client_reads(self) -> bool:
        """Has the client taken anything since this was asked last?"""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        return self._unread < before

    def cut(self, error: RequestError) -> None:
        """End a running exchange with an error, and the connection."""
        if self._running is not None:
            self._running.keep_alive = False
            self._running.fail(error)
        else:
            self.transport.close()

    def reset(self) -> None:
        """End the connection so that the client cannot take what it has for the whole: RST, not FIN."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # -- parser ----------------------------------------------------------------------------------------------

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
        self._fed_bytes = 0
        if self._running is None:
            self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: dropped, so that it cannot pass for a field that was checked
        self._grow_head(len(name) + len(value) + 4)
        if len(self.headers) >= self.lane.settings.max_head_fields:
            raise self._head_too_large()
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade():
            return  # see _ignore_upgrade
        route = lane_path(self.url) if self.parser.get_method() == b"POST" else None
        if route is None:
            self._fall_through()
            return
        exchange = Exchange(self, self.lane, *route, self.headers)
        exchange.keep_alive = self.parser.should_keep_alive()
        exchange.http10 = self.parser.get_http_version() != "1.1"
        before = self.cycle
        self.cycle = cast(Any, exchange)
        if before is None or before.response_complete:
            exchange.my_turn = True
            self._running = exchange
        else:
            if not isinstance(before, Exchange):
                self._app_cycle = before
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(Any, exchange), self.app))
        self._look_at_fields(exchange)

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, Exchange):
            if not self.cycle.response_complete:
                self.cycle.body_part(body)
        elif not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._receiving = False
        if self._running is None or self._running is cast(Any, self.cycle):
            self.deadline = _FOREVER  # from here on it is ours, or the app's, and no longer the client's
        if isinstance(self.cycle, Exchange):
            if not self.cycle.response_complete:
                self.cycle.request_complete()
        else:
            super().on_message_complete()

    # -- ends of messages ------------------------------------------------------------------------------------

    def exchange_done(self, exchange: Exchange) -> None:
        """An exchange's answer is written."""
        if self._running is exchange:
            self._running = None
        if not exchange.received and not self.transport.is_closing():
            self._linger()
        elif not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Like uvicorn's, but the keep-alive limit is one of the deadlines that are swept, not a timer of its own."""
        self.server_state.total_requests += 1
        if self._lingering or self.transport.is_closing():
            return
        if self._deaf:
            self.transport.close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            # Not from here: a thousand pipelined requests that fail at once would each stand on the stack of the last.
            self.loop.call_soon(self._start_next)
            return
        settings = self.lane.settings
        self.deadline = self.lane.clock() + (settings.receive_timeout_s if self._receiving else settings.keep_alive_s)

    def _start_next(self) -> None:
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, Exchange):
            super()._start_asgi_task(cycle, app)
            return
        cycle.my_turn = True
        self._running = cycle
        if cycle.received:
            cycle.go()

    def check_clock(self, now: float) -> None:
        """`deadline` has passed."""
        self.deadline = _FOREVER
        running = self._running
        if running is not None and running.received:
            running.check_clock(now)
        elif self._deaf or not self._receiving or not (isinstance(self.cycle, Exchange) or self._in_head):
            self.transport.close()  # lingering, idle, or a body too slow for the app, which then sees a disconnect
        else:
            limit = self.lane.settings.receive_timeout_s
            self._refuse(ReceiveTimeout(f"the request was not complete within {limit:g} s"))

    # -- refusals --------------------------------------------------------------------------------------------

    def _refuse(self, error: RequestError) -> None:
        """A request that cannot be taken. An answer still under way is finished first, then the connection ends."""
        if self._deaf or self.transport.is_closing():
            return
        cycle = self.cycle
        if isinstance(cycle, Exchange) and cycle is self._running and not cycle.received:
            cycle.fail(error)
            return
        self._deaf = True
        self.pipeline.clear()
        if cycle is not None and not cycle.response_complete and (self._running or not isinstance(cycle, Exchange)):
            (self._running or cycle).keep_alive = False
            return
        self.lane.metrics.refuse(error.code)
        self.transport.write(render.error_answer(error, None, self.server_state.default_headers, close=True))
        self._linger()

    def _linger(self) -> None:
        """Close once the client has had time to read our answer: closing on unread bytes would reset it away."""
        self._deaf = self._lingering = True
        self.deadline = self.lane.clock() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _grow_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.lane.settings.max_head_bytes:
            raise self._head_too_large()

    def _head_too_large(self) -> HeadTooLarge:
        settings = self.lane.settings
        limits = f"{settings.max_head_bytes} bytes or {settings.max_head_fields} fields"
        return HeadTooLarge(f"the request's head is over the limit of {limits}")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Nothing is upgraded here: read the message again without the field, so that its body is a body.

        Left alone, httptools ends the message at its head, and the body is parsed as the next request.
        """
        if self.parser.get_method() == b"CONNECT":
            self._refuse(BadRequest("CONNECT is not served here: this is no forward proxy"))
            return
        drop = {b"upgrade", b"http2-settings"}
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in drop)
            if name not in drop:
                lines.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(lines) + b"\r\n" + rest)

    # -- other paths -----------------------------------------------------------------------------------------

    def _fall_through(self) -> None:
        """Hand the request to uvicorn as if nothing had happened."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = (b"expect", b"100-continue") in headers
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError:
            raise BadRequest(f"the request target {url[:80]!r} is no URL") from None

    def _look_at_fields(self, exchange: Exchange) -> None:
        """What the lane itself wants to know of a request's fields."""
        auth, seq, model, hops, length = b"", b"0", b"", b"0", 0
        expects = False
        for name, value in self.headers:
            if name == AUTH:
                auth = value
            elif name == SEQ:
                seq = value
            elif name == MODEL:
                model = value
            elif name == HOPS:
                hops = value
            elif name == b"content-length":
                length = int(value)
            elif name == b"expect" and value.lower() == b"100-continue":
                expects = True
        if length > self.lane.settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body of {length} bytes is larger than {self.lane.settings.max_body_bytes}, the limit of this node"
            )
        if expects and exchange.my_turn:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if auth and seq.isdigit() and self.lane.trust(auth, int(seq)):
            exchange.trusted = True
            exchange.hops = int(hops) if hops.isdigit() else 0
            if exchange.hops > MAX_HOPS:
                raise LoopDetected(f"the request has passed {exchange.hops} nodes; the tree has a loop")
            exchange.begin(unquote(model.decode("ascii", "replace")))
        else:
            exchange.begin("")


def equal_secret(a: bytes, b: bytes) -> bool:
    """Compared in a time that does not tell where they differ."""
    return bool(b) and hmac.compare_digest(a, b)


def _log_access(exchange: Exchange, outcome: str) -> None:
    log.info("access %r %s", exchange, outcome)
