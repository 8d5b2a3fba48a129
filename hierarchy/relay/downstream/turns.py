"""One client's connection: whose turn it is, how long it may take, how it ends.

A connection's requests are answered in the order in which they came, some by the lane, some by the ASGI app. What comes
in is `protocol`'s matter; this is the rest.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hierarchy.errors import ReceiveTimeout, RequestError
from hierarchy.http import render
from hierarchy.http.dialect import OPENAI
from hierarchy.registry.child import Child
from hierarchy.relay.downstream.connection import FastPath
from hierarchy.relay.exchange import FOREVER, Exchange

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


class Turns(FastPath, HttpToolsProtocol):
    """One client's connection. `Lane.sweep` looks at its `deadline`."""

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
        self.keep_alive_s = lane.settings.keep_alive_s

    # -- connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        running, self.running = self.running, None
        if running is not None:
            running.client_gone()
        self.pipeline.clear()
        self._drop_app_cycle()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        self.deadline = FOREVER
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops. A connection that was taken, but has not said yet what it wants, may still say it."""
        in_head = self.receiving and not self.deaf and self.at_work is None
        if in_head or (self.cycle is None and not self.lingering):
            self.deadline = min(self.deadline, self.lane.clock() + FRESH_S)
            return
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.blocked = True
        self.unread = self.transport.get_write_buffer_size()
        if self.running is not None:
            self.running.pause()
        elif self.deadline == FOREVER:  # the app waits for its client
            self.deadline = self.lane.clock() + self.lane.settings.idle_timeout_s

    def resume_writing(self) -> None:
        super().resume_writing()
        self.blocked = False
        if self.running is not None:
            self.running.resume()
        elif self.pipeline or self.refusal:
            self.loop.call_soon(self._start_next)

    def client_reads(self) -> bool:
        """Has the client taken anything since this was asked last?"""
        before, self.unread = self.unread, self.transport.get_write_buffer_size()
        return self.unread < before

    def give_up_on(self, child: Child, why: str) -> None:
        """A child is dead: if a running exchange waits for it, it goes elsewhere."""
        if self.running is not None:
            self.running.give_up_on(child, why)

    def cut(self, error: RequestError) -> None:
        """End a running exchange with an error, and the connection."""
        if self.running is not None:
            self.running.keep_alive = False
            self.running.fail(error)
        else:
            self.transport.close()

    def drop_child(self, child: Child, error: RequestError) -> None:
        """End the running exchange if a child answers it that is no longer one."""
        if self.running is not None:
            self.running.drop_child(child, error)

    def reset(self) -> None:
        """End the connection so that the client cannot take what it has for the whole: RST, not FIN."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # -- turns ---------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Like uvicorn's, but the keep-alive limit is one of the deadlines that are swept, not a timer of its own."""
        self.turn_ends(self.lane.clock())

    def go_on(self) -> None:
        if self.pipeline or self.refusal:
            # Not from here: a thousand pipelined requests that fail at once would each stand on the stack of the last.
            self.loop.call_soon(self._start_next)
        else:
            self._pace()

    def _start_next(self) -> None:
        if self.lingering or self.blocked or self.transport.is_closing() or self.at_work is not None:
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            receive_timeout_s = self.lane.settings.receive_timeout_s
            self.deadline = self.lane.clock() + receive_timeout_s if cycle is self.incoming else FOREVER
            self._start_asgi_task(cycle, app)
            self._pace()
        elif self.refusal is not None:
            self._answer_refusal(self.refusal)

    def _pace(self) -> None:
        """Read from the client, or not: the requests that wait are bounded, in number and in size."""
        newest = self.pipeline[0][0] if self.pipeline else None
        large = isinstance(newest, Exchange) and newest.size > MAX_WAITING_BYTES
        if len(self.pipeline) >= MAX_WAITING or (large and newest is self.incoming):
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, Exchange):
            self.app_cycle = cycle
            super()._start_asgi_task(cycle, app)
            return
        cycle.my_turn = True
        self.running = cycle
        if cycle.received:
            cycle.go(self.lane.clock())
        elif cycle.expects:
            self.transport.write(CONTINUE)

    def check_clock(self, now: float) -> None:
        """`deadline` has passed."""
        self.deadline = FOREVER
        settings, running, at_work = self.lane.settings, self.running, self.at_work
        if running is not None and running.received:
            running.check_clock(now)
        elif self.transport.is_closing() or self.blocked:
            if self.client_reads():
                self.deadline = now + settings.idle_timeout_s
            else:
                self.transport.abort()
        elif self.receiving and not self.deaf and (at_work is None or at_work is self.incoming):
            self.refuse(ReceiveTimeout(f"the request was not complete within {settings.receive_timeout_s:g} s"))
        elif at_work is None:  # idle, or lingering
            self.unread = self.transport.get_write_buffer_size()
            self.deadline = now + settings.idle_timeout_s
            self.transport.close()

    # -- refusals ------------------------------------------------------------------------------------------------

    def refuse(self, error: RequestError) -> None:
        """A request that cannot be taken. Answers that are due are given first, then this one, the last."""
        if self.deaf or self.transport.is_closing():
            return
        incoming, self.incoming = self.incoming, None
        if incoming is not None and incoming is self.running:
            self.running.fail(error)
            return
        self.deaf = True
        self.refusal = error
        self.flow.resume_reading()  # for nothing but to see the client leave
        if incoming is None:
            pass
        elif self.pipeline and self.pipeline[0][0] is incoming:
            self.pipeline.popleft()
        elif incoming.response_started:  # the app's, which did not wait for the body
            self.refusal = None
            if incoming.response_complete:
                self.transport.close()
            else:
                incoming.keep_alive = False
        else:
            self._drop_app_cycle()
        if self.refusal is not None and not self.pipeline and self.at_work is None:
            self._answer_refusal(error)

    def _answer_refusal(self, error: RequestError) -> None:
        self.refusal = None
        self.lane.metrics.refuse(error.code)
        self.transport.write(render.error_response(error, OPENAI, self.server_state.default_headers, close=True))
        self.linger()

    def linger(self) -> None:
        """Close once the client has had time to read our answer: closing on unread bytes would reset it away."""
        self.deaf = self.lingering = True
        self.receiving = False
        self.pipeline.clear()
        self.flow.resume_reading()
        self.deadline = self.lane.clock() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drop_app_cycle(self) -> None:
        """Tell the app, if it is at work, that its client is gone."""
        cycle, self.app_cycle = self.app_cycle, None
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
