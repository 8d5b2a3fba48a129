"""One client's connection: whose turn it is, how long it may take, how it ends.

A connection's requests are answered in the order in which they came, some by an `Exchange`, some by the ASGI app. At
most one of them is in progress. `intake` makes requests of the bytes; it and this object are owned by `protocol`, the
subclass of uvicorn's class.

Each request passes here, so this module is compiled (docs/explanation/compiled.md). Methods that no subclass
overrides are called by the name of the class where that spares a look-up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from uvicorn.server import ServerState

from hierarchy.errors import BodyTooLarge, LoopDetected, ReceiveTimeout, RequestError
from hierarchy.http import render
from hierarchy.http.dialect import OPENAI
from hierarchy.http.request_head import Fields, RequestHead
from hierarchy.registry.child import Child
from hierarchy.relay.client import FOREVER, Client
from hierarchy.relay.downstream import pipelined
from hierarchy.relay.downstream.parts import AppRequest, Observer
from hierarchy.relay.downstream.unread import Unread
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.lane import Lane

MAX_HOPS: Final = 32  # levels of nodes; more is a loop
FRESH_S: Final = 1.0  # how long a connection without a request may still send one when the server stops
LINGER_S: Final = 2.0  # how long the rest of a refused body is read and thrown away, so that the refusal is not lost
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Client):
    """The state of one client's connection.

    observer: of a reverse link.
    """

    transport: asyncio.Transport
    flow: Any  # uvicorn's, which the app's requests use too
    keep_alive_s: float = 0.0
    running: Exchange | None = None  # the exchange in progress
    receiving: bool = False  # a request has begun and is not complete
    ignoring: bool = False  # bytes that come in are no longer looked at
    lingering: bool = False  # closing, but the client gets time to read the last response
    used: bool = False  # a request has come

    def __init__(
        self,
        lane: Lane,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        observer: Observer | None = None,
    ) -> None:
        self.lane = lane
        self.keep_alive_s = lane.settings.keep_alive_s
        self.waiting: deque[Exchange | AppRequest] = deque()  # requests whose turn will come, newest first
        self.app_request: AppRequest | None = None  # the last one that was started
        self.incoming: Exchange | AppRequest | None = None  # the request whose body is coming
        self.refusal: RequestError | None = None  # to be written after the responses that are still due
        self.parsed: RequestHead | None = None  # of the lane request that the last read brought
        self.pieces = 0  # messages and pieces of bodies in the read that is processed now
        self.unread = Unread(lane.held)
        self._server_state = server_state
        self._loop = loop
        self.observer = observer

    # -- life ----------------------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport, flow: Any, peer: str) -> None:
        """The connection is open. peer: the client's IP address."""
        self.transport = self.unread.transport = transport
        self.write = transport.write
        self.flow = flow
        self.peer = peer
        self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def lost(self) -> None:
        """The connection is gone."""
        running, self.running = self.running, None
        if running is not None:
            running.client_gone()
        pipelined.client_gone(self.waiting)
        if self.refusal is not None:
            self.lane.metrics.answered("cancelled", 0)
        self._drop_app_request()
        self.incoming = None
        self.unread.end()
        self.deadline = FOREVER
        self.write = _discard  # also ends reference cycles, so that a lost connection is freed at once

    def shutdown(self) -> None:
        """The server stops. A new connection without a request may still send one."""
        if self.lingering or self.refusal is not None:
            return  # it closes after the refusal, which a close now could lose
        in_head = self.receiving and not self.ignoring and self.in_progress is None
        newest = self.waiting[0] if self.waiting else self.in_progress
        if in_head or not self.used:
            self._close_fresh()
        elif newest is None:
            self.transport.close()
        elif isinstance(newest, AppRequest):
            newest.cycle.keep_alive = False
        else:
            newest.response.keep_alive = False

    def _close_fresh(self) -> None:
        """Soon; but a link at once, since its parent knows that the node leaves, and has nothing more to send."""
        if self.observer is not None and not self.receiving:
            self.transport.close()
        else:
            self.deadline = min(self.deadline, self.lane.clock() + FRESH_S)

    # -- the client of an exchange -------------------------------------------------------------------------------

    def fields(self) -> Fields:
        """Date and server, which uvicorn renews each second."""
        return self._server_state.default_headers

    def has_read(self) -> bool:
        """Compare what waits for the client with what waited before."""
        return self.unread.has_shrunk()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.transport.abort()

    def reset(self) -> None:
        """Close with a RST, which no client takes for the end of a response."""
        self.unread.reset()

    def pause_writing(self) -> None:
        """The client does not read as fast as this node writes."""
        self.blocked = True
        if not self.unread.begin():
            self.lane.warnings.warn("a client that reads slowly was disconnected: this node holds as much as it may")
            self.transport.abort()
        if self.running is not None:
            self.running.pause()
        elif self.deadline == FOREVER:  # the app waits for its client
            self.deadline = self.lane.clock() + self.lane.settings.idle_timeout_s

    def resume_writing(self) -> None:
        """The client has read what was written."""
        self.blocked = False
        self.unread.end()
        if self.running is not None:
            self.running.resume()
        elif self.waiting or self.refusal:
            self._loop.call_soon(self._start_next)

    # -- requests ------------------------------------------------------------------------------------------------

    def exchange(self, head: RequestHead, now: float) -> Exchange:
        """For a request whose head has come."""
        lane = self.lane
        self.used = True
        exchange = Exchange(self, lane, head, now, lane.handlers.get(head.target))
        if lane.draining:
            exchange.response.keep_alive = False
        return exchange

    def begin(self, exchange: Exchange, seq: int, length: int, left_ms: int, prefix: bytes) -> None:
        """The head of a lane request is complete: who sends it, and what that means for it.

        seq: its number, if it is a parent's, else -1. length: of its body, as far as its head says. left_ms: what the
        parent leaves of the time for the whole request; -1 if it sets no limit. prefix: what the parent says that the
        prompt begins with; b"" for nothing.

        Raises:
            RequestError: it is not accepted.
        """
        if self.observer is not None:
            self.observer.request_begins(local=exchange.is_local)
        head, lane = exchange.head, self.lane
        parent = lane.trust(head.auth, seq) if head.auth and seq >= 0 else None
        if parent is not None:
            exchange.request.trust(parent)
            exchange.request.prefix_field = prefix
            if left_ms >= 0:
                exchange.request.ends_at = lane.clock() + left_ms / 1000
            if head.hops > MAX_HOPS:
                raise LoopDetected(f"the request has passed {head.hops} nodes; the tree has a loop")
        elif not head.within_limits:
            raise lane.head_too_large()
        elif head.refusal is not None:  # such a head is not remembered
            raise head.refusal
        limit = lane.settings.max_body_bytes
        if length > limit:
            raise BodyTooLarge(f"the body of {length} bytes is larger than {limit}, the limit of this node")

    # -- requests that the parser found --------------------------------------------------------------------------

    def message_begins(self) -> None:
        """The first byte of a request has come."""
        self.receiving = True
        self.pieces += 1
        if self.is_free:
            self.deadline = self.lane.clock() + self.lane.settings.receive_timeout_s

    def lane_request(self, head: RequestHead, seq: int, length: int, left_ms: int, prefix: bytes) -> None:
        """The head of a lane request is complete. Takes and raises what `begin` does."""
        exchange = self.exchange(head, self.lane.clock())
        self.incoming = exchange
        if self.is_free and not self.blocked:
            exchange.my_turn = True
            self.running = exchange
        else:
            self.waiting.appendleft(exchange)
            self.pace()
        self.begin(exchange, seq, length, left_ms, prefix)
        if head.expects_continue:
            if exchange.my_turn:
                self.write(CONTINUE)
        elif head.keep_alive:
            self.parsed = head

    def request_for_app(self, request: AppRequest) -> None:
        """The head of a request for the ASGI app is complete."""
        free = self.is_free
        self.used = True
        self.incoming = request
        if free:
            self.app_request = request
            request.run()
        else:
            self.waiting.appendleft(request)
            self.pace()

    def body_part(self, exchange: Exchange, data: bytes) -> None:
        """More of the body of the lane request that is coming. Raises as `Exchange.body_part`."""
        if not exchange.response.complete:
            exchange.body_part(data)
            if not exchange.my_turn:
                self.pace()

    def message_ends(self) -> None:
        """The last byte of a request has come."""
        self.receiving = False
        incoming, self.incoming = self.incoming, None
        if incoming is self.in_progress:
            self.deadline = FOREVER  # from here on it is this node, or the app, that takes time, not the client
        if isinstance(incoming, Exchange) and not incoming.response.complete:
            incoming.request_complete()

    # -- turns ---------------------------------------------------------------------------------------------------

    @property
    def in_progress(self) -> Exchange | AppRequest | None:
        """The request that is being answered."""
        if self.running is not None:
            return self.running
        app = self.app_request
        return None if app is None or app.complete else app

    @property
    def is_free(self) -> bool:
        """No request is being answered, and none waits for its turn."""
        if self.running is not None or self.waiting:
            return False
        app = self.app_request
        return app is None or app.complete

    @property
    def is_idle(self) -> bool:
        """Nothing is in progress: closing it harms nobody who has sent a request."""
        return (self.is_free and not self.receiving and self.refusal is None) or not self.used

    def response_done(self, now: float, *, request_complete: bool, keep_alive: bool) -> None:
        """The response of the exchange in progress is written."""
        self.running = None
        if not request_complete and not self.transport.is_closing():
            self.linger()
        elif not keep_alive:
            self.transport.close()
        self.turn_ends(now)

    def turn_ends(self, now: float) -> None:
        """A response is written, by an exchange or by the app."""
        if self.observer is not None:
            self.observer.request_ends(last=not self.waiting)
        self._server_state.total_requests += 1
        if self.lingering:
            return
        if self.blocked or self.transport.is_closing():
            # What is written must be read first, however slowly: `has_read` is called at each deadline.
            self.unread.look()
            self.deadline = now + self.lane.settings.idle_timeout_s
        elif self.waiting or self.refusal:
            # Not from here: a thousand pipelined requests that fail at once would each be on the stack of the last.
            self._loop.call_soon(self._start_next)
        else:
            if self.flow.read_paused:
                self.pace()
            self.deadline = now + (self.lane.settings.receive_timeout_s if self.receiving else self.keep_alive_s)

    def _start_next(self) -> None:
        if self.lingering or self.blocked or self.transport.is_closing() or self.in_progress is not None:
            return
        if self.waiting:
            request = self.waiting.pop()
            receive_timeout_s = self.lane.settings.receive_timeout_s
            self.deadline = self.lane.clock() + receive_timeout_s if request is self.incoming else FOREVER
            self._start(request)
            self.pace()
        elif self.refusal is not None:
            self._write_refusal(self.refusal)

    def _start(self, request: Exchange | AppRequest) -> None:
        if isinstance(request, AppRequest):
            self.app_request = request
            request.run()
            return
        request.my_turn = True
        self.running = request
        if request.request.complete:
            request.go(self.lane.clock())
        elif request.head.expects_continue:
            self.write(CONTINUE)

    def pace(self) -> None:
        """Read from the client, or not: the requests that wait are bounded, in number and in size."""
        if pipelined.are_too_many(self.waiting, self.incoming):
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    # -- time ----------------------------------------------------------------------------------------------------

    def check_clock(self, now: float) -> None:
        """`deadline` has passed."""
        self.deadline = FOREVER
        settings, running, in_progress = self.lane.settings, self.running, self.in_progress
        if running is not None and running.request.complete:
            running.check_clock(now)
        elif self.transport.is_closing() or self.blocked:
            if self.has_read():
                self.deadline = now + settings.idle_timeout_s
            else:
                self.transport.abort()
        elif self.receiving and not self.ignoring and (in_progress is None or in_progress is self.incoming):
            self._check_receiving()
        elif in_progress is None:  # idle, or lingering
            self._close_idle(now)

    def _check_receiving(self) -> None:
        limit_s = self.lane.settings.receive_timeout_s
        self.refuse(ReceiveTimeout(f"the request was not complete within {limit_s:g} s"))

    def _close_idle(self, now: float) -> None:
        if self.observer is not None and not self.lingering:
            self.transport.abort()  # the other end of a half-open link reads no goodbye
            return
        self.unread.look()
        self.deadline = now + self.lane.settings.idle_timeout_s
        self.transport.close()

    # -- from outside --------------------------------------------------------------------------------------------

    def give_up_on(self, child: Child, reason: str) -> bool:
        """A child is dead: if the exchange in progress waits for it, it goes to another one. Returns whether it did."""
        return self.running is not None and self.running.give_up_on(child, reason)

    def drop_child(self, child: Child, error: RequestError) -> None:
        """End the exchange in progress if a child has it that is no longer one."""
        if self.running is not None:
            self.running.drop_child(child, error)

    def cut(self, error: RequestError) -> None:
        """End the exchange in progress with an error, and the connection."""
        if self.running is not None:
            self.running.response.keep_alive = False
            self.running.fail(error)
        else:
            self.transport.close()

    def hand_over(self) -> None:
        """From here on the connection is not a client's."""
        self.ignoring = True
        self.deadline = FOREVER
        self.flow.resume_reading()

    # -- refusals ------------------------------------------------------------------------------------------------

    def refuse(self, error: RequestError) -> None:
        """A request that cannot be taken. Responses that are due are given first, then this one, the last."""
        if self.ignoring or self.transport.is_closing():
            return
        incoming, self.incoming = self.incoming, None
        if self.running is not None and incoming is self.running:
            self.running.fail(error)
            return
        self.ignoring = True
        self.refusal = error
        self.flow.resume_reading()  # for nothing but to see the client leave
        if incoming is not None:
            self._refuse_incoming(incoming)
        if self.refusal is not None and self.is_free:
            self._write_refusal(error)

    def _refuse_incoming(self, incoming: Exchange | AppRequest) -> None:
        if self.waiting and self.waiting[0] is incoming:
            pipelined.forget(self.waiting.popleft())
        elif isinstance(incoming, AppRequest) and incoming.cycle.response_started:  # which did not wait for the body
            self.refusal = None
            if incoming.complete:
                self.transport.close()
            else:
                incoming.cycle.keep_alive = False
        else:
            self._drop_app_request()

    def _write_refusal(self, error: RequestError) -> None:
        self.refusal = None
        self.lane.metrics.refuse(error.code)
        self.lane.metrics.answered("refused", error.status)
        self.write(render.error_response(error, OPENAI, self.fields(), close=True))
        self.linger()

    def turn_away(self, error: RequestError) -> None:
        """There is no place for this connection: close it at once, with a response that may not be read."""
        self.ignoring = True
        self.lane.metrics.refuse(error.code)
        self.write(render.error_response(error, OPENAI, self.fields(), close=True))
        self.transport.close()

    def linger(self) -> None:
        """Close once the client has had time to read the response: closing on unread bytes would reset it away."""
        self.ignoring = self.lingering = True
        self.receiving = False
        pipelined.forget_all(self.waiting)
        self.flow.resume_reading()
        self.deadline = self.lane.clock() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drop_app_request(self) -> None:
        """Tell the app, if it is answering a request, that its client is gone."""
        request, self.app_request = self.app_request, None
        if request is not None:
            request.client_gone()

    def __repr__(self) -> str:
        state = "lingering" if self.lingering else "idle" if self.is_free else "busy"
        return f"<Connection {self.peer} {state} waiting={len(self.waiting)}>"


def _discard(data: bytes) -> None:
    """Where bytes from and for a client that is gone go."""
