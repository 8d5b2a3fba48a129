"""A client's connection over time: pipelining, deadlines, backpressure, cancelling, shutting down; uvicorn's traps."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from hierarchy.relay.protocol import LaneProtocol
from hierarchy.relay.turns import HIGH_WATER, LINGER_S, MAX_WAITING, MAX_WAITING_BYTES
from tests.relay.support import (
    BODY,
    CLOSE,
    HOLD,
    OK_BODY,
    RESET,
    SSE_HEAD,
    Client,
    Tree,
    World,
    answer,
    chunk,
    event,
    post,
    post_head,
    tree,
)

HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
UVLOOP_READ = 256_000  # bytes that uvloop reads at once
BUFFERED = 256 * 1024


def body_of(number: int) -> bytes:
    return b'{"model":"m","n":%d}' % number


# -- pipelining ----------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order_whoever_answers(chain: Tree) -> None:
    chain.engine.plan([HOLD, answer(b"first")], [answer(b"second")])
    with chain.client() as client:
        client.send(HEALTH + post(body_of(1)) + HEALTH + post(b"{}") + post(body_of(2)) + HEALTH)
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        answers = [client.read_answer() for _ in range(6)]
    assert [found.status for found in answers] == [200, 200, 200, 400, 200, 200]
    assert [answers[1].body, answers[4].body] == [b"first", b"second"]
    assert [json.loads(answers[at].body)["status"] for at in (0, 2, 5)] == ["ok"] * 3
    assert [received.body for received in chain.engine.received] == [body_of(1), body_of(2)]


def test_a_thousand_pipelined_requests_in_one_write(single: Tree) -> None:
    single.engine.plan([HOLD, answer()])
    with single.client() as client:
        client.send(b"".join(post(body_of(number)) for number in range(1000)))
        single.world.eventually(lambda: single.engine.received)
        single.engine.release()
        for _ in range(1000):
            assert client.read_answer().body == OK_BODY
    assert [received.body for received in single.engine.received] == [body_of(number) for number in range(1000)]


@pytest.mark.parametrize("first", ["answered", "held", "of the app"])
def test_a_thousand_pipelined_failures_do_not_overflow_the_stack(single: Tree, first: str) -> None:
    single.engine.plan([HOLD, answer()] if first == "held" else [answer()])
    failing = b"POST /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"
    with single.client() as client:
        client.send((HEALTH if first == "of the app" else post()) + failing * 1000 + post())
        if first == "held":
            single.world.eventually(lambda: single.engine.received)
            single.engine.release()
        assert client.read_answer().status == 200
        assert {client.read_answer().status for _ in range(1000)} == {400}
        assert client.read_answer().body == OK_BODY


def test_a_pipelined_body_may_come_later(chain: Tree) -> None:
    chain.engine.plan([HOLD, answer(b"first")], [answer(b"second")])
    with chain.client() as client:
        client.send(post(body_of(1)) + post_head(b"content-length: 13") + BODY[:5])
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        assert client.read_answer().body == b"first"
        client.send(BODY[5:] + HEALTH)
        assert client.read_answer().body == b"second"
        assert client.read_answer().status == 200


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n\r\n", post(BODY, b"content-length: 1"), post_head(b"transfer-encoding: chunked") + b"x\r\n"]
)
def test_answers_that_are_due_come_before_a_refusal(chain: Tree, bad: bytes) -> None:
    chain.engine.plan([HOLD, answer(b"first")], [answer(b"second")])
    with chain.client() as client:
        client.send(post(body_of(1)) + post(body_of(2)) + HEALTH + bad + post(body_of(3)))
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        answers = [client.read_answer() for _ in range(4)]
        assert [found.status for found in answers] == [200, 200, 200, 400]
        assert [found.body for found in answers[:2]] == [b"first", b"second"]
        assert answers[3].get(b"connection") == [b"close"]
        assert client.is_closed()
    assert [received.body for received in chain.engine.received] == [body_of(1), body_of(2)]


def test_nonsense_in_mid_answer_does_not_end_up_in_the_answer(chain: Tree) -> None:
    """uvicorn writes a text/plain 400 at once, into whatever is being sent."""
    chain.engine.plan([SSE_HEAD, chunk(event("a")), HOLD, chunk(event("b")) + b"0\r\n\r\n"])
    with chain.client() as client:
        client.send(post())
        client.read_until(event("a") + b"\r\n")
        client.send(b"nonsense\r\n\r\n")
        chain.world.eventually(lambda: any(one._deaf for one in chain.connections()))
        chain.engine.release()
        assert client.read_until(b"0\r\n\r\n") == chunk(event("b")) + b"0\r\n\r\n"
        answered = client.read_answer()
        assert (answered.status, answered.error["code"]) == (400, "bad_request")
        assert client.is_closed()


@pytest.mark.parametrize("behind", [post(body_of(2)), b"nonsense", HEALTH])
def test_nothing_behind_a_last_request_is_looked_at(chain: Tree, behind: bytes) -> None:
    chain.engine.plan([HOLD, answer()])
    with chain.client() as client:
        client.send(post(BODY, b"connection: close") + behind)
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        answered = client.read_answer()
        assert (answered.status, answered.get(b"connection")) == (200, [b"close"])
        assert client.is_closed()
    assert len(chain.engine.received) == 1


def test_nothing_behind_an_http_10_request_is_looked_at(chain: Tree) -> None:
    with chain.client() as client:
        client.send(post(BODY, b"connection: keep-alive", version=b"1.0") + post())
        assert client.read_answer().status == 200
        assert client.is_closed()
    assert len(chain.engine.received) == 1


def test_a_body_that_breaks_is_refused_though_the_app_waits_for_it(single: Tree) -> None:
    head = b"POST /register_worker HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    with single.client() as client:
        client.send(head + chunk(b'{"worker'))
        single.world.eventually(lambda: any(one.server_state.tasks for one in single.connections()))
        client.send(b"nonsense\r\n")
        answered = client.read_answer()
        assert (answered.status, answered.error["code"]) == (400, "bad_request")
        assert client.is_closed()
    tasks = single.servers[0].server_state.tasks
    single.world.eventually(lambda: not tasks, "the app to be told")


# -- deadlines -----------------------------------------------------------------------------------------------------

SLOW: dict[str, tuple[bytes, bytes]] = {
    "a head": (b"POST /v1/", b"x"),
    "a field": (b"POST /v1/x HTTP/1.1\r\nhost: a\r\nx: ", b"y"),
    "a body": (post_head(b"content-length: 13") + BODY[:3], BODY[3:4]),
    "chunks": (post_head(b"transfer-encoding: chunked") + chunk(b"{"), chunk(b" ")),
    "a chunk size": (post_head(b"transfer-encoding: chunked"), b"0"),
    "a body for the app": (b"POST /register_worker HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{", b" "),
    "a request after others": (post() + HEALTH + b"POST /v1", b"/"),
}


@pytest.mark.parametrize(("first", "more"), SLOW.values(), ids=SLOW.keys())
def test_slow_requests_get_408_however_they_trickle(single: Tree, first: bytes, more: bytes) -> None:
    limit = single.root.settings.receive_timeout_s
    with single.client() as client:
        client.send(first)
        if first.startswith(post()):
            assert [client.read_answer().status for _ in range(2)] == [200, 200]
        single.world.eventually(lambda: [one for one in single.connections() if one._receiving])
        single.forward(limit * 0.6)
        client.send(more)
        single.forward(limit * 0.3)
        (waiting,) = [one for one in single.connections() if one._receiving]
        assert not waiting.transport.is_closing()
        client.send(more)
        single.forward(limit * 0.2)
        answered = client.read_answer()
        assert (answered.status, answered.get(b"connection")) == (408, [b"close"])
        assert answered.error["code"] == "receive_timeout"
        assert client.is_closed()


def test_a_connection_that_says_nothing_is_closed_without_a_word(single: Tree) -> None:
    with single.client() as client:
        single.world.eventually(lambda: single.connections())
        client.send(b"\r\n")
        single.forward(single.root.settings.receive_timeout_s + 1)
        assert client.rest() == b""


def test_idle_connections_live_for_the_keep_alive_time(single: Tree) -> None:
    """uvicorn's own timer would close them after 5 s, and with them the links that wait for requests."""
    keep_alive = single.root.settings.keep_alive_s
    for request in (post(), HEALTH):
        with single.client() as client:
            for _ in range(2):
                client.send(request)
                assert client.read_answer().status == 200
                single.forward(keep_alive - 1)
            assert all(one.timeout_keep_alive_task is None for one in single.connections())
            single.forward(1.1)
            assert client.rest() == b""


def test_a_stream_may_last_longer_than_any_limit_as_long_as_it_moves(single: Tree) -> None:
    idle = single.root.settings.idle_timeout_s
    single.engine.plan([SSE_HEAD, chunk(event("1")), HOLD, chunk(event("2")), HOLD])
    with single.client() as client:
        client.send(post())
        client.read_until(b"1\n\n\r\n")
        single.forward(idle * 0.9)
        single.engine.release()
        client.read_until(b"2\n\n\r\n")
        single.forward(idle * 0.9)  # passes the first deadline, but something has come since
        single.forward(idle * 0.9)
        single.forward(idle * 0.9)
        rest = client.rest()
        assert b"event: error" in rest
        assert b"sent nothing for" in rest
        assert rest.endswith(b"\r\n0\r\n\r\n")
    single.world.eventually(lambda: single.engine.gone == 1)


@pytest.mark.parametrize("script", [[HOLD], [SSE_HEAD, HOLD], [b"HTTP/1.1 100 Continue\r\n\r\n", HOLD]])
def test_no_first_byte_in_time_gives_504(single: Tree, script: list[bytes | str]) -> None:
    """The head is none: engines send it before they have computed anything."""
    single.engine.plan(script)
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: single.engine.received)
        single.forward(single.root.settings.first_byte_timeout_s + 1)
        answered = client.read_answer()
        assert (answered.status, answered.error["code"]) == (504, "deadline_passed")
        single.world.eventually(lambda: single.engine.gone == 1)
        client.send(post())
        assert client.read_answer().status == 200


def test_a_refused_body_is_read_on_for_a_moment_only(world: World) -> None:
    with tree(world, max_body_bytes=2000) as small, small.client() as client:
        client.send(post_head(b"content-length: 100000") + b"x" * 100)
        assert client.read_answer().status == 413
        assert client.read() == b""  # it said that this was the last
        client.send(b"x" * 100)  # and still takes the rest, so that no reset overtakes the answer
        (connection,) = small.connections()
        small.forward(LINGER_S + 1)
        world.eventually(lambda: connection not in small.connections(), "the connection to be closed")


# -- backpressure --------------------------------------------------------------------------------------------------


def slow_client(running: Tree) -> tuple[Client, LaneProtocol]:
    """A client with small buffers in the kernels of both sides, and its connection."""
    client = Client(running.port, receive_buffer=32 * 1024)
    name = client.sock.getsockname()
    (connection,) = running.world.eventually(lambda: [one for one in running.connections() if one.client == name])
    sock = connection.transport.get_extra_info("socket")
    running.world.call(lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024))
    return client, connection


def test_a_slow_client_pauses_the_engine_and_little_is_held(chain: Tree) -> None:
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
            return sum(one.flow.write_paused for one in connections) == 3

        last: list[int] = []

        def the_engine_waits() -> bool:
            last.append(sent)
            return every_level_waits() and last[-50:] == [sent] * 50

        chain.world.eventually(the_engine_waits)
        assert sent < blocks
        assert chain.ask(post()).status == 200  # nobody else waits
        client.read_head()
        got = len(client.buffer)
        while not client.buffer.endswith(b"\r\n0\r\n\r\n"):
            client.buffer = client.read()
            got += len(client.buffer)
            if got % 100 == 0:
                chain.world.call(every_level_waits)
        assert got == blocks * len(block) + len(b"0\r\n\r\n")


def test_the_limit_holds_for_one_read_more() -> None:
    assert HIGH_WATER + UVLOOP_READ <= BUFFERED


def test_pipelining_without_reading_holds_no_more(single: Tree) -> None:
    """The next answer is not fetched while the last one is not read, whoever gives it."""
    count, size = 30, 1_000_000
    single.world.call(lambda: setattr(single.engine, "otherwise", [answer(b"x" * size)]))
    client, connection = slow_client(single)
    with client:
        client.send(post() * count)
        single.world.eventually(lambda: connection.flow.write_paused, "the client to be too slow")
        assert len(single.engine.received) < count / 2
        for _ in range(count):
            assert single.world.call(connection.transport.get_write_buffer_size) <= BUFFERED
            assert len(client.read_answer().body) == size
    assert len(single.engine.received) == count


def test_failing_without_reading_holds_no_more(single: Tree) -> None:
    """Errors of our own wait for the client too: each is ten times as long as the request that asks for it."""
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
                assert len(connection.pipeline) <= MAX_WAITING + UVLOOP_READ / len(failing)
            assert client.read_answer().status == 400
        assert most <= BUFFERED
        sender.join()


def test_large_requests_that_wait_are_not_all_taken_in(single: Tree) -> None:
    single.engine.plan([HOLD, answer()])
    body = b'{"model":"m","x":"' + b"y" * 8_000_000 + b'"}'
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: single.engine.received)
        sender = threading.Thread(target=lambda: client.send(post(body) * 3), daemon=True)
        sender.start()
        name = client.sock.getsockname()
        (connection,) = [one for one in single.connections() if one.client == name]
        single.world.eventually(lambda: connection.flow.read_paused)
        assert connection.pipeline[0][0].size <= MAX_WAITING_BYTES + UVLOOP_READ
        assert len(connection.pipeline) == 1
        single.engine.release()
        assert [client.read_answer().status for _ in range(4)] == [200] * 4
        sender.join()
    assert [len(received.body) for received in single.engine.received] == [len(BODY)] + [len(body)] * 3


def test_a_client_that_stops_reading_is_dropped_at_last(single: Tree) -> None:
    idle = single.root.settings.idle_timeout_s
    single.engine.plan([answer(b"x" * 30_000_000), HOLD])
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


# -- leaving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("script", [[HOLD], [SSE_HEAD, HOLD], [SSE_HEAD, chunk(event("a")), HOLD]])
def test_a_client_that_leaves_frees_the_engine_through_all_levels(
    chain: Tree, script: list[bytes | str], how: str
) -> None:
    chain.engine.plan(script)
    with chain.client() as client:
        client.send(post())
        chain.world.eventually(lambda: chain.engine.received)
        assert chain.leases() == 3
        if len(script) == 3:
            client.read_until(event("a"))
        if how == "RST":
            client.reset()
    chain.world.eventually(lambda: chain.engine.gone == 1, "the engine to see it")
    chain.wait_idle()


def test_a_client_that_leaves_with_requests_waiting_frees_them_all(chain: Tree) -> None:
    chain.engine.plan([SSE_HEAD, chunk(event("a")), HOLD])
    with chain.client() as client:
        client.send(post() + HEALTH + post())
        client.read_until(event("a"))
        client.reset()
    chain.world.eventually(lambda: chain.engine.gone == 1)
    chain.wait_idle()
    assert len(chain.engine.received) == 1


@pytest.mark.parametrize("seed", range(3))
def test_no_lease_is_left_after_a_storm(chain: Tree, seed: int) -> None:
    rng = random.Random(seed)
    endings: list[list[bytes | str]] = [
        [answer()],
        [SSE_HEAD, chunk(event("a")), chunk(event("b")) + b"0\r\n\r\n"],
        [SSE_HEAD, chunk(event("a")), RESET],
        [CLOSE],
        [b"nonsense\r\n\r\n"],
        [HOLD],
        [SSE_HEAD, chunk(event("a")), HOLD],
        [b"HTTP/1.1 200 OK\r\n\r\n", event("a"), CLOSE],
    ]
    chain.engine.plan(*[rng.choice(endings) for _ in range(400)])
    requests: list[Callable[[], bytes]] = [
        post,
        lambda: post() * rng.randint(2, 4),
        lambda: post() + HEALTH + post(),
        lambda: post()[: rng.randint(1, 90)],
        lambda: post(b"{}") + post(),
        lambda: post(BODY, b"connection: close"),
        lambda: post(version=b"1.0"),
    ]
    clients: list[Client] = []
    for _ in range(150):
        client = chain.client()
        clients.append(client)
        client.send(rng.choice(requests)())
        while clients and rng.random() < 0.5:
            leaving = clients.pop(rng.randrange(len(clients)))
            if rng.random() < 0.5:
                leaving.reset()
            else:
                leaving.sock.close()
    for client in clients:
        client.sock.close()
    chain.wait_idle()
    chain.engine.free()
    chain.world.eventually(lambda: not chain.exchanges(), "every exchange to end")
    for node in chain.nodes:
        for child in node.registry:
            assert (child.total.open, child.total.value >= 0) == (0, True)
            assert all(share.open == 0 for share in child.shares.values())
    chain.engine.plan()
    assert chain.ask(post()).status == 200
    chain.engine.surplus.clear()


# -- shutting down -------------------------------------------------------------------------------------------------


def test_a_stream_outlives_sigterm(world: World) -> None:
    """uvicorn's `shutdown` closes every connection without a cycle; a lane stream has one, and ends in its own time."""
    with tree(world) as running:
        stream = [SSE_HEAD, chunk(event("a")), HOLD, chunk(event("b")) + b"0\r\n\r\n"]
        running.engine.plan(stream, [answer(b"half")])
        with running.client() as client, running.client() as idle, running.client() as half, running.client() as late:
            client.send(post())
            client.read_until(event("a") + b"\r\n")
            half.send(post_head(b"content-length: 13") + BODY[:5])
            late.send(b"POST /v1")
            running.world.eventually(lambda: sum(one._receiving for one in running.connections()) == 2)
            running.servers[0].should_exit = True
            assert idle.rest() == b""
            assert late.is_closed()  # nothing was promised to it yet
            half.send(BODY[5:])
            assert half.read_answer().body == b"half"
            running.engine.release()
            assert client.read_until(b"0\r\n\r\n") == chunk(event("b")) + b"0\r\n\r\n"
            assert client.rest() == b""


def test_a_stream_that_outlives_the_grace_ends_with_an_error_event(world: World) -> None:
    with tree(world, grace_s=1.0) as running:
        running.engine.plan([SSE_HEAD, chunk(event("a")), HOLD])
        with running.client() as client:
            client.send(post())
            client.read_until(event("a") + b"\r\n")
            running.servers[0].should_exit = True
            rest = client.rest()
            assert b"event: error" in rest
            assert b"shutting down" in rest
            assert rest.endswith(b"\r\n0\r\n\r\n")


# -- dialling ------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_while_its_child_is_dialled(single: Tree) -> None:
    """The connection that comes too late is kept for the next one, and nothing is sent on it."""
    child = single.child()
    pool = single.root.lane.pool(child)
    single.world.call(pool.sweep)

    def drop_idle() -> None:
        while pool.idle:
            pool.idle.popitem()[0].transport.close()

    gate = single.world.call(lambda: _Gate(pool))
    single.world.call(drop_idle)
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: gate.waiting)
        assert single.leases() == 1
    single.wait_idle()
    single.world.call(gate.open)
    single.world.eventually(lambda: pool.idle, "the connection to be kept")
    assert single.engine.received == []
    assert single.ask(post()).status == 200


class _Gate:
    """Holds up a pool's dialling."""

    def __init__(self, pool: object) -> None:
        self.waiting = 0
        self._event = asyncio.Event()
        self._dial = pool.dial  # type: ignore[attr-defined]
        pool.dial = self.dial  # type: ignore[attr-defined]

    async def dial(self) -> object:
        self.waiting += 1
        await self._event.wait()
        return await self._dial()

    def open(self) -> None:
        self._event.set()


def test_an_engine_that_nobody_can_reach_is_passed_over(world: World) -> None:
    with tree(world, engines=2, dispatch="round_robin") as pair:
        gone, stays = pair.engines
        world.run(gone.stop())
        for child in pair.root.registry:
            pool = pair.root.lane.pool(child)
            world.call(pool.close)
        answers = [pair.ask(post()) for _ in range(4)]
        assert [found.status for found in answers] == [200] * 4
        assert len(stays.received) == 4
