"""Time limits, by a clock that the test sets: no client holds a place by trickling, and streams may last."""

from __future__ import annotations

import pytest

from hierarchy.relay.downstream.connection import LINGER_S
from tests.relay.raw import BODY, HEALTH, SSE_HEAD, chunk, event, post, post_head
from tests.relay.support import HOLD, Tree, World, tree

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
            assert [client.read_response().status for _ in range(2)] == [200, 200]
        single.world.eventually(lambda: [one for one in single.connections() if one.receiving])
        single.forward(limit * 0.6)
        client.send(more)
        single.forward(limit * 0.3)
        (waiting,) = [one for one in single.connections() if one.receiving]
        assert not waiting.transport.is_closing()
        client.send(more)
        single.forward(limit * 0.2)
        response = client.read_response()
        assert (response.status, response.get(b"connection")) == (408, [b"close"])
        assert response.error["code"] == "receive_timeout"
        assert client.is_closed()


def test_a_connection_without_a_request_is_closed_without_a_response(single: Tree) -> None:
    with single.client() as client:
        single.world.eventually(lambda: single.connections())
        client.send(b"\r\n")
        single.forward(single.root.settings.receive_timeout_s + 1)
        assert client.rest() == b""


def test_idle_connections_stay_open_for_the_keep_alive_time(single: Tree) -> None:
    """uvicorn's own timer would close them after 5 s, and idle links with them."""
    keep_alive = single.root.settings.keep_alive_s
    for request in (post(), HEALTH):
        with single.client() as client:
            for _ in range(2):
                client.send(request)
                assert client.read_response().status == 200
                single.forward(keep_alive - 1)
            assert all(one.timeout_keep_alive_task is None for one in single.protocols())
            single.forward(1.1)
            assert client.rest() == b""


def test_a_stream_may_last_longer_than_any_limit_as_long_as_bytes_arrive(single: Tree) -> None:
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
    """A head does not count: engines send it before they have computed anything."""
    single.engine.plan(script)
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: single.engine.received)
        single.forward(single.root.settings.first_byte_timeout_s + 1)
        response = client.read_response()
        assert (response.status, response.error["code"]) == (504, "deadline_passed")
        single.world.eventually(lambda: single.engine.gone == 1)
        client.send(post())
        assert client.read_response().status == 200


def test_the_rest_of_a_refused_body_is_read_for_a_short_time_only(world: World) -> None:
    with tree(world, max_body_bytes=2000) as small, small.client() as client:
        client.send(post_head(b"content-length: 100000") + b"x" * 100)
        assert client.read_response().status == 413
        assert client.read() == b""  # it announced that this was the last response
        client.send(b"x" * 100)  # and still reads the rest, so that no reset overtakes the response
        (connection,) = small.connections()
        small.forward(LINGER_S + 1)
        world.eventually(lambda: connection not in small.connections(), "the connection to be closed")
