"""Moments between two callbacks: who may come first, what is written when, and that a lease is given back once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hierarchy.errors import BadRequest
from hierarchy.relay.exchange import MAX_ATTEMPTS
from hierarchy.relay.peek import model_of
from hierarchy.relay.upstream import Upstream
from tests.relay.memory import Link, MemoryLane, Receive, Send, in_memory, ok_app
from tests.relay.support import OK_BODY, SSE_HEAD, answer, chunk, event, post, post_head

HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"


def statuses(link: Link) -> list[int]:
    return [int(part[:3]) for part in link.transport.output.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "body", [b'{"model":"m"}', b'{"messages":[{"x":[1,2.5e3,null,true]}],"model":"m"}', b' {"model" : "\\u006d"} ']
)
def test_model_of(body: bytes) -> None:
    assert model_of(body) == "m"


def test_model_of_takes_the_last_of_two_as_every_engine_does() -> None:
    assert model_of(b'{"model":"a","model":"b"}') == "b"


@pytest.mark.parametrize("body", [b'{"model":1}', b'{"model":"m"', b"\xef\xbb\xbf{}", b'{"model":"m"}\0', b'"\\ud800"'])
def test_model_of_refuses(body: bytes) -> None:
    with pytest.raises(BadRequest):
        model_of(body)


@in_memory
async def test_the_common_case_needs_no_turn_of_the_loop_and_no_task() -> None:
    memory = MemoryLane()
    client = memory.connect()
    before = len(asyncio.all_tasks())
    client.feed(post())
    assert memory.requests() == [post().replace(b"host: lane", b"host: 127.0.0.1:1").replace(b"  ", b" ")]
    assert memory.leases == 1
    memory.answer_all()
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
    assert memory.pool.take() is None


@in_memory
async def test_bytes_that_come_after_an_abort_go_nowhere() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    client.lose()
    memory.upstream.protocol.data_received(answer())  # it was in the same read
    assert client.transport.output == b""
    assert memory.leases == 0


async def _dialling(memory: MemoryLane, client: Link) -> asyncio.Future[Upstream]:
    """A request that waits for a connection, and what its dialling waits for."""
    future: asyncio.Future[Upstream] = memory.loop.create_future()

    async def dial() -> Upstream:
        return await future

    memory.pool.dial = dial  # type: ignore[method-assign]
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
    assert memory.pool.take() is late.protocol


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
    assert memory.child.available(memory.now)  # nobody was harmed by it


@in_memory
async def test_a_dial_that_fails_ejects_the_child() -> None:
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    future.set_exception(ConnectionRefusedError())
    await memory.turn()
    assert statuses(client) == [502]
    assert memory.child.state(memory.now) == "ejected"
    client.feed(post())
    assert statuses(client) == [502, 503]
    assert memory.leases == 0


@in_memory
async def test_a_cut_while_the_child_is_dialled() -> None:
    """The grace is over before the connection is there."""
    memory = MemoryLane(connections=0)
    client = memory.connect()
    future = await _dialling(memory, client)
    memory.lane.cut_all(memory.state.connections)
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
    assert late.transport.state == "closed"  # not kept for an address that is no longer its own


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
        (asked,) = [link for link in made if link.transport.output and not link.lost]
        assert sum(child.in_flight for child in memory.lane.registry) == 1
        assert statuses(client) == []
        asked.lose(ConnectionResetError() if number else None)
    assert statuses(client) == [502]
    assert sum(child.in_flight for child in memory.lane.registry) == 0
    assert memory.lane.metrics.retries == MAX_ATTEMPTS - 1


@in_memory
async def test_a_failure_inside_the_parser_s_callback_answers_and_goes_on() -> None:
    memory = MemoryLane(connections=0)
    memory.lane.registry.mark_down(memory.child, "down")
    client = memory.connect()
    client.feed(post() + post(b"{}") + post(b'{"model":"x"}') + HEALTH)
    assert statuses(client) == [503, 400, 404]
    await memory.turn()
    assert statuses(client) == [503, 400, 404, 200]
    assert not client.transport.is_closing()


@in_memory
async def test_connection_close_takes_effect_behind_a_failure() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post(b"{}", b"connection: close") + post())
    assert statuses(client) == [400]
    assert b"connection: close" in client.transport.output
    assert client.transport.state == "closed"
    assert memory.requests() == []


@in_memory
async def test_a_connection_lost_with_the_next_request_about_to_start() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post() + post() + HEALTH)
    memory.answer_all()
    client.lose()
    await memory.turn()
    assert memory.requests() == []
    assert memory.leases == 0


@in_memory
async def test_the_app_at_work_is_told_of_its_client_s_leaving_whatever_waits_behind_it() -> None:
    """uvicorn tells the newest request only."""
    told: list[Any] = []
    started = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        started.set()
        await receive()
        told.append((await receive())["type"])

    for behind in (b"", post(), HEALTH, post() + HEALTH, HEALTH + post(), post() + HEALTH + post()):
        memory = MemoryLane(app)
        client = memory.connect()
        started.clear()
        client.feed(HEALTH + behind)
        await started.wait()
        client.lose()
        await memory.turn()
        assert told.pop() == "http.disconnect"
        assert not memory.state.tasks


@in_memory
async def test_exchanges_and_the_app_take_turns() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed((post() + HEALTH) * 3)
    for number in range(1, 4):
        assert len(memory.answer_all()) == 1
        await memory.turn()
        assert len(statuses(client)) == 2 * number
    assert statuses(client) == [200] * 6


@in_memory
async def test_shutdown_lets_the_running_finish_and_closes_the_idle() -> None:
    memory = MemoryLane(connections=3)
    idle, running, half, head = (memory.connect() for _ in range(4))
    idle.feed(post())
    memory.answer_all()
    running.feed(post())
    half.feed(post_head(b"content-length: 13") + b'{"model"')
    head.feed(b"POST /v1/x HTTP/1.1\r\n")
    for link in (idle, running, half, head):
        link.protocol.shutdown()
    assert [link.transport.state for link in (idle, running, half, head)] == ["closed", "open", "open", "closed"]
    half.feed(b':"m"}')
    memory.answer_all()
    for link in (running, half):
        assert link.transport.state == "closed"
        assert b"connection: close" in link.transport.output
    assert memory.leases == 0


@in_memory
async def test_shutdown_with_a_queue_ends_behind_the_answer_at_work() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post() + post())
    client.protocol.shutdown()
    memory.answer_all()
    await memory.turn()
    memory.answer_all()
    assert statuses(client) == [200, 200]
    assert client.transport.state == "closed"


@in_memory
async def test_a_finished_answer_that_nobody_reads_does_not_hold_the_connection_for_ever() -> None:
    """`close` waits for what is written, and so could wait for ever."""
    for request in (post(b'{"model":"m"}', b"connection: close"), post(), HEALTH):
        memory = MemoryLane()
        client = memory.connect()
        client.feed(request)
        client.transport.unsent = 1000
        client.protocol.pause_writing()
        memory.answer_all()
        await memory.turn()
        settings = memory.lane.settings
        for _ in range(5):  # as long as something is taken, it may take its time
            client.transport.unsent -= 1
            memory.sweep(settings.idle_timeout_s + settings.keep_alive_s)
            assert client.transport.state != "aborted"
        memory.sweep(settings.idle_timeout_s + settings.keep_alive_s)
        assert client.transport.state == "aborted"
        client.settle()
        await memory.turn()
        assert not memory.state.tasks


@in_memory
async def test_no_answer_is_fetched_while_the_last_one_is_not_read() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    client.protocol.pause_writing()
    assert not memory.upstream.transport.reading
    memory.answer_all()
    assert memory.upstream.transport.reading  # it is idle again
    client.feed(post() + HEALTH)
    await memory.turn()
    assert memory.requests() == []
    client.protocol.resume_writing()
    await memory.turn()
    memory.answer_all()
    await memory.turn()
    assert statuses(client) == [200] * 3


@in_memory
async def test_an_attempt_behind_an_unread_answer_waits_too() -> None:
    memory = MemoryLane(connections=2)
    client = memory.connect()
    client.feed(post())
    client.protocol.pause_writing()
    (first,) = [link for link in memory.upstreams if link.transport.output]
    (second,) = [link for link in memory.upstreams if link is not first]
    first.protocol._served = 1
    memory.pool.dial = lambda: _ready(second.protocol)  # type: ignore[method-assign, assignment, return-value]
    first.lose()
    await memory.turn()
    assert second.transport.output
    assert not second.transport.reading
    client.protocol.resume_writing()
    assert second.transport.reading


async def _ready(upstream: Any) -> Any:
    return upstream


@in_memory
async def test_a_client_that_reads_slowly_is_left_alone_and_one_that_does_not_is_dropped() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    memory.upstream.feed(SSE_HEAD + chunk(event("a")))
    client.transport.unsent = 1000
    client.protocol.pause_writing()
    for _ in range(3):
        client.transport.unsent -= 1
        memory.sweep(memory.lane.settings.idle_timeout_s + 1)
        assert client.transport.state == "open"
    memory.sweep(memory.lane.settings.idle_timeout_s + 1)
    assert client.transport.state == "aborted"
    client.settle()
    assert memory.leases == 0
    assert memory.upstream.transport.state == "aborted"


@in_memory
async def test_deadlines_while_a_request_waits_behind_the_app() -> None:
    """A queued request is not late while it is not its turn; from then on it has its own time."""
    gate = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await gate.wait()
        await ok_app(scope, receive, send)

    memory = MemoryLane(app)
    client = memory.connect()
    limit = memory.lane.settings.receive_timeout_s
    client.feed(HEALTH + post_head(b"content-length: 13"))
    memory.sweep(limit * 2)
    assert statuses(client) == []
    gate.set()
    await memory.turn()
    assert statuses(client) == [200]
    memory.sweep(limit - 1)
    assert statuses(client) == [200]
    memory.sweep(2)
    assert statuses(client) == [200, 408]


@in_memory
async def test_the_outcomes_are_counted_once_each() -> None:
    memory = MemoryLane(connections=4)
    for ending in ("ok", "cancelled", "cut", "error"):
        client = memory.connect()
        client.feed(post())
        (asked,) = [link for link in memory.upstreams if link.transport.output and not link.lost]
        if ending == "ok":
            memory.answer_all()
        elif ending == "error":
            memory.answer_all(answer(b"x", status=b"500 Oops"))
        elif ending == "cancelled":
            client.lose()
            asked.settle()
        else:
            asked.feed(SSE_HEAD + chunk(event("a")))
            asked.lose()
        asked.transport.written.clear()
    (tally,) = memory.lane.metrics.tallies.values()
    assert tally.outcomes == {"ok": 1, "cancelled": 1, "cut": 1, "error": 1}
    assert sum(tally.total.counts) == 4
    assert memory.leases == 0
