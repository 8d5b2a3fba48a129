"""The fast path of a client's connection: requests whose heads have been seen before, and the end of every exchange.

Each request passes here, so this is a class of its own, which can be compiled (docs/explanation/compiled.md). Its
attributes are fields of a struct then, also those that uvicorn's class sets. What is rarer stands in `turns` and
`protocol`, which extend uvicorn's class and are always interpreted. Methods that nobody overrides are called by the
name of the class, which spares a look at what a subclass may have made of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from mypy_extensions import mypyc_attr
from uvicorn.server import ServerState

from hierarchy.errors import BodyTooLarge, HeadTooLarge, InvalidApiKey, LoopDetected, RequestError
from hierarchy.http.request_head import RequestHead
from hierarchy.relay.downstream.head_cache import Split
from hierarchy.relay.exchange import FOREVER, Exchange

if TYPE_CHECKING:
    from hierarchy.relay.lane import Lane

MAX_HOPS: Final = 32  # levels of nodes; more is a loop


@mypyc_attr(allow_interpreted_subclasses=True)
class FastPath:
    """What a connection knows of the requests on it. At work is at most one: an exchange, or a cycle of the app's.

    `cycle` is the newest request, `pipeline` holds those that wait for their turn, newest first. `deadline` is the one
    time limit in force now.
    """

    # Set by uvicorn's class.
    transport: asyncio.Transport
    flow: Any
    client: tuple[str, int] | None
    server_state: ServerState
    pipeline: deque[tuple[Any, Any]]
    cycle: Any

    lane: Lane
    deadline: float = FOREVER
    keep_alive_s: float = 0.0
    blocked: bool = False  # what was written last waits for the client to read
    running: Exchange | None = None
    app_cycle: Any = None  # the last one that was started
    incoming: Any = None  # the request whose body is coming in
    receiving: bool = False  # a request has begun and is not complete
    deaf: bool = False  # what comes in is no longer looked at
    refusal: RequestError | None = None  # to be written after the answers that are still due
    lingering: bool = False
    taken: RequestHead | None = None  # the lane request that the last read brought
    last: Split | None = None  # the head at the start of an earlier read, which mostly comes again
    counts: bool = False  # call `request_begins` and `request_ends`
    left: int = 0  # bytes of body still to come, of a request whose head was known
    unread: int = 0

    # -- elsewhere -----------------------------------------------------------------------------------------------

    def parse(self, data: bytes) -> None:
        """Take in bytes that begin or continue a head that is not known."""
        raise NotImplementedError

    def refuse(self, error: RequestError) -> None:
        """A request that cannot be taken."""
        raise NotImplementedError

    def linger(self) -> None:
        """Close once the client has had time to read our answer."""
        raise NotImplementedError

    def go_on(self) -> None:
        """An answer is written, and another request or a refusal waits, or reading had stopped."""
        raise NotImplementedError

    def request_begins(self, exchange: Exchange) -> None:
        """The head of a lane request is complete."""

    def request_ends(self) -> None:
        """An answer, of whomever, is written."""

    def client_reads(self) -> bool:
        """Has the client taken anything since this was asked last?"""
        raise NotImplementedError

    def reset(self) -> None:
        """End the connection so that the client cannot take what it has for the whole: RST, not FIN."""
        raise NotImplementedError

    # -- requests ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.deaf:
            return
        if self.left:
            data = FastPath._take_rest(self, data)
            if not data or self.deaf:
                return
        begun = None
        app = self.app_cycle
        busy = self.running is not None or (app is not None and not app.response_complete)
        if not (busy or self.receiving or self.blocked or self.refusal is not None or self.pipeline):
            self.last = begun = self.lane.seen.find(data, self.last)
            if begun is not None and begun.head is not None and FastPath._take_known(self, begun, begun.head, data):
                return
        self.parse(data)
        head, self.taken = self.taken, None
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
        exchange = self.lane.exchange(self, head, now)
        self.cycle = self.running = exchange
        exchange.my_turn = True
        try:
            FastPath.begin(self, exchange, begun.seq, begun.length, begun.left_ms)
            if left:
                exchange.body_part(data[begun.end :])
        except RequestError as error:
            exchange.received, exchange.keep_alive = not left, False  # as if it had been refused while it came
            exchange.fail(error)
            return True
        if left:
            self.left, self.receiving, self.incoming = left, True, exchange
            self.deadline = now + self.lane.settings.receive_timeout_s
        else:
            self.deadline = FOREVER
            exchange.take_whole(data[begun.end :])
        return True

    def _take_rest(self, data: bytes) -> bytes:
        """More of the body of a request whose head was known. Returns what stands behind it."""
        rest = data[self.left :]
        if rest:
            data = data[: self.left]
        self.left -= len(data)
        exchange = cast(Exchange, self.incoming)
        try:
            exchange.body_part(data)
        except RequestError as error:
            self.left = 0
            self.refuse(error)
            return b""
        if not self.left:
            self.receiving, self.incoming = False, None
            self.deadline = FOREVER
            exchange.request_complete()
        return rest

    def begin(self, exchange: Exchange, seq: int, length: int, left_ms: int) -> None:
        """The head of a lane request is complete: whom it comes from, and what that means for it.

        seq: its number, if it is a parent's, else -1. length: of its body, as far as its head says. left_ms: what the
        parent leaves of the time for the whole of it; -1 if it sets no limit.

        Raises:
            RequestError: it is not taken.
        """
        if self.counts:
            self.request_begins(exchange)
        head = exchange.head
        parent = self.lane.trust(head.auth, seq) if head.auth and seq >= 0 else None
        if parent is not None:
            exchange.trust(parent)
            if left_ms >= 0:
                exchange.ends_at = self.lane.clock() + left_ms / 1000
            if head.hops > MAX_HOPS:
                raise LoopDetected(f"the request has passed {head.hops} nodes; the tree has a loop")
        elif not head.within_limits:
            raise head_too_large(self.lane)
        elif head.caller.refusal:
            raise InvalidApiKey(head.caller.refusal)
        limit = self.lane.settings.max_body_bytes
        if length > limit:
            raise BodyTooLarge(f"the body of {length} bytes is larger than {limit}, the limit of this node")

    # -- turns ---------------------------------------------------------------------------------------------------

    @property
    def at_work(self) -> Any:
        """The request that is being answered, or None."""
        if self.running is not None:
            return self.running
        app = self.app_cycle
        return None if app is None or app.response_complete else app

    def exchange_done(self, exchange: Exchange, now: float) -> None:
        """An exchange's answer is written."""
        if self.running is exchange:
            self.running = None
        if not exchange.received and not self.transport.is_closing():
            self.linger()
        elif not exchange.keep_alive:
            self.transport.close()
        FastPath.turn_ends(self, now)

    def turn_ends(self, now: float) -> None:
        """An answer, of whomever, is written."""
        if self.counts:
            self.request_ends()
        self.server_state.total_requests += 1
        if self.lingering:
            return
        if self.blocked or self.transport.is_closing():
            # What is written must be read first, however slowly: `client_reads` is asked at each deadline.
            self.unread = self.transport.get_write_buffer_size()
            self.deadline = now + self.lane.settings.idle_timeout_s
        elif self.pipeline or self.refusal:
            self.go_on()
        else:
            if self.flow.read_paused:
                self.go_on()
            self.deadline = now + (self.lane.settings.receive_timeout_s if self.receiving else self.keep_alive_s)


def head_too_large(lane: Lane) -> HeadTooLarge:
    settings = lane.settings
    limits = f"{settings.max_head_bytes} bytes or {settings.max_head_fields} fields"
    return HeadTooLarge(f"the request's head is over the limit of {limits}")
