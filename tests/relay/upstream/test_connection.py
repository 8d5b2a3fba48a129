"""One connection to a child and the pool, on a fake transport. The test sets the clock and the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.response_head import UpstreamResponse
from hierarchy.registry.child import NODE, Child
from hierarchy.relay.turns import Turns
from hierarchy.relay.upstream.connection import JOINED, MAX_HEAD, ResponseHandler, Upstream
from hierarchy.relay.upstream.pool import ENGINE_IDLE_S, NODE_IDLE_S, Pool
from tests.http.test_framing import sizes, split
from tests.relay.raw import FakeTransport, chunk, http_response
from tests.support import free_port

OK = b"HTTP/1.1 200 OK\r\n"


class Handler(ResponseHandler):
    """Records the calls that it receives."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.body = b""
        self.stale = False

    def response_started(self, response: UpstreamResponse) -> None:
        self.calls.append(f"started {response.head.status}")

    def response_body(self, response: UpstreamResponse, data: bytes) -> None:
        self.body += data
        if self.calls[-1] != "body":
            self.calls.append("body")

    def response_ended(self, response: UpstreamResponse) -> None:
        self.calls.append("ended")

    def response_whole(self, response: UpstreamResponse, body: bytes) -> None:
        self.response_started(response)
        self.response_body(response, body)
        self.response_ended(response)

    def response_broken(self, reason: str, *, stale: bool = False) -> None:
        self.calls.append("broken")
        self.reason = reason
        self.stale = stale


class Rig:
    """A pool with connections on fake transports."""

    def __init__(self, kind: str = "openai") -> None:
        self.now = 100.0
        self.later: list[Callable[[], None]] = []  # what a loop would call in its next turn
        turns = Turns(clock=lambda: 0.0, call_soon=self.later.append)
        self.pool = Pool(Child("e", "http://127.0.0.1:1", kind), 1.0, None, lambda: self.now, turns=turns)

    def connect(self) -> tuple[Upstream, Any]:
        upstream, transport = Upstream(self.pool), FakeTransport()
        upstream.connection_made(transport)
        return upstream, transport

    def serve(self, upstream: Upstream, data: bytes) -> Handler:
        """Send one request, and receive `data` as the response."""
        handler = Handler()
        upstream.send(handler, b"head", [b"body"], 4)
        upstream.data_received(data)
        return handler


WITH_BODY, WITHOUT = ["started 200", "body", "ended"], ["started 200", "ended"]
CHUNKS = chunk(b"a") + chunk(b"b") + b"0\r\n\r\n"
ANSWERS = [
    (http_response(b"hello"), b"hello", WITH_BODY),
    (http_response(b""), b"", WITHOUT),
    (OK + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS, CHUNKS, WITH_BODY),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + http_response(b"x"), b"x", WITH_BODY),
    (b"HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n", b"", ["started 204", "ended"]),
    (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"", ["started 304", "ended"]),
]


@given(st.sampled_from(ANSWERS), sizes)
def test_a_response_is_the_same_however_it_is_split(case: tuple[bytes, bytes, list[str]], cuts: list[int]) -> None:
    data, body, expected = case
    rig = Rig()
    upstream, _ = rig.connect()
    handler = Handler()
    upstream.send(handler, b"", [], 0)
    for piece in split(data, cuts):
        if piece:
            assert "ended" not in handler.calls
            upstream.data_received(piece)
    assert handler.calls == expected
    assert handler.body == body
    assert rig.pool.take(rig.pool.clock()) is upstream


@given(st.sampled_from(ANSWERS), sizes, st.data())
def test_a_response_cut_anywhere_breaks_exactly_once(
    case: tuple[bytes, bytes, list[str]], cuts: list[int], data: st.DataObject
) -> None:
    whole = case[0]
    cut = data.draw(st.integers(0, len(whole) - 1))
    upstream, _ = Rig().connect()
    handler = Handler()
    upstream.send(handler, b"", [], 0)
    for piece in split(whole[:cut], cuts):
        if piece:
            upstream.data_received(piece)
    upstream.connection_lost(None)
    assert handler.calls[-1] == "broken"
    assert handler.calls.count("broken") == 1
    assert "ended" not in handler.calls
    assert not handler.stale  # a new connection


def test_a_body_without_length_ends_with_the_connection_but_not_with_a_reset() -> None:
    for error, expected in ((None, "ended"), (ConnectionResetError(), "broken")):
        upstream, _ = Rig().connect()
        handler = Handler()
        upstream.send(handler, b"", [], 0)
        upstream.data_received(OK + b"\r\nabc")
        upstream.connection_lost(error)
        assert handler.calls == ["started 200", "body", expected]


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nnonsense\r\n\r\n",
        OK + b"x: " + b"a" * MAX_HEAD,
        OK + b"x: " + b"a" * MAX_HEAD + b"\r\n\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_malformed_response_breaks_and_aborts(data: bytes) -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    handler = rig.serve(upstream, data)
    assert handler.calls == ["broken"]
    assert "malformed" in handler.reason
    assert transport.state == "aborted"
    upstream.connection_lost(None)
    assert handler.calls == ["broken"]
    assert rig.pool.take(rig.pool.clock()) is None


def test_bad_chunks_break_after_the_good_ones() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    handler = rig.serve(upstream, OK + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"good") + b"bad\r")
    upstream.data_received(b"\nxyz\r\n")
    assert handler.calls == ["started 200", "body"]  # 0xbad bytes are still to come
    upstream, transport = rig.connect()
    handler = rig.serve(upstream, OK + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"good") + b"x\r\nmore")
    assert handler.calls == ["started 200", "body", "broken"]
    assert handler.body == chunk(b"good")
    assert transport.state == "aborted"


def test_bytes_after_a_response_end_the_connection_but_not_the_response() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    handler = rig.serve(upstream, http_response(b"hello") + b"HTTP/1.1 200 OK\r\n")
    assert handler.calls[-1] == "ended"
    assert handler.body == b"hello"
    assert transport.state == "closed"
    assert rig.pool.take(rig.pool.clock()) is None


def test_bytes_on_an_idle_connection_abort_it() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    rig.serve(upstream, http_response())
    upstream.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert transport.state == "aborted"
    assert rig.pool.take(rig.pool.clock()) is None


def test_a_response_before_the_request_was_read_aborts_the_connection() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    transport.unsent = 1
    handler = rig.serve(upstream, http_response())
    assert handler.calls[-1] == "ended"
    assert transport.state == "aborted"
    assert rig.pool.take(rig.pool.clock()) is None


@pytest.mark.parametrize(
    "fields", [b"connection: close\r\n", b"connection: Close, x\r\n", b"keep-alive: timeout=5, max=0\r\n"]
)
def test_a_last_response_ends_the_connection(fields: bytes) -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    handler = rig.serve(upstream, OK + b"content-length: 1\r\n" + fields + b"\r\nx")
    assert handler.calls[-1] == "ended"
    assert transport.state == "closed"


def test_llamacpp_keeps_a_connection_for_five_seconds_and_a_hundred_requests() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    for _ in range(99):
        rig.serve(upstream, http_response(b"x", b"Keep-Alive: timeout=5, max=100"))
        rig.now += 3.9
        assert rig.pool.take(rig.pool.clock()) is upstream
    rig.serve(upstream, http_response(b"x", b"Connection: close"))
    assert rig.pool.take(rig.pool.clock()) is None
    assert transport.state == "closed"
    upstream, _ = rig.connect()
    rig.serve(upstream, http_response(b"x", b"Keep-Alive: timeout=5, max=100"))
    rig.now += 4.0
    assert rig.pool.take(rig.pool.clock()) is None


@pytest.mark.parametrize(
    ("kind", "fields", "idle_s"),
    [
        ("openai", (), ENGINE_IDLE_S),
        (NODE, (), NODE_IDLE_S),
        (NODE, (b"keep-alive: timeout=11",), 10.0),
        ("openai", (b"keep-alive: timeout=60",), ENGINE_IDLE_S),
        ("openai", (b"keep-alive: timeout=0",), 0.0),
    ],
)
def test_idle_connections_are_used_for_a_while_then_swept(kind: str, fields: tuple[bytes, ...], idle_s: float) -> None:
    rig = Rig(kind)
    (upstream, transport), (other, _) = rig.connect(), rig.connect()
    rig.serve(other, http_response(b"x", *fields))
    rig.serve(upstream, http_response(b"x", *fields))
    rig.now += idle_s - 0.01
    if idle_s:
        assert rig.pool.take(rig.pool.clock()) is upstream
        rig.pool.put(upstream)
    rig.now += 0.02
    rig.pool.sweep()
    assert list(rig.pool.idle) == ([upstream] if idle_s else [])
    rig.now += idle_s
    assert rig.pool.take(rig.pool.clock()) is None
    assert transport.state == "closed"


def test_the_connection_used_last_is_taken_first_and_dead_ones_are_skipped() -> None:
    rig = Rig()
    connections = [rig.connect() for _ in range(4)]
    for upstream, _ in connections:
        rig.serve(upstream, http_response())
    connections[3][1].state = "closed"
    connections[2][0].connection_lost(None)
    assert rig.pool.take(rig.pool.clock()) is connections[1][0]
    assert rig.pool.take(rig.pool.clock()) is connections[0][0]
    assert rig.pool.take(rig.pool.clock()) is None


def test_a_connection_that_ends_between_two_requests_is_called_stale() -> None:
    rig = Rig()
    upstream, _ = rig.connect()
    rig.serve(upstream, http_response())
    handler = Handler()
    upstream.send(handler, b"", [], 0)
    upstream.connection_lost(None)
    assert (handler.calls, handler.stale) == (["broken"], True)

    upstream, _ = rig.connect()
    rig.serve(upstream, http_response())
    handler = rig.serve(upstream, b"HTTP/1.1 2")
    upstream.connection_lost(None)
    assert (handler.calls, handler.stale) == (["broken"], False)  # the response had begun


def test_after_an_abort_the_handler_hears_nothing() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    handler = rig.serve(upstream, OK + b"content-length: 5\r\n\r\nhe")
    upstream.abort()
    upstream.connection_lost(None)
    assert handler.calls == ["started 200", "body"]
    assert transport.state == "aborted"


def test_a_connection_paused_for_its_client_reads_again_when_it_is_idle() -> None:
    rig = Rig()
    upstream, transport = rig.connect()
    handler = Handler()
    upstream.send(handler, b"", [], 0)
    upstream.pause()
    assert not transport.reading
    upstream.data_received(http_response())  # read before it was paused
    assert handler.calls[-1] == "ended"
    assert transport.reading
    assert rig.pool.take(rig.pool.clock()) is upstream


def test_a_client_too_slow_for_the_last_piece_does_not_pause_an_idle_connection() -> None:
    rig = Rig()
    upstream, transport = rig.connect()

    class Slow(Handler):
        def response_body(self, response: UpstreamResponse, data: bytes) -> None:
            super().response_body(response, data)
            upstream.pause()

    upstream.send(Slow(), b"", [], 0)
    upstream.data_received(http_response())
    assert rig.pool.take(rig.pool.clock()) is upstream
    assert transport.reading


def test_long_bodies_are_not_copied() -> None:
    rig = Rig()
    for body, writes in ((b"x" * JOINED, 1), (b"x" * (JOINED + 1), 2)):
        upstream, transport = rig.connect()
        upstream.send(Handler(), b"head", [body], len(body))
        assert len(transport.written) == writes
        assert b"".join(transport.written) == b"head" + body


def test_a_closed_pool_keeps_nothing() -> None:
    rig = Rig()
    (idle, idle_transport), (busy, busy_transport) = rig.connect(), rig.connect()
    rig.serve(idle, http_response())
    busy.send(Handler(), b"", [], 0)
    rig.pool.close()
    assert idle_transport.state == "closed"
    assert busy_transport.state == "open"
    busy.data_received(http_response())
    assert busy_transport.state == "closed"
    assert repr(rig.pool) == "<Pool e idle=0>"


@pytest.mark.parametrize("url", ["http://127.0.0.1:%d", "http://a..b:%d", "http://%%00:%d"])
def test_a_child_that_cannot_be_dialled_is_an_os_error(url: str) -> None:
    pool = Pool(Child("e", url % free_port(), "openai"), 1.0, None, lambda: 0.0)
    with pytest.raises(OSError, match=r"."):
        uvloop.run(pool.dial())
