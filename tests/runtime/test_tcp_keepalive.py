"""TCP keepalive of a link: the options that are set, and what the kernel reports."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from hierarchy.relay.upstream.links import SILENT_S
from hierarchy.runtime.tcp_keepalive import (
    DEAD_MS,
    PROBE_AFTER_S,
    PROBE_EVERY_S,
    PROBES,
    RETRIES,
    UNREACHABLE_S,
    TcpState,
    tcp_state,
    unacknowledged_s,
    watch_peer,
)
from tests import black_hole
from tests.support import eventually_async

linux = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux's own options")


def state_of(transport: asyncio.Transport) -> TcpState:
    state = tcp_state(transport)
    assert state is not None
    return state


def in_flight(transport: asyncio.Transport) -> int:
    return state_of(transport).in_flight


async def pair() -> tuple[asyncio.Transport, asyncio.Transport]:
    """Both ends of a connection that is not read."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.Transport] = loop.create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.pause_reading()
            accepted.set_result(transport)

    server = await loop.create_server(Server, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    server.close()
    return transport, await accepted


@linux
@pytest.mark.parametrize("sends_responses", [True, False])
def test_probes_are_sent_and_only_the_end_that_sends_requests_limits_unread_bytes(sends_responses: bool) -> None:
    async def work() -> None:
        transport, other = await pair()
        watch_peer(transport, sends_responses=sends_responses)
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        found = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert found == [PROBE_AFTER_S, PROBE_EVERY_S, PROBES, 0 if sends_responses else DEAD_MS]
        transport.abort()
        other.abort()

    uvloop.run(work())


def test_a_dead_end_is_found_within_12_s() -> None:
    assert PROBE_AFTER_S + PROBES * PROBE_EVERY_S <= SILENT_S <= 12
    assert DEAD_MS <= 12_000


def test_a_peer_that_does_not_read_is_not_taken_for_dead() -> None:
    """Its kernel acknowledges what it received, and that its buffer is full."""

    async def work() -> None:
        transport, other = await pair()
        transport.write(b"x" * 20_000_000)
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert unacknowledged_s(transport) < 0.5
        transport.abort()
        other.abort()

    uvloop.run(work())


@black_hole.linux
def test_a_peer_whose_machine_acknowledges_nothing_is_unreachable_until_it_does() -> None:
    async def work() -> None:
        transport, other = await pair()
        transport.write(b"x")
        await eventually_async(lambda: not in_flight(transport))
        assert state_of(transport).unreachable_s(60.0) == 0.0
        sock = socket.socket(fileno=os.dup(other.get_extra_info("socket").fileno()))
        black_hole.swallow(sock)
        transport.write(b"x")
        sent_at = time.monotonic()
        await eventually_async(lambda: state_of(transport).retries >= RETRIES)
        state = state_of(transport)
        assert state.unreachable_s(60.0) == state.last_ack_s >= 0.4
        assert state.unreachable_s(0.1) == 0.1  # the time since the last request, however long it was idle before
        assert time.monotonic() - sent_at < UNREACHABLE_S
        black_hole.release(sock)
        await eventually_async(lambda: not in_flight(transport))
        assert state_of(transport).unreachable_s(60.0) == 0.0
        sock.close()
        transport.abort()
        other.abort()

    uvloop.run(work())


def test_other_sockets_than_tcp_are_unchanged() -> None:
    left, right = socket.socketpair()
    for sock in (None, left):
        transport: Any = SimpleNamespace(get_extra_info=lambda name, sock=sock: sock)
        watch_peer(transport, sends_responses=True)
        assert unacknowledged_s(transport) == 0.0
    left.close()
    right.close()
