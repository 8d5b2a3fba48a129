"""One client's connection: whose turn it is, how long it may take, how it ends.

A connection's requests are answered in the order in which they came, some by the lane, some by the ASGI app. What comes
in is `protocol`'s matter; this is the rest.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hierarchy.child import Child
from hierarchy.errors import ReceiveTimeout, RequestError
from hierarchy.relay import render
from hierarchy.relay.dialect import OPENAI
from hierarchy.relay.exchange import Exchange

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane

FRESH_S = 1.0  # how long a new connection may take to say what it wants when the server stops
LINGER_S = 2.0  # how long the rest of a refused body is read and thrown away, so that the refusal is not lost
#: bytes waiting for a client above which reading from its child stops. Small, since the kernel holds far more before
#: any wait here, and since one read of uvloop's may still come on top: 256,000 bytes.
HIGH_WATER = 4096
# How much may wait behind the request at work before reading stops: requests, and bytes of the newest one's body.
# Until then reading goes on, since nothing else tells that the client has left.
MAX_WAITING, MAX_WAITING_BYTES = 8, 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FOREVER = float("inf")


class Turns(HttpToolsProtocol):
    """One client's connection. `deadline` is the one time limit in force now; `Lane.sweep` looks at it.

    `cycle` is the newest request, `pipeline` holds those that wait for their turn, newest first (both uvicorn's). At
    work is at most one: an exchange (`_running`) or a cycle of the app's (`_app_cycle`).
    """

    def __init__(
        self,
        lane: Lane,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.lane = lane
        self.deadline = FOREVER
        self.keep_alive_s = lane.settings.keep_alive_s
        self._running: Exchange | None = None
        self._app_cycle: Any = None  # the last one that was started
        self._incoming: Any = None  # the request whose body is coming in
        self._receiving = False  # a request has begun and is not complete
        self._deaf = False  # what comes in is no longer looked at
        self._refusal: RequestError | None = None  # to be written after the answers that are still due
        self._lingering = False
        self._unread = 0

    # -- connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.client_gone()
        self.pipeline.clear()
        self._drop_app_cycle()
        if isinstance(self.cycle, Exchange):
            self.cycle = cast(Any, None)
        self.deadline = FOREVER
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops. A connection that was taken, but has not said yet what it wants, may still say it."""
        in_head = self._receiving and not self._deaf and self._at_work is None
        if in_head or (self.cycle is None and not self._lingering):
            self.deadline = min(self.deadline, self.lane.clock() + FRESH_S)
            return
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        if self._running is not None:
            self._running.pause()
        elif self.deadline == FOREVER:  # the app waits for its client
            self.deadline = self.lane.clock() + self.lane.settings.idle_timeout_s

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._running is not None:
            self._running.resume()
        elif self.pipeline or self._refusal:
            self.loop.call_soon(self._start_next)

    def client_reads(self) -> bool:
        """Has the client taken anything since this was asked last?"""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        return self._unread < before

    def give_up_on(self, child: Child, why: str) -> None:
        """A child is dead: if a running exchange waits for it, it goes elsewhere."""
        if self._running is not None:
            self._running.give_up_on(child, why)

    def cut(self, error: RequestError) -> None:
        """End a running exchange with an error, and the connection."""
        if self._running is not None:
            self._running.keep_alive = False
            self._running.fail(error)
        else:
            self.transport.close()

    def drop_child(self, child: Child, error: RequestError) -> None:
        """End the running exchange if a child answers it that is no longer one."""
        if self._running is not None:
            self._running.drop_child(child, error)

    def reset(self) -> None:
        """End the connection so that the client cannot take what it has for the whole: RST, not FIN."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def _at_work(self) -> Any:
        """The request that is being answered, or None."""
        if self._running is not None:
            return self._running
        app = self._app_cycle
        return None if app is None or app.response_complete else app

    # -- turns ---------------------------------------------------------------------------------------------------

    def exchange_done(self, exchange: Exchange, now: float) -> None:
        """An exchange's answer is written."""
        if self._running is exchange:
            self._running = None
        if not exchange.received and not self.transport.is_closing():
            self._linger()
        elif not exchange.keep_alive:
            self.transport.close()
        self._turn_ends(now)

    def on_response_complete(self) -> None:
        """Like uvicorn's, but the keep-alive limit is one of the deadlines that are swept, not a timer of its own."""
        self._turn_ends(self.lane.clock())

    def _turn_ends(self, now: float) -> None:
        self.server_state.total_requests += 1
        if self._lingering:
            return
        settings = self.lane.settings
        if self.flow.write_paused or self.transport.is_closing():
            # What is written must be read first, however slowly: `client_reads` is asked at each deadline.
            self._unread = self.transport.get_write_buffer_size()
            self.deadline = now + settings.idle_timeout_s
        elif self.pipeline or self._refusal:
            # Not from here: a thousand pipelined requests that fail at once would each stand on the stack of the last.
            self.loop.call_soon(self._start_next)
        else:
            if self.flow.read_paused:
                self._pace()
            self.deadline = now + (settings.receive_timeout_s if self._receiving else self.keep_alive_s)

    def _start_next(self) -> None:
        if self._lingering or self.flow.write_paused or self.transport.is_closing() or self._at_work is not None:
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            receive_timeout_s = self.lane.settings.receive_timeout_s
            self.deadline = self.lane.clock() + receive_timeout_s if cycle is self._incoming else FOREVER
            self._start_asgi_task(cycle, app)
            self._pace()
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)

    def _pace(self) -> None:
        """Read from the client, or not: the requests that wait are bounded, in number and in size."""
        newest = self.pipeline[0][0] if self.pipeline else None
        large = isinstance(newest, Exchange) and newest.size > MAX_WAITING_BYTES
        if len(self.pipeline) >= MAX_WAITING or (large and newest is self._incoming):
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, Exchange):
            self._app_cycle = cycle
            super()._start_asgi_task(cycle, app)
            return
        cycle.my_turn = True
        self._running = cycle
        if cycle.received:
            cycle.go(self.lane.clock())
        elif cycle.expects:
            self.transport.write(CONTINUE)

    def check_clock(self, now: float) -> None:
        """`deadline` has passed."""
        self.deadline = FOREVER
        settings, running, at_work = self.lane.settings, self._running, self._at_work
        if running is not None and running.received:
            running.check_clock(now)
        elif self.transport.is_closing() or self.flow.write_paused:
            if self.client_reads():
                self.deadline = now + settings.idle_timeout_s
            else:
                self.transport.abort()
        elif self._receiving and not self._deaf and (at_work is None or at_work is self._incoming):
            self._refuse(ReceiveTimeout(f"the request was not complete within {settings.receive_timeout_s:g} s"))
        elif at_work is None:  # idle, or lingering
            self._unread = self.transport.get_write_buffer_size()
            self.deadline = now + settings.idle_timeout_s
            self.transport.close()

    # -- refusals ------------------------------------------------------------------------------------------------

    def _refuse(self, error: RequestError) -> None:
        """A request that cannot be taken. Answers that are due are given first, then this one, the last."""
        if self._deaf or self.transport.is_closing():
            return
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming is self._running:
            self._running.fail(error)
            return
        self._deaf = True
        self._refusal = error
        self.flow.resume_reading()  # for nothing but to see the client leave
        if incoming is None:
            pass
        elif self.pipeline and self.pipeline[0][0] is incoming:
            self.pipeline.popleft()
        elif incoming.response_started:  # the app's, which did not wait for the body
            self._refusal = None
            if incoming.response_complete:
                self.transport.close()
            else:
                incoming.keep_alive = False
        else:
            self._drop_app_cycle()
        if self._refusal is not None and not self.pipeline and self._at_work is None:
            self._answer_refusal(error)

    def _answer_refusal(self, error: RequestError) -> None:
        self._refusal = None
        self.lane.metrics.refuse(error.code)
        self.transport.write(render.error_answer(error, OPENAI, self.server_state.default_headers, close=True))
        self._linger()

    def _linger(self) -> None:
        """Close once the client has had time to read our answer: closing on unread bytes would reset it away."""
        self._deaf = self._lingering = True
        self._receiving = False
        self.pipeline.clear()
        self.flow.resume_reading()
        self.deadline = self.lane.clock() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drop_app_cycle(self) -> None:
        """Tell the app, if it is at work, that its client is gone."""
        cycle, self._app_cycle = self._app_cycle, None
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
