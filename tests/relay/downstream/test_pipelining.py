"""Many requests on one connection: order, refusals, and which client gets which response."""

from __future__ import annotations

import json

import pytest

from tests.relay.raw import BODY, HEALTH, OK_BODY, SSE_HEAD, chunk, event, http_response, post, post_head
from tests.relay.support import HOLD, Tree


def body_of(number: int) -> bytes:
    return b'{"model":"m","n":%d}' % number


def test_pipelined_requests_of_lane_and_app_are_answered_in_order(chain: Tree) -> None:
    chain.engine.plan([HOLD, http_response(b"first")], [http_response(b"second")])
    with chain.client() as client:
        client.send(HEALTH + post(body_of(1)) + HEALTH + post(b"{}") + post(body_of(2)) + HEALTH)
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        responses = [client.read_response() for _ in range(6)]
    assert [found.status for found in responses] == [200, 200, 200, 400, 200, 200]
    assert [responses[1].body, responses[4].body] == [b"first", b"second"]
    assert [json.loads(responses[at].body)["status"] for at in (0, 2, 5)] == ["ok"] * 3
    assert [received.body for received in chain.engine.received] == [body_of(1), body_of(2)]


def test_a_thousand_pipelined_requests_in_one_write(single: Tree) -> None:
    single.engine.plan([HOLD, http_response()])
    with single.client() as client:
        client.send(b"".join(post(body_of(number)) for number in range(1000)))
        single.world.eventually(lambda: single.engine.received)
        single.engine.release()
        for _ in range(1000):
            assert client.read_response().body == OK_BODY
    assert [received.body for received in single.engine.received] == [body_of(number) for number in range(1000)]


@pytest.mark.parametrize("first", ["answered", "held", "of the app"])
def test_a_thousand_pipelined_failures_do_not_overflow_the_stack(single: Tree, first: str) -> None:
    single.engine.plan([HOLD, http_response()] if first == "held" else [http_response()])
    failing = b"POST /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"
    with single.client() as client:
        client.send((HEALTH if first == "of the app" else post()) + failing * 1000 + post())
        if first == "held":
            single.world.eventually(lambda: single.engine.received)
            single.engine.release()
        assert client.read_response().status == 200
        assert {client.read_response().status for _ in range(1000)} == {400}
        assert client.read_response().body == OK_BODY


def test_a_pipelined_body_may_arrive_later(chain: Tree) -> None:
    chain.engine.plan([HOLD, http_response(b"first")], [http_response(b"second")])
    with chain.client() as client:
        client.send(post(body_of(1)) + post_head(b"content-length: 13") + BODY[:5])
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        assert client.read_response().body == b"first"
        client.send(BODY[5:] + HEALTH)
        assert client.read_response().body == b"second"
        assert client.read_response().status == 200


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n\r\n", post(BODY, b"content-length: 1"), post_head(b"transfer-encoding: chunked") + b"x\r\n"]
)
def test_responses_that_are_due_come_before_a_refusal(chain: Tree, bad: bytes) -> None:
    chain.engine.plan([HOLD, http_response(b"first")], [http_response(b"second")])
    with chain.client() as client:
        client.send(post(body_of(1)) + post(body_of(2)) + HEALTH + bad + post(body_of(3)))
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        responses = [client.read_response() for _ in range(4)]
        assert [found.status for found in responses] == [200, 200, 200, 400]
        assert [found.body for found in responses[:2]] == [b"first", b"second"]
        assert responses[3].get(b"connection") == [b"close"]
        assert client.is_closed()
    assert [received.body for received in chain.engine.received] == [body_of(1), body_of(2)]


def test_malformed_bytes_during_a_response_are_refused_after_it(chain: Tree) -> None:
    """uvicorn writes a text/plain 400 at once, into whatever is being sent."""
    chain.engine.plan([SSE_HEAD, chunk(event("a")), HOLD, chunk(event("b")) + b"0\r\n\r\n"])
    with chain.client() as client:
        client.send(post())
        client.read_until(event("a") + b"\r\n")
        client.send(b"nonsense\r\n\r\n")
        chain.world.eventually(lambda: any(one.ignoring for one in chain.connections()))
        chain.engine.release()
        assert client.read_until(b"0\r\n\r\n") == chunk(event("b")) + b"0\r\n\r\n"
        response = client.read_response()
        assert (response.status, response.error["code"]) == (400, "bad_request")
        assert client.is_closed()


@pytest.mark.parametrize("behind", [post(body_of(2)), b"nonsense", HEALTH])
def test_bytes_after_a_last_request_are_ignored(chain: Tree, behind: bytes) -> None:
    chain.engine.plan([HOLD, http_response()])
    with chain.client() as client:
        client.send(post(BODY, b"connection: close") + behind)
        chain.world.eventually(lambda: chain.engine.received)
        chain.engine.release()
        response = client.read_response()
        assert (response.status, response.get(b"connection")) == (200, [b"close"])
        assert client.is_closed()
    assert len(chain.engine.received) == 1


def test_bytes_after_an_http_10_request_are_ignored(chain: Tree) -> None:
    with chain.client() as client:
        client.send(post(BODY, b"connection: keep-alive", version=b"1.0") + post())
        assert client.read_response().status == 200
        assert client.is_closed()
    assert len(chain.engine.received) == 1


def test_a_malformed_body_is_refused_although_the_app_waits_for_it(single: Tree) -> None:
    head = b"POST /register_worker HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    with single.client() as client:
        client.send(head + chunk(b'{"worker'))
        single.world.eventually(lambda: single.servers[0].server_state.tasks)
        client.send(b"nonsense\r\n")
        response = client.read_response()
        assert (response.status, response.error["code"]) == (400, "bad_request")
        assert client.is_closed()
    tasks = single.servers[0].server_state.tasks
    single.world.eventually(lambda: not tasks, "the app to be told")
