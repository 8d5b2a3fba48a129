"""One connection to a child.

An `Upstream` carries one request at a time. It reports to a `ResponseHandler` what comes back: a head, pieces of the
body, the end, or that the connection broke. All of that happens in synchronous callbacks; only dialling awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from mypy_extensions import mypyc_attr

from hierarchy.http.framing import Chunked, FramingError, UntilClose
from hierarchy.http.request_head import HeadError, head_end
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.relay.turns import FEW, FULL, PIECE, STOP, Reading, Turns
from hierarchy.runtime.tcp_keepalive import TcpState, tcp_state

if TYPE_CHECKING:
    from hierarchy.registry.child import Child

MAX_HEAD: Final = 64 * 1024  # bytes of a response's head
#: responses before the final one, and bytes of them together: no engine sends more than a 100, or hints
MAX_INTERIM, MAX_INTERIM_BYTES = 16, 64 * 1024
KEPT: Final = 8192  # bytes of a read that are kept, so that the end of a body can be looked at
#: a body up to this size is joined to its head, so that both leave in one packet or two
JOINED: Final = 64 * 1024


@mypyc_attr(allow_interpreted_subclasses=True)
class ResponseHandler:
    """Receives a child's response: `started`, `body` any number of times and `ended`; or `whole` instead of all three.

    `broken` may come at any moment, and is the last call then.
    """

    def response_started(self, response: UpstreamResponse) -> None:
        """The head is complete; nothing of the body has come."""
        raise NotImplementedError

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        """The next bytes of the body, chunk framing included."""
        raise NotImplementedError

    def response_ended(self, response: UpstreamResponse) -> None:
        """The body is complete; the connection no longer belongs to the handler."""
        raise NotImplementedError

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        """Head and body came in one read, and the connection no longer belongs to the handler."""
        raise NotImplementedError

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        """The connection is lost or unusable before the end of the response.

        stale: it had served before, and ended without a byte of this response: most likely the child closed it as idle.
        """
        raise NotImplementedError


class RequestSender(Protocol):
    """What an attempt sends its request through: an `Upstream`, or a translator in front of one.

    received: something of the body came since the flag was cleared, which the reader of the flag does. reads: those
    that `forward_to` passed on, about one for each token. latest, before: the ends of the last two of them.
    """

    received: bool
    reads: int
    latest: bytes
    before: bytes

    def send(self, handler: ResponseHandler, head: bytes, body: list[bytes], size: int) -> None:
        """Write a request; its response goes to `handler`. body: in pieces, of `size` bytes together."""

    def forward_to(self, write: Callable[[bytes], object]) -> None:
        """Give the rest of the body to `write` instead of the handler, where that is possible."""

    def pause(self) -> None:
        """Stop reading from the child: the client is slower."""

    def resume(self) -> None:
        """Read again."""

    def abort(self) -> None:
        """Drop the connection, so that the child stops; the handler hears nothing more."""

    def tcp_state(self) -> TcpState | None:
        """What the kernel knows of the connection; None if it cannot tell."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ConnectionPool:
    """Where an `Upstream` returns to when its response is complete."""

    child: Child  # that its connections lead to
    path: bytes  # the child's name, as x-hierarchy-path has it
    idle_s: float  # how long a connection may be idle
    turns: Turns  # of the node

    def put(self, upstream: Upstream) -> None:
        """Take back a connection whose response is complete."""
        raise NotImplementedError

    def forget(self, upstream: Upstream) -> None:
        """A connection was lost."""
        raise NotImplementedError


class Upstream(asyncio.Protocol):
    """One connection to a child."""

    __slots__ = (
        "_forward",
        "_handler",
        "_head",
        "_incoming",
        "_interim",
        "_interim_bytes",
        "_last",
        "_other",
        "_reading",
        "_reusable",
        "_served",
        "before",
        "idle_s",
        "idle_since",
        "latest",
        "pool",
        "reads",
        "received",
        "transport",
    )

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until `connection_made`
        self.idle_since = 0.0
        self.idle_s = pool.idle_s
        self.received = False  # bytes of the body were forwarded; the reader of this flag clears it
        self.reads = 0  # that were forwarded
        self.latest = self.before = b""  # the ends of the last two reads that were forwarded
        self._handler: ResponseHandler | None = None
        self._forward: Callable[[bytes], object] | None = None  # gets the body instead of the handler
        self._incoming: UpstreamResponse | None = None  # the response whose body is coming
        self._last: UpstreamResponse | None = None  # the last response here, since its head mostly comes again
        self._other: UpstreamResponse | None = None  # the last one with another head: nodes answer for several engines
        self._head = b""  # the beginning of a head that is not complete
        self._reusable = True
        self._interim = self._interim_bytes = 0  # responses before the final one that comes now
        self._served = 0  # responses
        self._reading = Reading(pool.turns, self._take)

    # -- for the attempt (RequestSender) -------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading: the client is slower than the child. Does nothing once the response is complete."""
        if self._handler is not None and self.is_open:
            self._reading.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.is_open:
            self._reading.resume_reading()

    def forward_to(self, write: Callable[[bytes], object]) -> None:
        """Give the rest of the body to `write` instead of the handler. Does nothing once the response is complete."""
        if self._handler is not None:
            self._forward = write
            self.reads = 0
            self.latest = self.before = b""

    def send(self, handler: ResponseHandler, head: bytes, body: list[bytes], size: int) -> None:
        """Write a request; its response goes to `handler`. body: in pieces, of `size` bytes together."""
        self._handler = handler
        if len(body) == 1 and size <= JOINED:
            self.transport.write(head + body[0])
        elif size <= JOINED:
            self.transport.write(head + b"".join(body))
        else:  # not joined: a long prompt is not copied once more
            self.transport.writelines([head, *body])

    def abort(self) -> None:
        """Drop the connection at once, so that the child stops. The handler hears nothing more."""
        self._handler = self._forward = None
        self._reusable = False
        self.transport.abort()

    def tcp_state(self) -> TcpState | None:
        """What the kernel knows of the connection; None if it cannot tell."""
        return tcp_state(self.transport)

    @property
    def is_open(self) -> bool:
        """Neither closed nor about to be."""
        return not self.transport.is_closing()

    # -- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = self._reading.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: the end of a response without a length, or a break."""
        self.pool.forget(self)
        self._reading.close()
        handler, self._handler = self._handler, None
        if handler is None:
            return
        incoming = self._incoming
        if exc is None and incoming is not None and isinstance(incoming.framing, UntilClose):
            handler.response_ended(incoming)
            return
        stale = self._served > 0 and incoming is None and not self._head
        if exc is None:
            handler.response_broken("closed the connection before its response was complete", stale=stale)
        else:
            handler.response_broken(f"broke the connection: {exc or type(exc).__name__}", stale=stale)

    def data_received(self, data: bytes) -> None:
        """Bytes of a response."""
        self.pool.child.received += 1
        reading = self._reading
        if reading.keeps or (len(data) > PIECE and not self._passes(data)):
            reading.receive(data)
            return
        self._receive(data)
        if len(data) >= FULL and not self.transport.is_closing():
            reading.yield_turn()

    def _passes(self, data: bytes) -> bool:
        """Are all of these bytes passed on as they are, without a look at what is in them?"""
        incoming = self._incoming
        return incoming is not None and self._forward is not None and not isinstance(incoming.framing, Chunked)

    def _take(self, data: bytes) -> int:
        """A piece of a long read. Returns as `turns.Reading.take` must."""
        if self.transport.is_closing():
            return STOP
        self._receive(data)
        # Heads, and what is passed on, cost as little as bytes do; but a handler may look at each event.
        return 0 if self._forward is not None or self._incoming is None else FEW + 1

    def _receive(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            self._begin(data)
            return
        framing = incoming.framing
        try:
            size = framing.feed(data)
        except FramingError as error:
            self._refuse(error, data[: error.valid_bytes])
            return
        if framing.closing:
            self._close(incoming, data, size)
        elif self._forward is not None:  # the commonest case
            self.received = True
            self.reads += 1
            self.before = self.latest
            self.latest = data if len(data) <= KEPT else data[-KEPT:]
            self._forward(data)
        elif self._handler is not None:
            self._handler.response_body(incoming, data)

    # -- inside --------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        """A response begins, or its head continues."""
        handler, response = self._handler, self._last
        if handler is None:  # no request was sent: not a connection to trust with one
            self.abort()
            return
        end = response.repeats(data) if response is not None and not self._head else 0
        if not end and self._other is not None and not self._head:
            end = self._other.repeats(data)
            if end:
                response = self._remember(self._other)
        if response is None or not end:
            try:
                data = self._take_head(data)
            except HeadError as error:
                self._refuse(error)
                return
            response = self._incoming
            if response is None:
                return
        elif response.head.kind == "length" and len(data) == end + response.length > end:
            self._finish()
            handler.response_whole(response, data[end:])
            return
        else:
            response.framing = response.new_framing()
            self._incoming = response
            handler.response_started(response)
            data = data[end:]
        if data or response.framing.done:
            self._receive(data)

    def _take_head(self, data: bytes) -> bytes:
        """Read heads, interim ones too. Returns what follows; `_incoming` is set once the final head is complete.

        Raises:
            HeadError: it is malformed, or too long.
        """
        while True:
            data = self._head + data if self._head else data
            end = head_end(data)
            if end < 0:
                self._refuse_long(len(data))
                self._head = data
                return b""
            self._refuse_long(end)
            self._head = b""
            response = UpstreamResponse(data[:end])
            data = data[end:]
            if not response.head.interim:
                break
            self._count_interim(end)
        self._interim = self._interim_bytes = 0
        self._incoming = self._remember(response)
        if self._handler is not None:
            self._handler.response_started(response)
        return data

    def _count_interim(self, size: int) -> None:
        """Another interim response has come. size: bytes of it. Raises `HeadError`."""
        self._interim += 1
        self._interim_bytes += size
        if self._interim > MAX_INTERIM or self._interim_bytes > MAX_INTERIM_BYTES:
            raise HeadError(f"more than {MAX_INTERIM} interim responses, or {MAX_INTERIM_BYTES} bytes of them")

    def _remember(self, response: UpstreamResponse) -> UpstreamResponse:
        """A response with another head than the last one: note it, and what it says of the connection."""
        self._other, self._last = self._last, response
        head = response.head
        self._reusable = head.keep_alive and head.uses_left != 0
        if head.idle_s is not None:
            self.idle_s = min(self.pool.idle_s, max(0.0, head.idle_s - 1.0))
        return response

    def _refuse(self, error: HeadError | FramingError, good: bytes = b"") -> None:
        """The response is malformed behind `good`, the last well-formed bytes of its body."""
        handler, incoming = self._handler, self._incoming
        self.abort()
        if handler is not None:
            if good and incoming is not None and not incoming.framing.closing:
                handler.response_body(incoming, good)
            handler.response_broken(f"sent a malformed response: {error}")

    def _close(self, response: UpstreamResponse, data: bytes, size: int) -> None:
        """The content is complete, and perhaps the whole body. Trailers are held, since some are for this node alone.

        size: how much of `data` belongs to the body.
        """
        framing = response.framing
        if not isinstance(framing, Chunked):
            self._end(response, data, size)
            return
        at = framing.trailers_at
        if not framing.done:
            self._pass_on(response, data[:at])
        elif size == at + 2 and not framing.trailers:  # as nearly always, just the empty line
            self._end(response, data, size)
        else:
            rest = framing.trailers + b"\r\n"
            self._end(response, b"".join([data[:at], rest, data[size:]]), at + len(rest))

    def _pass_on(self, response: UpstreamResponse, data: bytes) -> None:
        if not data:
            return
        if self._forward is not None:
            self.received = True
            self.before, self.latest = self.latest, data[-KEPT:]
            self._forward(data)
        elif self._handler is not None:
            self._handler.response_body(response, data)

    def _end(self, response: UpstreamResponse, data: bytes, size: int) -> None:
        """The body of the response ends after `size` bytes of `data`."""
        handler = self._handler
        if size != len(data):
            data = data[:size]
            self._reusable = False  # it sent more than it was asked for
        self._finish()
        if handler is None:
            return
        if size:
            handler.response_body(response, data)
        handler.response_ended(response)

    def _refuse_long(self, size: int) -> None:
        if size > MAX_HEAD:
            raise HeadError(f"its head is longer than {MAX_HEAD} bytes")

    def _finish(self) -> None:
        self._handler = self._incoming = self._forward = None
        self._served += 1
        if self.transport.get_write_buffer_size():
            # It answered without reading the whole request, and a close would wait for it to do so.
            self.transport.abort()
        elif self._reusable and not self._reading.rest and not self.transport.is_closing():
            self._reading.resume_reading()
            self.pool.put(self)
        else:
            self.transport.close()

    def __repr__(self) -> str:
        state = "idle" if self._handler is None else "receiving" if self._incoming is not None else "waiting"
        return f"<Upstream {self.pool.child.name} {state} served={self._served}>"
