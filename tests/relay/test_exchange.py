"""One exchange between any two callbacks: each order of events, and each lease released once."""

from __future__ import annotations

import asyncio
from typing import Any

from hierarchy.balancing.lent_attempts import MAX_ATTEMPTS
from hierarchy.balancing.retry_budget import FLOOR
from hierarchy.http.model_field import find_model
from hierarchy.relay.upstream.connection import Upstream
from tests.builders import OPENAI
from tests.relay.memory import Link, MemoryLane, in_memory, statuses
from tests.relay.raw import OK_BODY, SSE_HEAD, chunk, event, http_response, post


@in_memory
async def test_the_common_case_needs_no_turn_of_the_loop_and_no_task() -> None:
    memory = MemoryLane()
    client = memory.connect()
    before = len(asyncio.all_tasks())
    client.feed(post())
    assert memory.requests() == [post().replace(b"host: lane", b"host: 127.0.0.1:1").replace(b"  ", b" ")]
    assert memory.leases == 1
    memory.respond_all()
    assert client.transport.output.endswith(OK_BODY)
    assert memory.leases == 0
    assert len(asyncio.all_tasks()) == before
    assert len(memory.pool.idle) == 1


@in_memory
async def test_a_client_that_leaves_aborts_its_child_in_the_same_turn() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    client.lose()
    assert memory.upstream.transport.state == "aborted"
    assert memory.leases == 0
    memory.upstream.settle()
    assert memory.pool.take(memory.pool.clock()) is None


@in_memory
async def test_bytes_that_arrive_after_an_abort_are_dropped() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    client.lose()
    memory.upstream.protocol.data_received(http_response())  # from the same read
    assert client.transport.output == b""
    assert memory.leases == 0


async def _dialling(memory: MemoryLane, client: Link) -> asyncio.Future[Upstream]:
    """A request that waits for a connection, and what its dialling waits for."""
    future: asyncio.Future[Upstream] = memory.loop.create_future()

    async def connect(*arguments: Any, **options: Any) -> Upstream:
        return await future

    memory.pool.connect = connect
    client.feed(post())
    await memory.turn()
    assert memory.leases == 1
    return future


@in_memory
async def test_a_client_that_leaves_while_its_child_is_dialled() -> None:
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    client.lose()
    assert memory.leases == 0
    late = Link(Upstream(memory.pool))
    future.set_result(late.protocol)
    await memory.turn()
    assert late.transport.output == b""
    assert memory.pool.take(memory.pool.clock()) is late.protocol


@in_memory
async def test_a_dial_that_fails_after_its_client_left() -> None:
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    client.lose()
    future.set_exception(ConnectionRefusedError())
    await memory.turn()
    assert client.transport.output == b""
    assert memory.leases == 0
    assert memory.child.available(memory.now)  # the failure did not count against the child


@in_memory
async def test_a_dial_that_fails_ejects_the_child_unless_it_is_the_only_one() -> None:
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    future.set_exception(ConnectionRefusedError())
    await memory.turn()
    assert statuses(client) == [502]
    assert memory.child.state(memory.now) == "up"
    assert memory.child.is_dead(memory.now)
    other = memory.lane.registry.declare("f", "http://127.0.0.1:2", "openai")
    memory.lane.registry.report(other, memory.child.status)
    memory.lane.registry.failed(memory.child.shares[OPENAI], "unreachable", "again")
    assert memory.child.state(memory.now) == "ejected"
    assert memory.leases == 0


@in_memory
async def test_a_probe_that_fails_ejects_the_child_with_a_reason() -> None:
    """The retry budget is used up, so the child that broke is dialled once more, and is dead."""
    memory = MemoryLane()
    memory.lane.retry_budget.active = FLOOR
    registry = memory.lane.registry

    async def connect(*arguments: Any, **options: Any) -> Upstream:
        if len(registry.children) == 1:  # the only child would not be ejected, so another one appears meanwhile
            other = registry.declare("f", "http://127.0.0.1:2", "openai")
            registry.report(other, memory.child.status)
            memory.lane.pool(other).connect = connect
        raise TimeoutError

    memory.pool.connect = connect
    client = memory.connect()
    client.feed(post())
    memory.upstream.lose(ConnectionResetError())
    await memory.turn()
    assert memory.child.detail(memory.now) == "cannot be reached: no connection in time"
    assert statuses(client) == [502]
    assert sum(child.in_flight for child in registry) == 0


@in_memory
async def test_a_cut_while_the_child_is_dialled() -> None:
    """The grace is over before the connection is there."""
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    memory.clients.cut_all()
    assert statuses(client) == [503]
    late = Link(Upstream(memory.pool))
    future.set_result(late.protocol)
    await memory.turn()
    assert late.transport.output == b""
    assert memory.leases == 0


@in_memory
async def test_a_child_that_moved_while_it_was_dialled() -> None:
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    memory.child.move_to("http://127.0.0.1:2")
    assert memory.lane.pool(memory.child) is not memory.pool
    client.lose()
    late = Link(Upstream(memory.pool))
    future.set_result(late.protocol)
    await memory.turn()
    assert late.transport.state == "closed"  # not kept, since the child has another address now


@in_memory
async def test_attempts_are_bounded_and_each_gives_its_lease_back() -> None:
    memory = MemoryLane(connections=0)
    for number in range(2, 7):
        child = memory.lane.registry.declare(f"e{number}", f"http://127.0.0.1:{number}", "openai")
        memory.lane.registry.report(child, memory.child.status)
    made: list[Link] = []
    for child in memory.lane.registry:
        pool = memory.lane.pool(child)
        link = Link(Upstream(pool))
        made.append(link)
        pool.put(link.protocol)
    client = memory.connect()
    client.feed(post())
    for number in range(MAX_ATTEMPTS):
        (used,) = [link for link in made if link.transport.output and not link.lost]
        assert sum(child.in_flight for child in memory.lane.registry) == 1
        assert statuses(client) == []
        used.lose(ConnectionResetError() if number else None)
    assert statuses(client) == [502]
    assert sum(child.in_flight for child in memory.lane.registry) == 0
    assert memory.lane.metrics.retries == MAX_ATTEMPTS - 1


@in_memory
async def test_the_outcomes_are_counted_once_each() -> None:
    memory = MemoryLane(connections=4)
    for ending in ("ok", "cancelled", "cut", "error"):
        client = memory.connect()
        client.feed(post())
        (used,) = [link for link in memory.upstreams if link.transport.output and not link.lost]
        if ending == "ok":
            memory.respond_all()
        elif ending == "error":
            memory.respond_all(http_response(b"x", status=b"500 Oops"))
        elif ending == "cancelled":
            client.lose()
            used.settle()
        else:
            used.feed(SSE_HEAD + chunk(event("a")))
            used.lose()
        used.transport.written.clear()
    (counts,) = memory.lane.metrics.shares.values()
    assert counts.outcomes == {"ok": 1, "cancelled": 1, "cut": 1, "error": 1}
    assert sum(counts.total.counts) == 4
    assert memory.leases == 0


@in_memory
async def test_an_engines_own_name_of_a_model_is_sent_only_to_that_engine() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    before = memory.requests()[0]
    memory.respond_all()
    memory.child.renames = {"m": "org/a-longer-name", "other": "x"}
    client.feed(post())
    head, _, body = memory.requests()[0].partition(b"\r\n\r\n")
    assert find_model(body).model == "org/a-longer-name"
    assert b"content-length: %d" % len(body) in head
    memory.respond_all()
    memory.child.renames = {"other": "x"}
    client.feed(post())
    assert memory.requests() == [before]
