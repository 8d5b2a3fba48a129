"""Clients that leave, nodes that shut down, children that cannot be dialled."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from hierarchy.registry.child import Child
from hierarchy.relay.upstream.pool import Pool
from tests.relay.raw import BODY, HEALTH, SSE_HEAD, Client, chunk, event, http_response, post, post_head
from tests.relay.support import CLOSE, HOLD, RESET, Script, Tree, World, tree


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
def test_no_lease_is_left_after_many_random_clients(chain: Tree, seed: int) -> None:
    rng = random.Random(seed)
    endings: list[list[bytes | str]] = [
        [http_response()],
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
    assert chain.request(HEALTH).status == 200  # so all earlier connections were accepted and read
    levels = range(len(chain.nodes))
    chain.world.eventually(
        lambda: not (chain.leases() or any(chain.exchanges(level) for level in levels)), "every exchange to end"
    )
    chain.engine.free()
    for node in chain.nodes:
        for child in node.registry:
            assert (child.total.open, child.total.value >= 0) == (0, True)
            assert all(share.open == 0 for share in child.shares.values())
    chain.engine.plan()
    assert chain.request(post()).status == 200
    chain.engine.surplus.clear()


def test_a_stream_outlives_sigterm(world: World) -> None:
    """uvicorn's `shutdown` closes connections without a request for the app; a stream of the lane is completed."""
    with tree(world) as running:
        stream: Script = [SSE_HEAD, chunk(event("a")), HOLD, chunk(event("b")) + b"0\r\n\r\n"]
        running.engine.plan(stream, [http_response(b"half")])
        with running.client() as client, running.client() as idle, running.client() as half, running.client() as late:
            client.send(post())
            client.read_until(event("a") + b"\r\n")
            half.send(post_head(b"content-length: 13") + BODY[:5])
            late.send(b"POST /v1")
            running.world.eventually(lambda: sum(one.receiving for one in running.connections()) == 2)
            running.servers[0].should_exit = True
            assert idle.rest() == b""  # after that second, too
            half.send(BODY[5:])
            assert half.read_response().body == b"half"
            assert late.read_response().status == 408  # it had a second to send a request
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


def test_a_client_that_leaves_while_its_child_is_dialled(single: Tree) -> None:
    """The connection that is made too late is kept for the next request, and nothing is sent on it."""
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
    assert single.request(post()).status == 200


def test_no_idle_connection_is_kept_when_descriptors_run_short(single: Tree) -> None:
    """Thousands of engines may each have one, and clients would have none."""
    pool, descriptors = single.root.lane.pool(single.child()), single.root.lane.descriptors
    assert single.request(post()).status == 200
    assert len(pool.idle) == 1
    kept, descriptors.for_idle = descriptors.for_idle, 0
    try:
        assert single.request(post()).status == 200
        assert len(pool.idle) == 0
    finally:
        descriptors.for_idle = kept


def test_running_out_of_descriptors_does_not_count_against_a_child(
    single: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = single.root.lane.pool(single.child())

    async def connect(*arguments: Any, **options: Any) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    single.world.call(lambda: pool.idle.clear())
    monkeypatch.setattr(pool, "connect", connect)
    response = single.request(post())
    assert response.status == 503
    assert b"file descriptors" in response.body
    assert single.child().available(time.monotonic())
    assert single.leases() == 0


def test_idle_connections_to_children_make_room_for_a_request(single: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the newest socket does not show how many idle ones have a higher one."""
    pool = single.root.lane.pool(single.child())
    other = Pool(Child("other", single.child().url, "openai"), 1.0, None, time.monotonic)
    monkeypatch.setitem(single.root.lane._pools, "other", other)
    assert single.request(post()).status == 200
    connect = pool.connect

    async def exhausted(*arguments: Any, **options: Any) -> object:
        if other.idle:
            raise OSError(errno.EMFILE, "Too many open files")
        return await connect(*arguments, **options)

    def lend() -> None:
        upstream, _ = pool.idle.popitem()
        other.idle[upstream] = None

    single.world.call(lend)
    monkeypatch.setattr(pool, "connect", exhausted)
    response = single.request(post())
    assert response.status == 200, response.body
    assert not other.idle


class _Gate:
    """Delays the dials of a pool."""

    def __init__(self, pool: Pool) -> None:
        self.waiting = 0
        self._event = asyncio.Event()
        self._connect = pool.connect
        pool.connect = self.connect

    async def connect(self, *arguments: Any, **options: Any) -> object:
        self.waiting += 1
        await self._event.wait()
        return await self._connect(*arguments, **options)

    def open(self) -> None:
        self._event.set()


def test_an_engine_that_cannot_be_reached_is_skipped(world: World) -> None:
    with tree(world, engines=2, dispatch="round_robin") as pair:
        gone, stays = pair.engines
        world.run(gone.stop())
        for child in pair.root.registry:
            pool = pair.root.lane.pool(child)
            world.call(pool.close)
        responses = [pair.request(post()) for _ in range(4)]
        assert [found.status for found in responses] == [200] * 4
        assert len(stays.received) == 4
