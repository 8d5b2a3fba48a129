"""Clients that read slowly, or not at all: what is held for them is bounded, and other clients do not wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

from hierarchy.relay.downstream.connection import Connection
from hierarchy.relay.downstream.pipelined import MAX_WAITING, MAX_WAITING_BYTES
from hierarchy.relay.downstream.protocol import HIGH_WATER
from hierarchy.relay.exchange import Exchange
from tests.relay.raw import BODY, SSE_HEAD, Client, chunk, http_response, post
from tests.relay.support import HOLD, Tree

UVLOOP_READ = 256_000  # bytes that uvloop reads at once
BUFFERED = 256 * 1024


def peer_of(connection: Connection) -> object:
    return connection.transport.get_extra_info("peername")


def slow_client(running: Tree) -> tuple[Client, Connection]:
    """A client with small buffers in the kernels of both sides, and its connection."""
    client = Client(running.port, receive_buffer=32 * 1024)
    name = client.sock.getsockname()
    (connection,) = running.world.eventually(lambda: [one for one in running.connections() if peer_of(one) == name])
    sock = connection.transport.get_extra_info("socket")
    running.world.call(lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024))
    return client, connection


def test_a_slow_client_pauses_the_engine_and_little_is_buffered(chain: Tree) -> None:
    """The kernels' own buffers come on top; on this side of them at most 256 KiB are held at each level."""
    blocks, sent = 4000, 0  # far more than the kernel holds on the way
    block = chunk(b"x" * 65536)

    def script() -> Iterator[bytes]:
        nonlocal sent
        yield SSE_HEAD
        while sent < blocks:
            sent += 1
            yield block
        yield b"0\r\n\r\n"

    chain.engine.plan(script())
    client, _ = slow_client(chain)
    with client:
        client.send(post())

        def every_level_waits() -> bool:
            connections = [one for level in range(3) for one in chain.connections(level)]
            assert max(one.transport.get_write_buffer_size() for one in connections) <= BUFFERED
            return bool(sum(one.flow.write_paused for one in connections) == 3)

        last: list[int] = []

        def the_engine_waits() -> bool:
            last.append(sent)
            return every_level_waits() and last[-50:] == [sent] * 50

        chain.world.eventually(the_engine_waits)
        assert sent < blocks
        assert chain.request(post()).status == 200  # other clients do not wait
        client.read_head()
        got = len(client.buffer)
        while not client.buffer.endswith(b"\r\n0\r\n\r\n"):
            client.buffer = client.read()
            got += len(client.buffer)
            if got % 100 == 0:
                chain.world.call(every_level_waits)
        assert got == blocks * len(block) + len(b"0\r\n\r\n")


def test_the_limit_allows_for_one_more_read() -> None:
    assert HIGH_WATER + UVLOOP_READ <= BUFFERED


def test_pipelining_without_reading_buffers_no_more(single: Tree) -> None:
    """The next response is not fetched while the client does not read the last one."""
    count, size = 30, 1_000_000
    single.engine.always([http_response(b"x" * size)])
    client, connection = slow_client(single)
    with client:
        client.send(post() * count)
        single.world.eventually(lambda: connection.flow.write_paused, "the client to be too slow")
        assert len(single.engine.received) < count / 2
        for _ in range(count):
            assert single.world.call(connection.transport.get_write_buffer_size) <= BUFFERED
            assert len(client.read_response().body) == size
    assert len(single.engine.received) == count


def test_errors_without_reading_buffer_no_more(single: Tree) -> None:
    """The node's own errors wait for the client too: each is ten times as long as its request."""
    failing, count = b"POST /v1/x HTTP/1.1\r\nhost: a\r\n\r\n", 30_000
    client, connection = slow_client(single)
    with client:
        sender = threading.Thread(target=lambda: client.send(failing * count), daemon=True)
        sender.start()
        single.world.eventually(lambda: connection.flow.write_paused, "the client to be too slow")
        most = 0
        for number in range(count):
            if number % 500 == 0:
                most = max(most, single.world.call(connection.transport.get_write_buffer_size))
                assert len(connection.waiting) <= MAX_WAITING + UVLOOP_READ / len(failing)
            assert client.read_response().status == 400
        assert most <= BUFFERED
        sender.join()


def test_large_pipelined_requests_are_not_all_read(single: Tree) -> None:
    single.engine.plan([HOLD, http_response()])
    body = b'{"model":"m","x":"' + b"y" * 8_000_000 + b'"}'
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: single.engine.received)
        sender = threading.Thread(target=lambda: client.send(post(body) * 3), daemon=True)
        sender.start()
        name = client.sock.getsockname()
        (connection,) = [one for one in single.connections() if peer_of(one) == name]
        single.world.eventually(lambda: connection.flow.read_paused)
        newest = connection.waiting[0]
        assert isinstance(newest, Exchange)
        assert newest.request.size <= MAX_WAITING_BYTES + UVLOOP_READ
        assert len(connection.waiting) == 1
        single.engine.release()
        assert [client.read_response().status for _ in range(4)] == [200] * 4
        sender.join()
    assert [len(received.body) for received in single.engine.received] == [len(BODY)] + [len(body)] * 3


def test_a_client_that_stops_reading_is_dropped_in_the_end(single: Tree) -> None:
    idle = single.root.settings.idle_timeout_s
    single.engine.plan([http_response(b"x" * 30_000_000), HOLD])
    client, connection = slow_client(single)
    with client:
        client.send(post())
        single.world.eventually(lambda: connection.flow.write_paused, "the client to be too slow")
        for _ in range(3):  # it reads a little each time
            before = single.world.call(connection.transport.get_write_buffer_size)
            while single.world.call(connection.transport.get_write_buffer_size) == before:
                assert client.read()
            single.forward(idle * 0.9)
        assert not single.world.call(connection.transport.is_closing)
        single.forward(idle + 1)
        single.forward(idle + 1)
        single.world.eventually(lambda: connection not in single.connections(), "the client to be dropped")
