"""Attempts that are lent down a tree, refusals that are held, children that hang, clients that have to wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.lent_attempts import MAX_ATTEMPTS, lend, returned
from hierarchy.http import promise
from hierarchy.http.request_head import ATTEMPTS, DEADLINE
from hierarchy.http.response_head import UpstreamResponse
from hierarchy.relay.exchange import Exchange
from hierarchy.relay.held import Held
from hierarchy.relay.retry import (
    Again,
    Cause,
    Decision,
    Fail,
    Failure,
    PassOn,
    Probe,
    Refusal,
    decide,
    is_free,
    left_after,
)
from hierarchy.relay.upstream.connection import ConnectionPool
from tests.relay.raw import MODEL, SSE_HEAD, chunk, event, http_response, post
from tests.relay.support import CLOSE, HOLD, RESET, Script, Tree, World, tree

REFUSAL = http_response(b'{"error":{"message":"full"}}', status=b"503 Service Unavailable")
STREAM = b'{"model":"m","stream":true}'


def all_respond(running: Tree, script: Script) -> None:
    for engine in running.engines:
        engine.plan()
        engine.always(script)


def received(running: Tree) -> int:
    return sum(len(engine.received) for engine in running.engines)


# -- accounting ------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.booleans(), st.booleans())
def test_what_is_lent_is_held(left: int, entry: bool, rivals: bool) -> None:
    assert 1 <= lend(left, entry=entry, rivals=rivals) <= left


def test_the_entry_node_keeps_one() -> None:
    assert lend(3, entry=True, rivals=False) == 2
    assert lend(2, entry=False, rivals=True) == 1
    assert lend(2, entry=False, rivals=False) == 2


@given(st.integers(1, 3), st.none() | st.integers(-9, 99))
def test_no_more_comes_back_than_was_lent(lent: int, unspent: int | None) -> None:
    assert 0 <= returned(lent, unspent) <= lent


class Level:
    """A node of a model tree: engines that always fail, or nodes."""

    def __init__(self, children: list[Level] | None) -> None:
        self.children = children

    def request(self, left: int, *, entry: bool, spent: list[int]) -> int:
        """Everything fails. Returns how many attempts are left."""
        if self.children is None:
            spent.append(1)
            return left - 1
        untried = list(self.children)
        decision: Decision = Again()
        while untried and isinstance(decision, Again):
            child = untried.pop()
            lent = 1 if child.children is None else lend(left, entry=entry, rivals=bool(untried))
            failure = Failure(Cause.BROKEN, "failed", lent, child.request(lent, entry=False, spent=spent))
            left = left_after(failure, left - lent)
            decision = decide(failure, left, free=not entry, budget_has_room=True)
        return left


levels = st.recursive(
    st.just(Level(None)), lambda inner: st.lists(inner, min_size=1, max_size=4).map(Level), max_leaves=30
)


@given(levels)
def test_however_deep_and_wide_no_request_is_tried_more_often(root: Level) -> None:
    spent: list[int] = []
    left = root.request(MAX_ATTEMPTS, entry=True, spent=spent)
    assert sum(spent) + left == MAX_ATTEMPTS
    assert sum(spent) <= MAX_ATTEMPTS


REFUSED = Refusal(
    Held(UpstreamResponse(b"HTTP/1.1 503 Full\r\ncontent-length: 0\r\n\r\n"), "as_it_comes", b""), ConnectionPool()
)


@pytest.mark.parametrize(
    ("cause", "refusal", "left", "free", "room", "decision"),
    [
        (Cause.STALE, None, 1, True, False, Again(fresh=True)),
        (Cause.DEAD, None, 1, True, False, Again()),
        (Cause.BROKEN, None, 2, True, False, Again()),
        (Cause.BROKEN, None, 2, False, True, Again(counted=True)),
        (Cause.BROKEN, None, 2, False, False, Probe()),
        (Cause.BROKEN, None, 0, False, True, Fail()),
        (Cause.REFUSED, REFUSED, 2, False, True, Again(counted=True)),
        (Cause.REFUSED, REFUSED, 2, False, False, PassOn(REFUSED)),
        (Cause.REFUSED, REFUSED, 2, True, False, Again()),
        (Cause.REFUSED, REFUSED, 0, True, True, PassOn(REFUSED)),
    ],
)
def test_what_follows_a_failure(
    cause: Cause, refusal: Refusal | None, left: int, free: bool, room: bool, decision: Decision
) -> None:
    assert decide(Failure(cause, "", 1, None, refusal), left, free=free, budget_has_room=room) == decision


@pytest.mark.parametrize(
    ("cause", "at_entry", "dead", "free"),
    [
        (Cause.STALE, True, False, True),
        (Cause.DEAD, True, False, True),
        (Cause.BROKEN, True, False, False),
        (Cause.BROKEN, True, True, True),
        (Cause.REFUSED, True, False, False),
        (Cause.REFUSED, False, False, True),
    ],
)
def test_which_retries_need_no_place_in_the_budget(cause: Cause, at_entry: bool, dead: bool, free: bool) -> None:
    assert is_free(Failure(cause, ""), at_entry=at_entry, child_is_dead=dead) is free


@given(st.sampled_from(Cause), st.integers(0, 3), st.integers(1, 3), st.none() | st.integers(0, 9))
def test_no_failure_creates_attempts(cause: Cause, left: int, lent: int, unspent: int | None) -> None:
    after = left_after(Failure(cause, "", lent, unspent), left)
    assert left <= after <= left + lent
    if cause is Cause.STALE:
        assert after >= 1  # it is tried once more, whatever was lent


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(world: World) -> Iterator[Tree]:
    with tree(world, engines=2) as running:
        yield running
        for engine in running.engines:
            engine.free()
        running.wait_idle()
        assert world.problems == []


@pytest.fixture
def deep(world: World) -> Iterator[Tree]:
    with tree(world, engines=3, levels=3) as running:
        yield running
        running.wait_idle()
        assert world.problems == []


def test_a_503_goes_to_another_child(pair: Tree) -> None:
    for broken in pair.engines:
        all_respond(pair, [http_response()])
        broken.always([REFUSAL])
        assert [pair.request(post()).status for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"500 Oops", b"400 Bad Request", b"504 Late"])
def test_every_other_response_goes_to_the_client(pair: Tree, status: bytes) -> None:
    all_respond(pair, [http_response(b"no", status=status)])
    assert pair.request(post()).status == int(status[:3])
    assert received(pair) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        REFUSAL,
        b"HTTP/1.1 503 Full\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"full") + b"0\r\n\r\n",
        b"HTTP/1.1 503 Full\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_if_all_refuse_the_client_gets_the_last_refusal(deep: Tree, refusal: bytes) -> None:
    all_respond(deep, [refusal])
    response = deep.request(post())
    assert response.status == 503
    assert response.body in (b'{"error":{"message":"full"}}', b"full", b"")
    assert response.complete
    assert received(deep) == MAX_ATTEMPTS - 1  # the root keeps one, for another site
    assert not [name for name, _ in response.fields if name.startswith(b"x-hierarchy-") and b"path" not in name]


def test_a_very_long_refusal_is_forwarded_as_it_arrives(pair: Tree) -> None:
    head = b"HTTP/1.1 503 Full\r\ncontent-length: 400000\r\n\r\n"
    all_respond(pair, [head + b"x" * 200_000, b"x" * 200_000])
    response = pair.request(post())
    assert (response.status, len(response.body)) == (503, 400_000)


def test_engines_that_fail_three_levels_below_are_tried_as_often_as_was_lent(deep: Tree) -> None:
    for end in (CLOSE, RESET):
        all_respond(deep, [end])
        response = deep.request(post())
        assert (response.status, response.error["code"]) == (502, "child_failed")
        assert received(deep) == MAX_ATTEMPTS - 1


def test_attempts_go_down_with_the_request(deep: Tree) -> None:
    """The root keeps one; the nodes below have no other child to try, and lend all that they have."""
    heads: list[int] = []
    rack = deep.nodes[-1]
    rack.lane.access_log = lambda exchange, outcome: heads.append(cast(Exchange, exchange).head.attempts)
    assert deep.request(post(b'{"model":"m"}', ATTEMPTS + b": 9")).status == 200  # a client's own is ignored
    assert heads == [2]


def test_the_404_of_a_node_that_has_just_restarted_is_not_believed(world: World) -> None:
    """The parent routes by the report of the process before; the 404 of the new one is a failure, not a response."""
    with tree(world) as fresh:
        response = fresh.request(
            post(b'{"model":"unknown"}', b"x-hierarchy-auth: of-the-one-before", ATTEMPTS + b": 2")
        )
        assert response.status == 404
        assert response.get(b"x-hierarchy-unspent") == [b"3"]
        assert fresh.request(post(b'{"model":"unknown"}')).get(b"x-hierarchy-unspent") == []


# -- the retry budget ----------------------------------------------------------------------------------------------


def test_beyond_the_budget_the_client_gets_the_first_failure(pair: Tree) -> None:
    all_respond(pair, [REFUSAL])
    pair.world.call(lambda: setattr(pair.root.lane.retry_budget, "active", 10))
    assert pair.request(post()).status == 503
    assert received(pair) == 1
    pair.world.call(lambda: setattr(pair.root.lane.retry_budget, "active", 0))
    assert pair.request(post()).status == 503
    assert received(pair) == 3
    assert pair.root.lane.retry_budget.active == 0


def test_retries_after_a_dead_child_are_not_counted(world: World) -> None:
    """Its connections broke; since it refuses new ones, it is gone."""
    with tree(world, engines=2) as pair:
        pair.world.call(lambda: setattr(pair.root.lane.retry_budget, "active", 10))
        for number, engine in enumerate(pair.engines):
            engine.plan()
            engine.always([http_response()] if number else [RESET])
        world.run(pair.engines[0].stop())
        assert [pair.request(post()).status for _ in range(6)] == [200] * 6
        pair.wait_idle()


# -- children that hang ----------------------------------------------------------------------------------------------


def test_requests_without_a_first_byte_leave_a_child_that_is_found_dead(pair: Tree) -> None:
    all_respond(pair, [HOLD])
    with pair.client() as client:
        client.send(post())
        pair.world.eventually(lambda: received(pair) == 1)
        (hung,) = [child for child in pair.root.registry if child.in_flight]
        other = next(engine for engine in pair.engines if not engine.received)
        other.always([http_response()])
        pair.world.call(lambda: pair.root.engine_manager.mark_down(hung, "no answer"))
        assert client.read_response().status == 200
    assert pair.root.lane.retry_budget.active == 0


def test_the_only_child_keeps_its_requests_even_if_it_looks_dead(single: Tree) -> None:
    single.engine.plan([HOLD, http_response()])
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: single.engine.received)
        single.world.call(lambda: single.root.engine_manager.mark_down(single.child(), "no answer"))
        single.engine.release()
        assert client.read_response().status == 200
    single.world.eventually(lambda: single.child().down is None, "the prober to find it again")


def test_streams_that_have_begun_stay_at_their_child(pair: Tree) -> None:
    all_respond(pair, [SSE_HEAD + chunk(event("a")), HOLD, chunk(event("b")) + b"0\r\n\r\n"])
    with pair.client() as client:
        client.send(post())
        client.read_until(b"a\n\n\r\n")
        (hung,) = [child for child in pair.root.registry if child.in_flight]
        pair.world.call(lambda: pair.root.engine_manager.mark_down(hung, "no answer"))
        for engine in pair.engines:
            engine.release()
        client.read_until(b"b\n\n\r\n0\r\n\r\n")


# -- waiting ------------------------------------------------------------------------------------------------------


def waits(running: Tree, client: object) -> None:
    running.world.eventually(lambda: received(running) >= 1)
    running.forward(promise.COMMENT_EVERY_S + 0.1)


def test_a_client_that_waits_for_its_first_token_gets_comments(single: Tree) -> None:
    single.engine.plan([SSE_HEAD, HOLD, chunk(event("a")) + b"0\r\n\r\n"])
    with single.client() as client:
        client.send(post(STREAM))
        waits(single, client)
        head = client.read_until(b": waiting\n\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"text/event-stream" in head
        single.forward(promise.COMMENT_EVERY_S + 0.1)
        client.read_until(b": waiting\n\n\r\n")
        single.engine.release()
        rest = client.read_until(b"0\r\n\r\n")
        assert rest.count(b"data: a") == 1
        assert b"HTTP/1.1" not in rest
        client.send(post())  # the connection is still usable
        assert client.read_response().status == 200


def test_a_client_without_a_stream_gets_no_comments(single: Tree) -> None:
    single.engine.plan([HOLD, http_response()])
    with single.client() as client:
        client.send(post())
        waits(single, client)
        single.engine.release()
        assert client.read_response().status == 200


def test_an_http_1_0_client_waits_without_chunks(single: Tree) -> None:
    single.engine.plan([SSE_HEAD, HOLD, chunk(event("a")) + b"0\r\n\r\n"])
    with single.client() as client:
        client.send(post(STREAM, version=b"1.0"))
        waits(single, client)
        single.engine.release()
        assert client.rest().partition(b"\r\n\r\n")[2] == b": waiting\n\n" + event("a")


@pytest.mark.parametrize(
    "late",
    [
        http_response(b'{"error": {"message": "too long",\n "code": 400}}', status=b"400 Bad Request"),
        http_response(b'{"error": {"message": "full"}}', status=b"503 Full"),
        b"HTTP/1.1 400 No\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b'{"error": {}}') + b"0\r\n\r\n",
        RESET,
        CLOSE,
    ],
)
def test_an_error_after_a_comment_is_an_event(single: Tree, late: bytes | str) -> None:
    single.engine.plan([HOLD, late], [late])  # twice: after a reused connection breaks, there is a second attempt
    with single.client() as client:
        client.send(post(STREAM))
        waits(single, client)
        single.engine.release()
        body = client.read_until(b"0\r\n\r\n")
        single.engine.plan()
        assert body.count(b"event: error\ndata: ") == 1
        data = body.partition(b"data: ")[2].partition(b"\n\n")[0]
        assert "error" in json.loads(data)
        client.send(post())
        assert client.read_response().status == 200


def test_a_response_with_a_length_follows_a_comment_in_chunks(single: Tree) -> None:
    single.engine.plan([HOLD, http_response(event("a"), b"content-type: text/event-stream")])
    with single.client() as client:
        client.send(post(STREAM))
        waits(single, client)
        single.engine.release()
        body = client.read_until(b"\r\n0\r\n\r\n")
        assert chunk(event("a")) in body


def test_attempts_continue_after_a_comment(pair: Tree) -> None:
    all_respond(pair, [HOLD, RESET])
    with pair.client() as client:
        client.send(post(STREAM))
        waits(pair, client)
        client.read_until(b": waiting\n\n\r\n")
        (first,) = [engine for engine in pair.engines if engine.received]
        other = next(engine for engine in pair.engines if engine is not first)
        other.always([SSE_HEAD + chunk(event("b")) + b"0\r\n\r\n"])
        first.release()
        assert b"data: b" in client.read_until(b"\r\n0\r\n\r\n")


def test_fastchats_clients_get_a_single_nul(world: World) -> None:
    with tree(world, kind="fastchat") as running:
        running.engine.plan([HOLD, http_response(b'{"text":"a","error_code":0}\0')])
        with running.client() as client:
            client.send(post(b'{"model":"m"}', path=b"/worker_generate_stream"))
            waits(running, client)
            client.read_until(b"\r\n\r\n1\r\n\0\r\n")
            running.engine.release()
            assert b'{"text":"a","error_code":0}\0' in client.read_until(b"\r\n0\r\n\r\n")


def test_a_node_below_sends_no_comments(chain: Tree) -> None:
    """Only the entry node sends comments: bytes from a node below could not be taken back."""
    chain.engine.plan([HOLD, http_response()])
    with chain.client() as client:
        client.send(post())
        chain.world.eventually(lambda: chain.engine.received)
        (below,) = chain.exchanges(1)
        assert below._attempt is not None
        assert below._client.deadline - below._attempt.sent_at > promise.COMMENT_EVERY_S
        chain.engine.release()
        assert client.read_response().status == 200


# -- deadlines ----------------------------------------------------------------------------------------------------


def test_the_remaining_time_is_sent_down_and_enforced(world: World) -> None:
    with tree(world, levels=3, models={MODEL: {"total_timeout_s": 30.0}}) as running:
        running.engine.plan([HOLD, http_response()], [HOLD, http_response()])
        with running.client() as client:
            for _ in range(2):  # the second time the heads are known
                client.send(post(b'{"model":"m"}', DEADLINE + b": 1"))  # a client's own is ignored
                running.world.eventually(lambda: running.exchanges(2))
                ends = [running.exchanges(level)[0].request.ends_at for level in range(3)]
                nows = [node.lane.clock() for node in running.nodes]
                left = [end - now for end, now in zip(ends, nows, strict=True)]
                assert 25 < left[2] <= left[1] + 0.01 <= left[0] + 0.02 < 30.02
                running.engine.release()
                assert client.read_response().status == 200
        for node in running.nodes:  # one head, whatever time is left
            assert sum(head.target.startswith(b"/v1/") for head in node.clients.heads._heads.values()) == 1


def test_a_stream_over_its_total_time_is_cut_with_an_error(world: World) -> None:
    with tree(world, total_timeout_s=40.0) as running:
        running.engine.plan([SSE_HEAD + chunk(event("a")), HOLD])
        with running.client() as client:
            client.send(post())
            client.read_until(b"a\n\n\r\n")
            running.forward(41)
            assert b"was not done in the time" in client.rest()


def test_a_models_own_first_byte_timeout(world: World) -> None:
    with tree(world, models={MODEL: {"first_byte_timeout_s": 5.0}}) as running:
        running.engine.plan([HOLD])
        with running.client() as client:
            client.send(post())
            running.world.eventually(lambda: running.engine.received)
            running.forward(5.1)
            assert client.read_response().status == 504
