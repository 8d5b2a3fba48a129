"""Whatever goes wrong below, the root counts for each request what its client saw, exactly once.

Three nodes above an engine, random faults, random clients. A client can tell a stream that a node cut from one that an
engine ended with an error only by the error's code.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.relay.raw import SSE_HEAD, Client, ReceivedResponse, chunk, event, http_response, post
from tests.relay.support import CLOSE, HOLD, RESET, Script, Tree
from tests.relay.test_outcomes import DONE, ERROR_EVENT, LAST, UNFIT, Tally

JSON, SSE = b"content-type: application/json", b"content-type: text/event-stream"
FIRST = (SSE_HEAD, chunk(event("a")))
SCRIPTS: dict[str, Script] = {
    "whole": (http_response(),),
    "whole JSON": (http_response(b'{"choices": []}', JSON),),
    "long": (http_response(b'{"a": "' + b"x" * 100_000 + b'"}', JSON),),
    "stream": (*FIRST, chunk(DONE), LAST),
    "stream at once": (SSE_HEAD + chunk(event("a")) + chunk(DONE) + LAST,),
    "until close": (b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % SSE, event("a"), DONE, CLOSE),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n",),
    "400": (http_response(b'{"error": {"message": "m"}}', JSON, status=b"400 Bad Request"),),
    "429": (http_response(b"", status=b"429 Too Many Requests"),),
    "500": (http_response(b'{"error": {"message": "m"}}', JSON, status=b"500 Oops"),),
    "500 in chunks": (b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n", chunk(b"oops"), LAST),
    "501": (http_response(b"", status=b"501 Not Implemented"),),
    "503": (http_response(b"busy", status=b"503 Service Unavailable"),),
    "closed": (CLOSE,),
    "reset": (RESET,),
    "malformed": (b"nonsense\r\n\r\n",),
    "closed after the head": (SSE_HEAD, CLOSE),
    "error event": (*FIRST, chunk(ERROR_EVENT), chunk(DONE), LAST),
    "error event first": (SSE_HEAD, chunk(ERROR_EVENT), chunk(DONE), LAST),
    "error event and a cut": (*FIRST, chunk(ERROR_EVENT), RESET),
    "half an event": (*FIRST, chunk(b'data: {"a'), LAST),
    "cut": (*FIRST, CLOSE),
    "cut by a reset": (*FIRST, RESET),
    "cut in a chunk": (*FIRST, b"20\r\ndata: {", CLOSE),
    "cut before the trailers": (*FIRST, b"0\r\n", CLOSE),
    "cut JSON": (http_response(b'{"a": "' + b"x" * 100_000, JSON)[:-50_000], CLOSE),
    "malformed later": (*FIRST, b"zz\r\n", HOLD),
    "trailers": (*FIRST, b"0\r\nx: y\r\nx-hierarchy-outcome: cut\r\n\r\n"),
    **{name: script for name, (script, _) in UNFIT.items()},
}


def saw(port: int, version: bytes) -> tuple[str, int]:
    """Send one request. Returns its outcome and status, as a client can tell them."""
    with Client(port) as client:
        client.send(post(version=version))
        found = ReceivedResponse()
        parser = httptools.HttpResponseParser(found)
        try:
            while not found.complete:
                data = client.read()
                if not data:
                    found.complete = True  # without a length the end of the connection is the end
                    break
                parser.feed_data(data)
        except ConnectionResetError:
            return "cut", parser.get_status_code()
        return outcome_of(found, parser.get_status_code()), parser.get_status_code()


def outcome_of(found: ReceivedResponse, status: int) -> str:
    """Of a complete response."""
    if b"event: error" in found.body and b'"child_failed"' in found.body:
        return "cut"
    if status >= 500 and status != 501:
        return "error"
    is_half = found.get(b"content-type")[:1] == [b"text/event-stream"] and not found.body.endswith(b"\n")
    return "error" if ERROR_EVENT in found.body or is_half else "ok"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(sorted(SCRIPTS)), st.sampled_from([b"1.1", b"1.0"])), min_size=1, max_size=6))
def test_the_root_counts_what_its_clients_saw(chain: Tree, requests: list[tuple[str, bytes]]) -> None:
    tally = Tally(chain)
    expected: Counter[tuple[str, int]] = Counter()
    for name, version in requests:
        chain.engine.plan()
        chain.engine.always(SCRIPTS[name])
        expected[saw(chain.port, version)] += 1
    assert tally.clients() == dict(expected)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_each_fault_is_counted_alike_at_each_level(chain: Tree, name: str) -> None:
    """The levels above the one next to the engine count one attempt each, with the client's outcome."""
    tally = Tally(chain)
    chain.engine.always(SCRIPTS[name])
    outcome, _ = saw(chain.port, b"1.1")
    root, site, _ = tally.levels()
    assert root == site == {outcome: 1}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_clients_that_leave_are_counted_once(chain: Tree, clients: list[tuple[bool, bool]]) -> None:
    """Before the first byte or after it, with a FIN or an RST."""
    tally = Tally(chain)
    expected: Counter[tuple[str, int]] = Counter()
    for streams, resets in clients:
        chain.engine.plan((*FIRST, HOLD) if streams else (HOLD,))
        client = Client(chain.port)
        client.send(post())
        if streams:
            client.read_head()
        else:
            chain.world.eventually(lambda: chain.engine.received)
        with contextlib.suppress(OSError):
            (client.reset if resets else client.sock.close)()
        expected["cancelled", 200 if streams else 0] += 1
        chain.wait_idle()
    assert tally.clients() == dict(expected)
