"""The requests of one connection between two callbacks: whose turn it is, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from hierarchy.relay.downstream.connection import FRESH_S, LINGER_S
from hierarchy.relay.downstream.pipelined import MAX_WAITING
from tests.relay.memory import MemoryLane, Receive, Send, in_memory, ok_app, statuses
from tests.relay.raw import HEALTH, SSE_HEAD, chunk, event, post, post_head

BAD_REQUEST = post_head(b"content-length: many")


@in_memory
async def test_an_error_inside_a_parser_callback_is_answered_and_the_connection_continues() -> None:
    memory = MemoryLane(connections=0)
    memory.lane.registry.mark_down(memory.child, "down")
    client = memory.connect()
    client.feed(post() + post(b"{}") + post(b'{"model":"x"}') + HEALTH)
    assert statuses(client) == [503, 400, 404]
    await memory.turn()
    assert statuses(client) == [503, 400, 404, 200]
    assert not client.transport.is_closing()


@in_memory
async def test_connection_close_takes_effect_after_an_error() -> None:
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
    memory.respond_all()
    client.lose()
    await memory.turn()
    assert memory.requests() == []
    assert memory.leases == 0


@in_memory
async def test_the_app_is_notified_that_its_client_left_whatever_waits_behind_the_request() -> None:
    """uvicorn notifies only the newest request."""
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
        assert len(memory.respond_all()) == 1
        await memory.turn()
        assert len(statuses(client)) == 2 * number
    assert statuses(client) == [200] * 6


@in_memory
async def test_shutdown_lets_requests_in_progress_finish_and_closes_idle_connections() -> None:
    memory = MemoryLane(connections=3)
    idle, running, half, head = (memory.connect() for _ in range(4))
    idle.feed(post())
    memory.respond_all()
    running.feed(post())
    half.feed(post_head(b"content-length: 13") + b'{"model"')
    head.feed(b"POST /v1/x HTTP/1.1\r\n")
    for link in (idle, running, half, head):
        link.protocol.shutdown()
    assert [link.transport.state for link in (idle, running, half, head)] == ["closed", "open", "open", "open"]
    half.feed(b':"m"}')
    memory.respond_all()
    for link in (running, half):
        assert link.transport.state == "closed"
        assert b"connection: close" in link.transport.output
    assert memory.leases == 0


@in_memory
async def test_shutdown_does_not_lose_a_refusal() -> None:
    """A close while bytes of the refused request are unread would reset the connection."""
    memory = MemoryLane()
    lingering, behind_another = memory.connect(), memory.connect()
    behind_another.feed(post() + BAD_REQUEST)
    lingering.feed(BAD_REQUEST)
    for link in (lingering, behind_another):
        link.protocol.shutdown()
    assert lingering.transport.state == "half"
    memory.respond_all()
    await memory.turn()
    assert statuses(behind_another) == [200, 400]
    assert behind_another.transport.state == "half"
    memory.sweep(LINGER_S)
    assert [link.transport.state for link in (lingering, behind_another)] == ["closed", "closed"]


@in_memory
async def test_a_lost_connection_is_freed_at_once() -> None:
    """It leaves no reference cycles, which would be kept until the garbage collector finds them."""
    memory = MemoryLane()
    for data in (post(), HEALTH, post_head(b"content-length: 100") + b"{", post() + post() + HEALTH, b"POST /v1"):
        client = memory.connect()
        protocol = weakref.ref(client.protocol)
        client.feed(data)
        memory.respond_all()
        await memory.turn()
        client.lose()
        await memory.turn()
        gc.disable()
        try:
            del client
            assert protocol() is None, data
        finally:
            gc.enable()
        memory.add_upstream()


@in_memory
async def test_shutdown_lets_a_new_connection_send_a_request() -> None:
    """Its client is connected, so it would not try another address if it were refused."""
    memory = MemoryLane(connections=2)
    says, silent = memory.connect(), memory.connect()
    memory.lane.drain()
    for link in (says, silent):
        link.protocol.shutdown()
        assert link.transport.state == "open"
    says.feed(post())
    memory.respond_all()
    assert statuses(says) == [200]
    assert b"connection: close" in says.transport.output
    assert says.transport.state == "closed"
    memory.sweep(FRESH_S + 0.1)
    assert silent.transport.state == "closed"
    assert memory.leases == 0


@in_memory
async def test_shutdown_answers_the_pipelined_requests_first() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post() + post())
    client.protocol.shutdown()
    memory.respond_all()
    await memory.turn()
    memory.respond_all()
    assert statuses(client) == [200, 200]
    assert client.transport.state == "closed"


@in_memory
async def test_a_complete_response_that_is_not_read_does_not_hold_the_connection_forever() -> None:
    """`close` waits for what is written, and so could wait for ever."""
    for request in (post(b'{"model":"m"}', b"connection: close"), post(), HEALTH):
        memory = MemoryLane()
        client = memory.connect()
        client.feed(request)
        client.transport.unsent = 1000
        client.protocol.pause_writing()
        memory.respond_all()
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
async def test_no_response_is_fetched_while_the_last_one_is_unread() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post())
    client.protocol.pause_writing()
    assert not memory.upstream.transport.reading
    memory.respond_all()
    assert memory.upstream.transport.reading  # it is idle again
    client.feed(post() + HEALTH)
    await memory.turn()
    assert memory.requests() == []
    client.protocol.resume_writing()
    await memory.turn()
    memory.respond_all()
    await memory.turn()
    assert statuses(client) == [200] * 3


@in_memory
async def test_an_attempt_behind_an_unread_response_is_paused_too() -> None:
    memory = MemoryLane(connections=2)
    client = memory.connect()
    client.feed(post())
    client.protocol.pause_writing()
    (first,) = [link for link in memory.upstreams if link.transport.output]
    (second,) = [link for link in memory.upstreams if link is not first]
    first.protocol._served = 1
    memory.pool.connect = lambda *arguments, **options: _ready(second.protocol)
    first.lose()
    await memory.turn()
    assert second.transport.output
    assert not second.transport.reading
    client.protocol.resume_writing()
    assert second.transport.reading


async def _ready(upstream: Any) -> Any:
    return upstream


@in_memory
async def test_a_client_that_reads_slowly_is_kept_and_one_that_does_not_read_is_dropped() -> None:
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
async def test_a_body_that_the_app_waits_for_but_is_malformed_or_never_arrives() -> None:
    """uvicorn writes its 400 and leaves the app waiting; for a slow body it has no limit at all."""
    told: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        told.append(message["type"])

    head = b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"some")
    for ending, status in ((b"nonsense\r\n", 400), (b"", 408)):
        memory = MemoryLane(app)
        client = memory.connect()
        client.feed(head)
        await memory.turn()
        client.feed(ending)
        memory.sweep(memory.lane.settings.receive_timeout_s * 0.9)
        client.feed(b"" if ending else chunk(b"more"))
        memory.sweep(memory.lane.settings.receive_timeout_s * 0.2)
        await memory.turn()
        assert statuses(client) == [status]
        assert client.transport.state in ("half", "closed")  # no more will be written
        assert told.pop() == "http.disconnect"
        assert not memory.state.tasks


@in_memory
async def test_an_early_response_of_the_app_ends_the_connection_with_its_request() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nfour")
    await memory.turn()
    assert statuses(client) == [200]
    client.feed(b"ninth" + post())
    memory.respond_all()
    assert statuses(client) == [200, 200]


@in_memory
async def test_trailers_do_not_overwrite_the_head_that_the_app_sees() -> None:
    fields: list[tuple[bytes, bytes]] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        fields.extend(scope["headers"])
        await ok_app(scope, receive, send)

    memory = MemoryLane(app)
    client = memory.connect()
    client.feed(
        b"POST /upload HTTP/1.1\r\nhost: a\r\nauthorization: one\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"x")
    )
    client.feed(b"0\r\nauthorization: two\r\nx-forwarded-for: three\r\n\r\n")
    await memory.turn()
    assert statuses(client) == [200]
    assert fields == [(b"host", b"a"), (b"authorization", b"one"), (b"transfer-encoding", b"chunked")]


@in_memory
async def test_reading_stops_at_too_many_pipelined_requests() -> None:
    memory = MemoryLane()
    client = memory.connect()
    client.feed(post() * MAX_WAITING)
    assert client.transport.reading
    client.feed(post())
    assert not client.transport.reading
    memory.respond_all()
    await memory.turn()
    assert client.transport.reading
    client.feed(post() * MAX_WAITING + b"nonsense\r\n")
    await memory.turn()  # after so many requests the client's reads wait for their turn
    assert client.transport.reading  # though nothing of it is looked at any more
    while memory.respond_all():
        await memory.turn()
    assert statuses(client) == [200] * (2 * MAX_WAITING + 1) + [400]
