"""From a client's bytes to requests: heads that were seen before at once, all others by the parser.

Each read passes here, so this module is compiled. A read that brings many messages, or many pieces of a body, is
processed in turns (`relay.turns`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from hierarchy.errors import MemoryFull, RequestError
from hierarchy.http.request_head import RequestHead
from hierarchy.relay.client import FOREVER
from hierarchy.relay.downstream.connection import Connection
from hierarchy.relay.downstream.head_cache import HeadCache, Split
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.turns import FEW, FULL, MAX_PIECE, PIECE, STOP, Reading

#: reads after one that brought many messages which wait for their turn before anything of them is processed
SUSPICIOUS_READS: Final = 16


class Intake:
    """What one connection reads.

    heads: seen before, on any connection. parse: takes bytes that begin or continue a head that is not known.
    """

    def __init__(self, connection: Connection, heads: HeadCache, parse: Callable[[bytes], None]) -> None:
        self.reading = Reading(connection.lane.turns, self._take_piece)
        self.left = 0  # bytes of body still to come, of a request whose head was known
        self._connection = connection
        self._heads = heads
        self._parse = parse
        self._last: Split | None = None  # the head at the start of an earlier read, which mostly comes again
        self._suspicious = 0  # reads that are processed in turns, even if they are short

    def opened(self, transport: asyncio.Transport) -> None:
        """The connection is open."""
        self.reading.transport = transport

    def closed(self) -> None:
        """The connection is gone."""
        self.reading.close()
        self._parse = _discard  # also ends a reference cycle

    def hand_over(self) -> None:
        """From here on the connection is not a client's."""
        self.reading.hand_over()
        self._parse = _discard

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        connection = self._connection
        if connection.ignoring:
            if len(data) >= FULL:
                self.reading.yield_turn()
            return
        if self.reading.keeps or self._suspicious:
            self._receive(data)
            return
        if self.left:
            if len(data) > MAX_PIECE:  # it is looked at, byte by byte, on its way
                self._receive(data)
                return
            data = self._take_rest(data)
            if not data or connection.ignoring:
                return
        found = None
        if connection.is_free and not (connection.receiving or connection.blocked or connection.refusal is not None):
            self._last = found = self._heads.find(data, self._last)
            if found is not None and found.head is not None and self._take_known(found, found.head, data):
                return
        if len(data) > PIECE and (found is None or len(data) > found.end + found.length):
            self._receive(data)
            return
        connection.pieces = 0
        self._parse(data)
        head, connection.parsed = connection.parsed, None
        if connection.pieces > FEW:
            self._suspicious = SUSPICIOUS_READS
        if found is None or head is None or len(data) > found.end + found.length:
            return
        if found.seq >= 0 or not head.auth:  # a parent's number at an unusual place would be remembered with the head
            self._heads.add(found, head)

    # -- in turns ------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        """Process a read in pieces, as far as there is time."""
        connection = self._connection
        if self._suspicious:
            self._suspicious -= 1
            self.reading.yield_turn()
        self.reading.receive(data)
        if connection.lane.held.is_full and self.reading.rest and not connection.ignoring:
            connection.refuse(MemoryFull("this node holds as many bytes as it may; send less at once, and try again"))

    def _take_piece(self, data: bytes) -> int:
        """Process a piece of a read. Returns as `turns.Reading.take` must."""
        connection = self._connection
        if connection.ignoring or connection.transport.is_closing():
            return STOP
        connection.pieces = 0
        if self.left:
            data = self._take_rest(data)
            if not data or connection.ignoring:
                return 0
        self._parse(data)
        connection.parsed = None  # of one request among several
        if connection.pieces > FEW:
            self._suspicious = SUSPICIOUS_READS
        return connection.pieces

    # -- heads that were seen before -----------------------------------------------------------------------------

    def _take_known(self, found: Split, head: RequestHead, data: bytes) -> bool:
        """Take a request, or its beginning, if its head is one that the parser has taken before."""
        connection = self._connection
        left = found.end + found.length - len(data)
        if left < 0 or connection.transport.is_closing():
            return False
        now = connection.lane.clock()
        exchange = connection.exchange(head, now)
        connection.running = exchange
        exchange.my_turn = True
        try:
            connection.begin(exchange, found.seq, found.length, found.left_ms, found.prefix)
            if left and len(data) <= MAX_PIECE:
                exchange.body_part(data[found.end :])
        except RequestError as error:
            exchange.request.complete, exchange.response.keep_alive = not left, False  # as if refused while it came
            exchange.fail(error)
            return True
        if left:
            self.left, connection.receiving, connection.incoming = left, True, exchange
            connection.deadline = now + connection.lane.settings.receive_timeout_s
            if len(data) > MAX_PIECE:
                self.left = found.length
                self._receive(data[found.end :])
        else:
            connection.deadline = FOREVER
            exchange.take_whole(data[found.end :])
        return True

    def _take_rest(self, data: bytes) -> bytes:
        """More of the body of a request whose head was known. Returns the bytes behind it."""
        connection = self._connection
        rest = data[self.left :]
        if rest:
            data = data[: self.left]
        self.left -= len(data)
        exchange = connection.incoming
        if not isinstance(exchange, Exchange):
            return rest
        try:
            exchange.body_part(data)
        except RequestError as error:
            self.left = 0
            connection.refuse(error)
            return b""
        if not self.left:
            connection.receiving, connection.incoming = False, None
            connection.deadline = FOREVER
            exchange.request_complete()
        return rest

    def __repr__(self) -> str:
        return f"<Intake {self.reading!r} left={self.left}>"


def _discard(data: bytes) -> None:
    """Where bytes of a client that is gone go."""
