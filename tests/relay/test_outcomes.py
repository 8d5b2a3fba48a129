"""How responses are judged and counted at each level: what the root counts is what its client saw."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from hierarchy.balancing.retry_budget import RetryBudget
from hierarchy.http.framing import Chunked
from hierarchy.registry.child import Share
from hierarchy.runtime.exposition import render
from tests.relay.parent import as_parent
from tests.relay.raw import MODEL, OK_BODY, SSE_HEAD, Client, chunk, event, http_response, post, post_head
from tests.relay.support import CLOSE, HOLD, RESET, Script, Tree, World, tree

JSON, SSE = b"content-type: application/json", b"content-type: text/event-stream"
ERROR_EVENT = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
DONE = event("[DONE]")
LAST = b"0\r\n\r\n"
GOOD_STREAM: Script = (SSE_HEAD, chunk(event("a")), chunk(DONE), LAST)


def counts(running: Tree, level: int) -> Counter[str]:
    """The attempts that a node counted, by outcome."""
    found: Counter[str] = Counter()
    for share in running.nodes[level].metrics.shares.values():
        found.update(share.outcomes)
    return found


def clients(running: Tree) -> Counter[tuple[str, int]]:
    """The requests of clients that the root counted, by outcome and status."""
    metrics = running.root.metrics
    return Counter({("ok", 200): metrics.whole, **metrics.endings})


class Tally:
    """What the nodes counted since it was made."""

    def __init__(self, running: Tree) -> None:
        self._running = running
        self._levels = [counts(running, level) for level in range(len(running.nodes))]
        self._clients = clients(running)

    def levels(self) -> list[dict[str, int]]:
        self._running.wait_idle()
        return [dict(counts(self._running, level) - before) for level, before in enumerate(self._levels)]

    def clients(self) -> dict[tuple[str, int], int]:
        self._running.wait_idle()
        return dict(clients(self._running) - self._clients)


def engine_share(running: Tree) -> Share:
    return running.child().shares[MODEL, "openai"]


UNFIT: dict[str, tuple[Script, str]] = {
    "HTML page": ((http_response(b"<html>", b"content-type: text/html"),), "HTML page"),
    "empty body": ((http_response(b"", JSON),), "empty body"),
    "garbage": ((http_response(b"\x00\xff{", JSON),), "else than JSON"),
    "truncated": ((http_response(b'{"choices": [', JSON),), "cut off"),
    "empty stream": ((SSE_HEAD, LAST), "empty body"),
    "empty stream at once": ((SSE_HEAD + LAST,), "empty body"),
    "HTML stream": ((SSE_HEAD.replace(b"event-stream", b"html"), chunk(b"<html>"), HOLD), "HTML page"),
    "garbage in a stream": ((SSE_HEAD, chunk(b"\x00\xff"), HOLD), "else than events"),
}


@pytest.mark.parametrize(("script", "reason"), UNFIT.values(), ids=UNFIT.keys())
def test_a_response_that_is_none_is_like_a_broken_one(chain: Tree, script: Script, reason: str) -> None:
    chain.engine.plan()
    tally, bad = Tally(chain), engine_share(chain).responses.bad
    chain.engine.always(script)
    response = chain.request(post())
    assert (response.status, response.error["code"]) == (502, "child_failed")
    assert reason in response.error["message"]
    assert tally.clients() == {("error", 502): 1}
    assert tally.levels() == [{"error": 1}, {"error": 1}, {"failed": len(chain.engine.received)}]
    assert engine_share(chain).responses.bad - bad == len(chain.engine.received)


@pytest.fixture(scope="module")
def _pair(world: World) -> Iterator[Tree]:
    with tree(world, levels=2, engines=2, dispatch="round_robin") as running:
        yield running


@pytest.fixture
def pair(_pair: Tree) -> Iterator[Tree]:
    for engine in _pair.engines:
        engine.plan()

    def reset() -> None:
        for child in _pair.nodes[-1].registry:
            for share in child.shares.values():
                share.failures = None
        _pair.nodes[-1].registry.generation += 1
        _pair.root.lane.retry_budget = RetryBudget(_pair.clock)

    _pair.world.call(reset)
    yield _pair
    for engine in _pair.engines:
        engine.free()
    _pair.wait_idle()
    assert _pair.world.problems == []


@pytest.mark.parametrize("script", [script for script, _ in UNFIT.values()], ids=UNFIT.keys())
def test_another_engine_is_tried_where_the_first_answers_nonsense(pair: Tree, script: Script) -> None:
    pair.engines[0].always(script)
    tally = Tally(pair)
    assert [pair.request(post()).body for _ in range(4)] == [OK_BODY] * 4
    assert pair.engines[0].received
    assert tally.clients() == {("ok", 200): 4}


def test_another_engine_is_tried_after_an_error_event_that_came_first(pair: Tree) -> None:
    pair.engines[0].always((SSE_HEAD, chunk(ERROR_EVENT), chunk(DONE), LAST))
    pair.engines[1].always(GOOD_STREAM)
    assert [pair.request(post()).body for _ in range(4)] == [event("a") + DONE] * 4
    assert pair.engines[0].received


def test_an_error_event_that_came_first_reaches_the_client_if_no_engine_does_better(chain: Tree) -> None:
    tally = Tally(chain)
    chain.engine.always((SSE_HEAD, chunk(ERROR_EVENT), chunk(DONE), LAST))
    response = chain.request(post())
    assert (response.status, response.body, response.complete) == (200, ERROR_EVENT + DONE, True)
    assert tally.clients() == {("error", 200): 1}


ENDINGS: dict[str, tuple[Script, str]] = {
    "good": (GOOD_STREAM, "ok"),
    "good, at once": ((SSE_HEAD + chunk(event("a")) + chunk(DONE) + LAST,), "ok"),
    "error event": ((SSE_HEAD, chunk(event("a")), HOLD, chunk(ERROR_EVENT), chunk(DONE), LAST), "error"),
    "error event, at once": ((SSE_HEAD + chunk(event("a")) + chunk(ERROR_EVENT + DONE) + LAST,), "error"),
    "half an event": ((SSE_HEAD, chunk(event("a")), HOLD, chunk(b'data: {"cho'), LAST), "error"),
    "cut": ((SSE_HEAD, chunk(event("a")), HOLD, RESET), "cut"),
    "cut, without chunks": ((b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % SSE, event("a"), HOLD, RESET), "cut"),
    "error event, without chunks": (
        (b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % SSE, event("a"), HOLD, ERROR_EVENT, CLOSE),
        "error",
    ),
    "malformed": ((SSE_HEAD, chunk(event("a")), HOLD, b"x\r\n", HOLD), "cut"),
}


@pytest.mark.parametrize(("script", "outcome"), ENDINGS.values(), ids=ENDINGS.keys())
def test_each_level_counts_how_a_stream_ended(chain: Tree, script: Script, outcome: str) -> None:
    tally = Tally(chain)
    chain.engine.plan(script)
    with chain.client() as client:
        client.send(post())
        while event("a") not in client.buffer:
            client.buffer += client.read()
        chain.engine.release()
        response = client.read_response()
    assert (response.status, response.complete) == (200, True)
    assert (b"error" in response.body) == (outcome != "ok" and b"cho" not in response.body)
    assert tally.levels() == [{outcome: 1}] * 3
    assert tally.clients() == {(outcome, 200): 1}


def test_a_half_read_json_that_is_cut_off_is_an_error_at_each_level(chain: Tree) -> None:
    tally = Tally(chain)
    response = chain.request_playing([http_response(b'{"a": "' + b"x" * 300_000, JSON)], post())
    assert response.status == 200
    assert tally.levels() == [{"error": 1}] * 3
    assert tally.clients() == {("error", 200): 1}


def test_a_response_with_a_length_that_is_cut_is_cut_at_each_level(chain: Tree) -> None:
    tally = Tally(chain)
    chain.engine.plan([http_response(b"x" * 100)[:-50], RESET])
    with chain.client() as client:
        client.send(post())
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert tally.levels() == [{"cut": 1}] * 3
    assert tally.clients() == {("cut", 200): 1}


def trailers(running: Tree, level: int, *fields: bytes) -> bytes:
    """What follows the last chunk in a response of the node at this level, asked as its client."""
    port = running.nodes[level].config.listen[0][1]
    with Client(port) as client:
        client.send(post(b'{"model":"m"}', b"connection: close", *fields))
        return client.rest().rpartition(b"\r\n0\r\n")[2]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_no_trailer_of_a_node_reaches_a_client(chain: Tree, level: int) -> None:
    chain.engine.plan((SSE_HEAD, chunk(event("a")), RESET))
    assert trailers(chain, level, b"x-hierarchy-others: 1") == b"\r\n"


def test_an_engine_s_own_trailers_pass_but_none_that_looks_like_a_node_s(chain: Tree) -> None:
    tally = Tally(chain)
    chain.engine.plan([SSE_HEAD, chunk(DONE), b"0\r\nx: y\r\nx-hierar", b"chy-outcome: cut\r\n", b"\r", b"\n"])
    assert trailers(chain, 0) == b"x: y\r\n\r\n"
    assert tally.levels() == [{"ok": 1}] * 3


@pytest.mark.parametrize(("others", "expected"), [(None, b""), (False, b"cut"), (True, b"cut")])
def test_a_parent_gets_the_trailer_only_if_it_understands_it(chain: Tree, others: bool | None, expected: bytes) -> None:
    """Each parent of this release sends x-hierarchy-others; an older one would pass the trailer on to its client."""
    rack = chain.nodes[-1]
    chain.engine.plan((SSE_HEAD, chunk(event("a")), HOLD, RESET))
    with Client(rack.config.listen[0][1]) as client:
        client.send(as_parent(rack, 1, others))
        client.read_head()
        chain.engine.release()
        end = client.read_until(b"\r\n0\r\n") + client.read_until(b"\r\n")
        found = Chunked()
        found.feed(end if end.endswith(b"\r\n\r\n") else end + client.read_until(b"\r\n"))
    assert (found.done, found.outcome) == (True, expected)


def test_a_node_is_not_to_blame_for_what_it_reports_of_its_engines(chain: Tree) -> None:
    for script in [(SSE_HEAD, chunk(event("a")), RESET), (http_response(status=b"500 Oops"),), (CLOSE,)] * 3:
        chain.engine.plan(script, script, script)
        chain.request(post())
    for level in (0, 1):
        child = chain.child(level)
        assert child.failures is None
        assert all(share.failures is None for share in child.shares.values())


def test_the_root_says_once_what_its_clients_got(chain: Tree, caplog: pytest.LogCaptureFixture) -> None:
    path = "n1/n2/e0"
    expected = {
        (http_response(status=b"500 Oops"),): f"request for model m failed: 500 from {path}",
        (SSE_HEAD, chunk(event("a")), RESET): f"response for model m cut: {path} reported an error: e0 broke the conn",
        (
            SSE_HEAD,
            chunk(event("a")),
            chunk(ERROR_EVENT),
            LAST,
        ): f"failed: 200 from {path}: it reported an error: out of",
    }
    for script, line in expected.items():
        chain.world.call(chain.root.lane.warnings.flush)
        caplog.clear()
        chain.request_playing(script, post())
        assert [line in record.getMessage() for record in caplog.records].count(True) == 1, caplog.text


def test_what_a_node_refuses_and_what_a_client_leaves_is_counted_once(single: Tree) -> None:
    tally = Tally(single)
    assert single.request(post(b'{"model":"unknown"}')).status == 404
    assert single.request(post(b"{}")).status == 400
    with single.client() as client:
        client.send(b"nonsense\r\n\r\n")
        assert client.read_response().status == 400
    single.engine.plan([SSE_HEAD, chunk(event("a")), HOLD])
    with single.client() as client:
        client.send(post(), post(), post_head(b"content-length: 9"))  # one runs, one waits, one is not complete
        client.read_head()
    single.wait_idle()
    assert tally.clients() == {("refused", 404): 1, ("refused", 400): 2, ("cancelled", 200): 1, ("cancelled", 0): 2}


def test_a_time_limit_that_passed_is_counted_as_such(single: Tree) -> None:
    tally = Tally(single)
    single.engine.plan([HOLD])
    with single.client() as client:
        client.send(post())
        single.world.eventually(lambda: single.engine.received)
        for _ in range(40):
            single.forward(60.0)
        assert client.read_response().status == 504
    assert tally.clients() == {("timeout", 504): 1}


def test_the_counts_are_in_the_metrics(single: Tree) -> None:
    single.request(post())
    text = render(single.root.metrics).decode()
    assert re.search(r'hierarchy_client_requests_total\{outcome="ok",status="200"\} [1-9]', text)
