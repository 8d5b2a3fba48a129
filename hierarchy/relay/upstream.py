"""The connection to a child, and the pool of those that are idle.

An `Upstream` carries one request at a time. It tells its `Sink` what comes back: a head, pieces of body, the end, or
that it broke. All of that happens in synchronous callbacks; only dialling awaits.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from hierarchy.child import Child
from hierarchy.relay import render
from hierarchy.relay.answer import Answer
from hierarchy.relay.framing import Framing, FramingError, UntilClose
from hierarchy.relay.head import ATTEMPTS, AUTH, HOPS, MODEL, SEQ, HeadError, head_end, request_opening
from hierarchy.relay.seen import RequestHead
from hierarchy.security.guard import Guard, connect

MAX_HEAD = 64 * 1024  # of an answer
# Engines built on uvicorn or cpp-httplib end idle connections after 5 s; being first avoids a race with their FIN.
ENGINE_IDLE_S, NODE_IDLE_S = 4.0, 30.0
MAX_IDLE = 4096  # connections kept per child
MAX_OPENINGS = 1024  # of heads of requests, kept per child
#: a body up to this size is joined to its head, and so goes out in one packet or two
JOINED = 64 * 1024


class Sink(Protocol):
    """Who gets the answer: an exchange."""

    def answer_started(self, answer: Answer) -> None:
        """The head is here; nothing of the body is."""

    def answer_body(self, data: bytes) -> None:
        """The next bytes of the body, framing included."""

    def answer_ended(self) -> None:
        """The body is complete; the connection is no longer the sink's."""

    def answer_whole(self, answer: Answer, body: bytes) -> None:
        """All three at once: head and body came in one read, and the connection is no longer the sink's."""

    def answer_broken(self, why: str, *, stale: bool = False) -> None:
        """The connection is gone or unusable before the end.

        stale: it had served before, and ended without a byte of this answer: most likely the child closed it as idle.
        """


class Upstream(asyncio.Protocol):
    """One connection to a child."""

    __slots__ = (
        "_answer",
        "_forward",
        "_framing",
        "_head",
        "_paused",
        "_reusable",
        "_served",
        "_sink",
        "heard",
        "idle_s",
        "idle_since",
        "pool",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.idle_since = 0.0
        self.idle_s = pool.idle_s
        self._sink: Sink | None = None
        self.heard = False  # something of the body was passed on; whoever asks sets it back
        self._forward: Callable[[bytes], object] | None = None
        self._framing: Framing | None = None  # of the answer that is coming
        self._answer: Answer | None = None  # the last one here
        self._head = b""  # of an answer that has come in part
        self._reusable = True
        self._served = 0  # answers
        self._paused = False

    # -- for the exchange ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading: the client is slower than the child. Does nothing once the answer is here."""
        if self._sink is not None and not self._paused and self.is_open:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self.is_open:
            self._paused = False
            self.transport.resume_reading()

    def pass_on(self, write: Callable[[bytes], object]) -> None:
        """Give the rest of the body to `write` instead of the sink; `heard` tells whether any came.

        Does nothing once the answer is here.
        """
        if self._sink is not None:
            self._forward = write

    def send(self, sink: Sink, head: bytes, body: list[bytes], size: int) -> None:
        """Write a request; its answer goes to `sink`. body: in pieces, of `size` bytes together."""
        self._sink = sink
        if len(body) == 1 and size <= JOINED:
            self.transport.write(head + body[0])
        elif size <= JOINED:
            self.transport.write(head + b"".join(body))
        else:  # not joined: a long prompt is not copied once more
            self.transport.writelines([head, *body])

    def abort(self) -> None:
        """Drop the connection at once; the child sees that nobody wants the answer. The sink hears nothing more."""
        self._sink = self._forward = None
        self._reusable = False
        self.transport.abort()

    @property
    def is_open(self) -> bool:
        return not self.transport.is_closing()

    # -- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if exc is None and isinstance(self._framing, UntilClose):
            sink.answer_ended()
            return
        stale = self._served > 0 and self._framing is None and not self._head
        if exc is None:
            sink.answer_broken("closed the connection before its answer was complete", stale=stale)
        else:
            sink.answer_broken(f"broke the connection: {exc or type(exc).__name__}", stale=stale)

    def data_received(self, data: bytes) -> None:
        framing = self._framing
        if framing is None:
            self._begin(data)
            return
        try:
            size = framing.feed(data)
        except FramingError as error:
            self._refuse(error, data[: error.good])
            return
        if framing.done:
            self._end(data, size)
        elif self._forward is not None:  # the commonest case
            self.heard = True
            self._forward(data)
        elif self._sink is not None:
            self._sink.answer_body(data)

    # -- inside ----------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        """An answer begins, or goes on with its head."""
        sink, answer = self._sink, self._answer
        if sink is None:  # nobody asked: not a connection to trust with a request
            self.abort()
            return
        end = answer.repeated(data) if answer is not None and not self._head else 0
        if answer is None or not end:
            try:
                data = self._take_head(data)
            except HeadError as error:
                self._refuse(error)
                return
            if self._framing is None:
                return
        elif answer.head.kind == "length" and len(data) == end + answer.length > end:
            self._finish()
            sink.answer_whole(answer, data[end:])
            return
        else:
            self._framing = answer.new_framing()
            answer.framing = self._framing
            sink.answer_started(answer)
            data = data[end:]
        if data or self._framing.done:
            self.data_received(data)

    def _take_head(self, data: bytes) -> bytes:
        """Read heads, interim ones too. Returns what follows; `_framing` is set once the final head is complete.

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
            answer = Answer(data[:end])
            data = data[end:]
            if not answer.head.interim:
                break
        self._answer = answer
        self._framing = answer.framing
        said = answer.head
        self._reusable = said.keep_alive and said.uses_left != 0
        if said.idle_s is not None:
            self.idle_s = min(self.pool.idle_s, max(0.0, said.idle_s - 1.0))
        if self._sink is not None:
            self._sink.answer_started(answer)
        return data

    def _refuse(self, error: HeadError | FramingError, good: bytes = b"") -> None:
        """The answer is malformed behind `good`, the last of its body."""
        sink = self._sink
        self.abort()
        if sink is not None:
            if good:
                sink.answer_body(good)
            sink.answer_broken(f"sent a malformed answer: {error}")

    def _end(self, data: bytes, size: int) -> None:
        """The answer's body ends after `size` bytes of `data`."""
        sink = self._sink
        assert sink is not None
        if size != len(data):
            data = data[:size]
            self._reusable = False  # it said more than it was asked for
        self._finish()
        if size:
            sink.answer_body(data)
        sink.answer_ended()

    def _refuse_long(self, size: int) -> None:
        if size > MAX_HEAD:
            raise HeadError(f"its head is longer than {MAX_HEAD} bytes")

    def _finish(self) -> None:
        self._sink = self._framing = self._forward = None
        self._served += 1
        if self.transport.get_write_buffer_size():
            # It answered without taking the whole request, and a close would wait for it to do so.
            self.transport.abort()
        elif self._reusable and not self.transport.is_closing():
            if self._paused:
                self.resume()
            self.pool.put(self)
        else:
            self.transport.close()


class Pool:
    """The connections to one child. Idle ones are taken last in, first out, so that a burst's surplus can age away."""

    def __init__(
        self,
        child: Child,
        connect_timeout_s: float,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        guard: Guard | None = None,
    ) -> None:
        self.child = child
        self.url = child.url
        self.path = render.field_value(child.group or child.name)  # of x-hierarchy-path
        self.idle: dict[Upstream, None] = {}  # in the order they came back
        self.idle_s = NODE_IDLE_S if child.is_node else ENGINE_IDLE_S
        self.closed = False
        self.numbered = child.is_node  # its requests carry a number, and what else a parent says
        self._openings: dict[tuple[RequestHead, str, int, int], bytes] = {}
        self._secret = child.secret
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls if child.tls else None
        self._clock = clock
        self._guard = guard

    def take(self) -> Upstream | None:
        """An idle connection, or None: then `dial`."""
        while self.idle:
            upstream, _ = self.idle.popitem()
            if self._clock() - upstream.idle_since < upstream.idle_s and not upstream.transport.is_closing():
                return upstream
            upstream.transport.close()
        return None

    def opening(self, said: RequestHead, model: str, hops: int, lent: int) -> bytes:
        """A request's head as this child gets it, up to its first number: the request's if `numbered`, else the length.

        model, hops, lent: what a node below is told of the request; `lent` are attempts. Kept, since clients send the
        same head again and again.
        """
        child = self.child
        if self._secret is not child.secret:
            self._secret = child.secret
            self._openings.clear()
        key = said, model, hops, lent
        opening = self._openings.get(key)
        if opening is None:
            ours = [
                (AUTH, child.secret),
                (MODEL, render.field_value(model)),
                (HOPS, b"%d" % hops),
                (ATTEMPTS, b"%d" % lent),
                (SEQ, b""),
            ]
            fields = said.fields + child.credential
            opening = request_opening(
                child.prefix + said.target, child.authority, fields, ours if self.numbered else ()
            )
            if len(self._openings) >= MAX_OPENINGS:
                self._openings.clear()
            self._openings[key] = opening
        return opening

    async def dial(self) -> Upstream:
        """A new connection.

        Raises:
            OSError: it could not be made (TimeoutError too is one).
        """
        child = self.child
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                upstream = await connect(
                    lambda: Upstream(self), child.host, child.port, self._tls, self._guard, local=child.local
                )
        except (UnicodeError, OverflowError) as error:  # what the resolver says of an impossible name or port
            raise OSError(f"{child.host}:{child.port} is no address: {error}") from None
        if not upstream.is_open:
            raise ConnectionResetError("it closed the new connection at once")
        return upstream

    def put(self, upstream: Upstream) -> None:
        """Give back a connection whose answer is complete."""
        if self.closed or len(self.idle) >= MAX_IDLE:
            upstream.transport.close()
            return
        upstream.idle_since = self._clock()
        self.idle[upstream] = None

    def forget(self, upstream: Upstream) -> None:
        """A connection was lost; if it was idle, nobody shall take it."""
        self.idle.pop(upstream, None)

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        now = self._clock()
        for upstream in [one for one in self.idle if now - one.idle_since >= one.idle_s]:
            del self.idle[upstream]
            upstream.transport.close()

    def close(self) -> None:
        """Close the idle ones now, and the busy ones when their answers end."""
        self.closed = True
        while self.idle:
            self.idle.popitem()[0].transport.close()

    def __repr__(self) -> str:
        return f"<Pool {self.child.name} idle={len(self.idle)}>"
