"""Children that fail before the first byte: another one is tried, or the client gets an error."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from hierarchy.balancing.retry_budget import RetryBudget
from tests.relay.raw import OK_BODY, SSE_HEAD, chunk, event, http_response, post
from tests.relay.support import CLOSE, HOLD, RESET, Script, Tree, World, tree

MALFORMED: dict[str, list[bytes | str]] = {
    "nonsense": [b"hello\r\n\r\n"],
    "a request": [b"GET / HTTP/1.1\r\n\r\n"],
    "length and chunked": [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
    "two lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"],
    "an odd length": [b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello"],
    "an unknown coding": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
    "LF only": [b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello\r\n\r\n"],
    "obs-fold": [b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n"],
    "NUL": [b"HTTP/1.1 200 OK\r\nx: \0\r\n\r\n"],
    "101": [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
    "a head too large": [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n"],
    "a head without end": [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, HOLD],
    "bad chunks": [SSE_HEAD + b"zz\r\n"],
    "closed": [CLOSE],
    "reset": [RESET],
    "closed in the head": [b"HTTP/1.1 200 OK\r\nconte", CLOSE],
    "reset in the head": [b"HTTP/1.1 200 OK\r\nconte", RESET],
    "closed after the head": [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", CLOSE],
    "reset after the head": [SSE_HEAD, RESET],
    "closed after an interim response": [b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE],
}


@pytest.mark.parametrize("script", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_child_that_breaks_before_the_first_byte_gives_502(chain: Tree, script: list[bytes | str]) -> None:
    chain.engine.always(script)
    with chain.client() as client:
        client.send(post())
        response = client.read_response()
        assert response.status == 502
        assert response.error["code"] == "child_failed"
        chain.engine.plan()
        client.send(post())
        assert client.read_response().status == 200  # the client's connection is still usable


@pytest.mark.parametrize("script", MALFORMED.values(), ids=MALFORMED.keys())
def test_another_child_is_tried_if_there_is_one(pair: Tree, script: list[bytes | str]) -> None:
    for broken in pair.engines:
        for engine in pair.engines:
            engine.plan()
        broken.always(script)
        before = pair.root.metrics.retries
        responses = [pair.request(post()) for _ in range(6)]
        assert [found.status for found in responses] == [200] * 6
        if not broken.received:
            continue  # by chance; the other one of the two is next
        assert pair.root.metrics.retries > before
        return
    raise AssertionError("no engine got a request")


@pytest.fixture(scope="module")
def _pair(world: World) -> Any:
    with tree(world, engines=2, dispatch="round_robin") as running:
        yield running


@pytest.fixture
def pair(_pair: Tree) -> Any:
    def begin() -> None:
        """Reset the node: nothing has failed yet."""
        _pair.root.lane.retry_budget = RetryBudget(_pair.clock)
        for child in _pair.root.registry:
            child.failures = None
            for share in child.shares.values():
                share.failures = None
        _pair.root.registry.generation += 1

    _pair.world.call(begin)
    yield _pair
    for engine in _pair.engines:
        engine.free()
    _pair.wait_idle()
    assert _pair.world.problems == []


def test_no_response_starts_twice(pair: Tree) -> None:
    """A child that broke after its first byte is not replaced: the bytes that were sent cannot be taken back."""
    for engine in pair.engines:
        engine.plan()
        engine.always([SSE_HEAD, chunk(event("a")), RESET])
    response = pair.request(post())
    assert response.body.count(b"data: a") == 1
    assert response.body.count(b"event: error") == 1
    assert sum(len(engine.received) for engine in pair.engines) == 1


def test_a_connection_that_ends_between_two_requests_costs_nothing(single: Tree) -> None:
    """The only engine closes the connection at the next request: it is tried again."""
    for end in (CLOSE, RESET):
        single.engine.plan([http_response()], [end], [http_response(b"again")])
        assert single.request(post()).body == OK_BODY
        assert single.request(post()).body == b"again"
        first, second, third = (received.connection for received in single.engine.received)
        assert first == second != third


def test_an_engine_that_always_closes_gives_502(single: Tree) -> None:
    single.engine.plan([http_response()])
    assert single.request(post()).status == 200
    single.engine.always([CLOSE])
    assert single.request(post()).status == 502
    assert len(single.engine.received) == 3  # the first request, a stale connection, a new one


def test_a_connection_that_ended_while_idle_is_not_used(chain: Tree) -> None:
    chain.engine.plan([http_response(), CLOSE])
    assert chain.request(post()).status == 200
    pool = chain.nodes[-1].lane.pool(chain.child())
    chain.world.eventually(lambda: not pool.idle, "the close to be seen")
    assert chain.request(post()).status == 200
    first, second = chain.engine.received
    assert first.connection != second.connection


def test_llamacpp_s_hundred_requests_on_a_connection(single: Tree) -> None:
    fields = b"Keep-Alive: timeout=5, max=100"
    single.engine.plan(*[[http_response(OK_BODY, fields)]] * 99, [http_response(OK_BODY, b"Connection: close"), CLOSE])
    with single.client() as client:
        for _ in range(150):
            client.send(post())
            assert client.read_response().status == 200
    numbers = [received.connection for received in single.engine.received]
    assert len(set(numbers[:100])) == 1
    assert set(numbers[100:]).isdisjoint(numbers[:100])


def test_an_early_response_is_forwarded_and_the_connection_dropped(chain: Tree) -> None:
    """The engine refuses at the head; three megabytes of body are still to be written."""
    body = b'{"model":"m","x":"' + b"y" * 3_000_000 + b'"}'
    refusal = http_response(b"too long", status=b"413 Too Large")
    scripts: list[Script] = [[refusal, CLOSE], [refusal, HOLD]]
    for script in scripts:
        chain.engine.plan()
        chain.world.call(partial(setattr, chain.engine, "early", script))
        with chain.client() as client:
            client.send(post(body))
            response = client.read_response()
            assert (response.status, response.body) == (413, b"too long")
            chain.world.call(lambda: chain.engine.surplus.clear())
            client.send(post())
            assert client.read_response().status == 200
    chain.world.call(lambda: chain.engine.surplus.clear())  # the part of the body that arrived during HOLD


def test_bytes_behind_a_response_reach_no_client(chain: Tree) -> None:
    for first in (http_response(), SSE_HEAD + chunk(event("a")) + b"0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"):
        chain.engine.plan([first + http_response(b"not requested")])
        with chain.client() as client:
            client.send(post())
            client.read_response()
            client.send(post())
            assert client.read_response().body == OK_BODY
        one, two = (received.connection for received in chain.engine.received)
        assert one != two


@pytest.mark.parametrize(("status", "blamed"), [(b"501 Not Implemented", False), (b"500 Internal Server Error", True)])
def test_an_engine_that_was_not_started_for_something_is_not_to_blame(
    world: World, status: bytes, blamed: bool
) -> None:
    """llama.cpp answers 501 to embeddings unless it is started for them: clients that try must not eject it."""
    with tree(world) as running:
        running.engine.plan(*[[http_response(status=status)]] * 8)
        for _ in range(8):
            assert running.request(post()).status == int(status[:3])
        assert any(share.failures is not None for share in running.child().shares.values()) is blamed
