"""One connection of probes, as bytes that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.engines.probe_connection import MAX_HEAD, MAX_INTERIM, ProbeConnection, Response, StaleConnection
from hierarchy.errors import EngineUnreadable

GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nt: v\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"


class Wire:
    """A transport that records what is written, and tells the connection when it is dropped."""

    def __init__(self, connection: ProbeConnection) -> None:
        self.written = b""
        self.is_dropped = False
        self._connection = connection
        connection.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        if not self.is_dropped:
            self.is_dropped = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


class Bench:
    def __init__(self) -> None:
        self.connection = ProbeConnection(max_bytes=1000)
        self.wire = Wire(self.connection)

    def send(self) -> asyncio.Task[Response]:
        return asyncio.ensure_future(self.connection.send(GET))

    async def exchange(self, *pieces: bytes, end: BaseException | str | None = "open") -> Response:
        """Send a request; the engine sends these pieces, and then ends the connection unless that stays open."""
        task = self.send()
        await asyncio.sleep(0)
        for piece in pieces:
            self.connection.data_received(piece)
        if not isinstance(end, str):
            self.connection.connection_lost(end)  # type: ignore[arg-type]
        return await asyncio.wait_for(task, 5.0)


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def work() -> None:
        await test(Bench())

    return lambda: asyncio.run(work())


@given(st.lists(st.sampled_from([HELLO, CHUNKED, INTERIM + HELLO]), min_size=1, max_size=4), st.data())
def test_responses_are_read_however_they_are_cut(responses: list[bytes], data: st.DataObject) -> None:
    async def work() -> None:
        bench = Bench()
        for response in responses:
            cuts = sorted(data.draw(st.sets(st.integers(1, len(response) - 1), max_size=5)))
            pieces = [response[a:b] for a, b in zip([0, *cuts], [*cuts, len(response)], strict=True)]
            assert await bench.exchange(*pieces) == (200, b"hello")
        assert bench.connection.is_open
        assert bench.wire.written == GET * len(responses)

    asyncio.run(work())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_response_or_an_error(junk: bytes) -> None:
    async def work() -> None:
        for begin in (b"", OK, OK + b"transfer-encoding: chunked\r\n\r\n"):
            bench = Bench()
            try:
                await bench.exchange(begin + junk, end=None)
            except EngineUnreadable:
                assert not bench.connection.is_open

    asyncio.run(work())


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (OK + b"\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    ],
)
def test_a_response_without_a_length_ends_with_its_connection(response: bytes, body: bytes) -> None:
    async def work() -> None:
        bench = Bench()
        assert await bench.exchange(response, end=None) == (200, body)
        assert not bench.connection.is_open

    asyncio.run(work())


@pytest.mark.parametrize("extra", [b"connection: close\r\n", b""])
def test_a_connection_that_is_not_clean_carries_no_second_request(extra: bytes) -> None:
    async def work() -> None:
        bench = Bench()
        surplus = b"" if extra else b"HTTP/1.1 500 no\r\n\r\n"
        response = OK + extra + b"content-length: 5\r\n\r\nhello" + surplus
        assert await bench.exchange(response) == (200, b"hello")
        assert not bench.connection.is_open

    asyncio.run(work())


@on_bench
async def test_bytes_that_were_not_asked_for_are_no_response(bench: Bench) -> None:
    await bench.exchange(HELLO)
    bench.connection.data_received(b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n")
    assert bench.wire.is_dropped
    with pytest.raises(ConnectionResetError):
        await bench.connection.send(GET)


@on_bench
async def test_an_idle_connection_that_was_closed_is_stale(bench: Bench) -> None:
    await bench.exchange(HELLO)
    with pytest.raises(StaleConnection):
        await bench.exchange(end=None)


@on_bench
async def test_a_new_connection_that_is_closed_without_a_byte_is_an_answer_of_its_own(bench: Bench) -> None:
    with pytest.raises(EngineUnreadable, match="closed the connection before its response was complete"):
        await bench.exchange(end=None)


@on_bench
async def test_a_response_that_is_cut_is_an_error(bench: Bench) -> None:
    with pytest.raises(EngineUnreadable, match="closed the connection before"):
        await bench.exchange(HELLO[:-1], end=None)


@on_bench
async def test_a_reset_connection_is_an_error(bench: Bench) -> None:
    with pytest.raises(ConnectionResetError):
        await bench.exchange(HELLO[:-1], end=ConnectionResetError(104, "reset"))


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello", "compressed"),
        (OK + b"content-length: 1001\r\n\r\n", "more than 1000 bytes"),
        (
            OK + b"transfer-encoding: chunked\r\n\r\n" + b"fa\r\n" + b"x" * 250 + b"\r\n" + b"300\r\n" + b"x" * 768,
            "more",
        ),
        (OK + b"\r\n" + b"x" * 1001, "more than 1000 bytes"),
        (OK + b"a: " + b"x" * MAX_HEAD, "longer than"),
        (INTERIM * (MAX_INTERIM + 1), "interim"),
        (OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "malformed"),
        (b"hello\r\n\r\n", "begins with"),
    ],
)
def test_a_response_that_is_too_much_or_not_http_is_refused(response: bytes, message: str) -> None:
    async def work() -> None:
        bench = Bench()
        with pytest.raises(EngineUnreadable, match=message):
            await bench.exchange(response)
        assert bench.wire.is_dropped

    asyncio.run(work())


@on_bench
async def test_a_request_that_is_given_up_closes_its_connection(bench: Bench) -> None:
    task = bench.send()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert bench.wire.is_dropped
    bench.connection.data_received(HELLO)  # what was still on its way
    assert repr(bench.connection) == "<ProbeConnection closed>"
