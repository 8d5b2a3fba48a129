"""The connection to a child.

An `Upstream` carries one request at a time. It tells its `Sink` what comes back: a head, pieces of body, the end, or
that it broke. All of that happens in synchronous callbacks; only dialling awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from hierarchy.http.framing import Framing, FramingError, UntilClose
from hierarchy.http.request_head import HeadError, head_end
from hierarchy.http.response_head import UpstreamResponse

if TYPE_CHECKING:
    from hierarchy.relay.upstream.pool import Pool

MAX_HEAD: Final = 64 * 1024  # of an answer
#: a body up to this size is joined to its head, and so goes out in one packet or two
JOINED: Final = 64 * 1024


class Sink(Protocol):
    """Who gets the answer: an exchange."""

    def answer_started(self, answer: UpstreamResponse) -> None:
        """The head is here; nothing of the body is."""

    def answer_body(self, data: bytes) -> None:
        """The next bytes of the body, framing included."""

    def answer_ended(self) -> None:
        """The body is complete; the connection is no longer the sink's."""

    def answer_whole(self, answer: UpstreamResponse, body: bytes) -> None:
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
        "_other",
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
        self._answer: UpstreamResponse | None = None  # the last one here
        self._other: UpstreamResponse | None = None  # the last one with another head: nodes answer for several engines
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
        end = answer.repeats(data) if answer is not None and not self._head else 0
        if not end and self._other is not None and not self._head:
            end = self._other.repeats(data)
            if end:
                answer = self._remember(self._other)
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
            answer = UpstreamResponse(data[:end])
            data = data[end:]
            if not answer.head.interim:
                break
        self._framing = self._remember(answer).framing
        if self._sink is not None:
            self._sink.answer_started(answer)
        return data

    def _remember(self, answer: UpstreamResponse) -> UpstreamResponse:
        """This one, which is not the last one again, is here; what it says of the connection holds."""
        self._other, self._answer = self._answer, answer
        said = answer.head
        self._reusable = said.keep_alive and said.uses_left != 0
        if said.idle_s is not None:
            self.idle_s = min(self.pool.idle_s, max(0.0, said.idle_s - 1.0))
        return answer

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
