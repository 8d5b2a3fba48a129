"""Answers as bytes, through three levels: whole ones arrive whole, cut ones never look complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.relay.support import (
    CLOSE,
    HOLD,
    OK_BODY,
    RESET,
    SSE_HEAD,
    Answer,
    Script,
    Tree,
    World,
    answer,
    chunk,
    event,
    post,
    tree,
)

PATH = b"/worker_generate_stream"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\n"
DONE = event("[DONE]")
SSE, JSON, OCTETS = b"text/event-stream", b"application/json", b"application/octet-stream"


def ask(chain: Tree, script: Script, request: bytes | None = None) -> Answer:
    chain.engine.plan(script)
    return chain.ask(request or post())


def test_interim_answers_are_the_hop_s_own(chain: Tree) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    for script in ([interim + answer()], [interim[:30], interim[30:], answer()]):
        with chain.client() as client:
            chain.engine.plan(script)
            client.send(post())
            answered = client.read_answer()
            assert (answered.status, answered.body, client.interim) == (200, OK_BODY, [])


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("lines", [b"", b"content-length: 7\r\n", b"transfer-encoding: chunked\r\n"])
def test_answers_without_a_body(chain: Tree, status: bytes, lines: bytes) -> None:
    with chain.client() as client:
        chain.engine.plan([b"HTTP/1.1 %b\r\netag: x\r\n%b\r\n" % (status, lines)])
        client.send(post())
        answered = client.read_answer()
        assert answered.status == int(status[:3])
        assert answered.get(b"etag") == [b"x"]
        assert answered.get(b"transfer-encoding") == []
        client.send(post())
        assert client.read_answer().body == OK_BODY  # nothing of a body was waited for, or taken for one
    assert chain.engine.received[0].connection == chain.engine.received[1].connection


@pytest.mark.parametrize("status", [b"200 OK", b"201 Created", b"400 Bad Request", b"429 Slow", b"500 Oops", b"599 x"])
def test_every_status_passes_with_its_body(chain: Tree, status: bytes) -> None:
    answered = ask(chain, [answer(b"body", b"retry-after: 7", status=status)])
    assert (answered.status, answered.body, answered.get(b"retry-after")) == (int(status[:3]), b"body", [b"7"])


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd"])
def test_compressed_bodies_are_untouched(chain: Tree, encoding: bytes) -> None:
    body = bytes(range(256)) * 40
    answered = ask(chain, [answer(body, b"content-encoding: " + encoding)])
    assert answered.body == body
    assert answered.get(b"content-encoding") == [encoding]
    answered = ask(chain, [SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunk(body) + b"0\r\n\r\n"])
    assert (answered.body, answered.complete) == (body, True)


def test_chunks_pass_as_the_bytes_came(chain: Tree) -> None:
    body = b'5;a="b"\r\nhello\r\n0005\r\nworld\r\n0\r\nx-trailer: y\r\n\r\n'
    chain.engine.plan([SSE_HEAD, body[:3], body[3:20], body[20:]])
    with chain.client() as client:
        client.send(post())
        client.read_head()
        assert client.read_until(b"y\r\n\r\n") == body


def test_an_answer_without_a_length_lasts_until_the_close(chain: Tree) -> None:
    for script in ([b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo", CLOSE], [b"HTTP/1.0 200 OK\r\n\r\nhello", CLOSE]):
        with chain.client() as client:
            chain.engine.plan(script)
            client.send(post())
            answered = client.read_answer()
            assert (answered.body, answered.complete) == (b"hello", True)
            assert answered.get(b"transfer-encoding") == [b"chunked"]
            client.send(post())
            assert client.read_answer().body == OK_BODY  # the client's own connection lives on


def test_an_empty_answer_without_a_length(chain: Tree) -> None:
    answered = ask(chain, [b"HTTP/1.1 200 OK\r\n\r\n", CLOSE])
    assert (answered.status, answered.body, answered.complete) == (200, b"", True)


@pytest.mark.parametrize(
    "script",
    [
        [answer(b"hello")],
        [CHUNKED_HEAD, chunk(b"he"), b"3\r", b"\nllo\r\n0\r", b"\n\r\n"],
        [CHUNKED_HEAD + b"2;x\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\n", b"hello", CLOSE],
        [b"HTTP/1.0 200 OK\r\n\r\nhello", CLOSE],
    ],
)
def test_http_10_clients_never_see_chunks(chain: Tree, script: Script) -> None:
    with chain.client() as client:
        chain.engine.plan(script)
        client.send(post(version=b"1.0"))
        head = client.read_head()
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert client.rest() == b"hello"


def test_the_head_waits_for_the_first_byte_of_the_body(chain: Tree) -> None:
    chain.engine.plan([SSE_HEAD, HOLD, chunk(event("a")) + b"0\r\n\r\n"])
    with chain.client(0.2) as client:
        client.send(post())
        chain.world.eventually(lambda: chain.engine.received)
        with pytest.raises(TimeoutError):
            client.read()
        client.sock.settimeout(10.0)
        chain.engine.release()
        assert client.read_answer().body == event("a")


# -- cut answers -------------------------------------------------------------------------------------------------


def sse_error(body: bytes) -> dict[str, Any]:
    """The error in the last event."""
    name, data = body.strip().split(b"\n\n")[-1].strip().split(b"\n")
    assert name == b"event: error"
    return dict(json.loads(data.removeprefix(b"data: "))["error"])


SSE_CUTS: dict[str, list[bytes | str]] = {
    "between two chunks": [SSE_HEAD, chunk(event("a"))],
    "inside a chunk": [SSE_HEAD, chunk(event("a")), b"20\r\ndata: {"],
    "inside a size": [SSE_HEAD, chunk(event("a")), b"2"],
    "behind a size": [SSE_HEAD, chunk(event("a")), b"20\r"],
    "before a chunk's CRLF": [SSE_HEAD, chunk(event("a"))[:-2]],
    "inside a chunk's CRLF": [SSE_HEAD, chunk(event("a"))[:-1]],
    "inside an event": [SSE_HEAD, chunk(event("a")), chunk(b"data: {")],
    "at the last chunk": [SSE_HEAD, chunk(event("a")), b"0"],
}


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("script", SSE_CUTS.values(), ids=SSE_CUTS.keys())
def test_a_cut_stream_ends_with_an_error_event(chain: Tree, script: list[bytes | str], end: str) -> None:
    with chain.client() as client:
        chain.engine.plan([*script, HOLD, end])
        client.send(post())
        while event("a")[:7] not in client.buffer:
            client.buffer += client.read()
        chain.engine.release()
        answered = client.read_answer()
        assert answered.complete  # in good form, so that the event is read
        assert answered.body.startswith(b"data: a\n")
        assert DONE not in answered.body
        assert sse_error(answered.body)["code"] == "child_failed"


def test_a_stream_whose_framing_breaks_ends_with_an_error_event(chain: Tree) -> None:
    answered = ask(chain, [SSE_HEAD, chunk(event("a")) + b"x\r\nmore", HOLD])
    assert answered.complete
    assert "malformed" in sse_error(answered.body)["message"]


def test_a_cut_stream_of_an_engine_that_sends_no_chunks(chain: Tree) -> None:
    answered = ask(chain, [UNTIL_CLOSE % SSE, event("a"), RESET])
    assert answered.complete
    assert sse_error(answered.body)["code"] == "child_failed"


def test_a_cut_stream_for_http_10_ends_with_an_error_event_too(chain: Tree) -> None:
    for script in ([SSE_HEAD, chunk(event("a")) + b"5\r\nda", RESET], [UNTIL_CLOSE % SSE, event("a"), RESET]):
        chain.engine.plan(script)
        with chain.client() as client:
            client.send(post(version=b"1.0"))
            client.read_head()
            assert sse_error(client.rest())["code"] == "child_failed"


@pytest.fixture(scope="module")
def fastchat(world: World) -> Iterator[Tree]:
    with tree(world, levels=2, kind="fastchat") as running:
        yield running


@pytest.mark.parametrize("head", [UNTIL_CLOSE % OCTETS, CHUNKED_HEAD.replace(JSON, OCTETS)], ids=["close", "chunks"])
def test_a_cut_fastchat_stream_ends_with_an_error_frame(fastchat: Tree, head: bytes) -> None:
    frame = json.dumps({"text": "a", "error_code": 0}).encode() + b"\0"
    cut = frame + b'{"text": "ab'
    answered = ask(fastchat, [head, chunk(cut) if b"chunked" in head else cut, RESET], post(path=PATH))
    assert answered.complete
    frames = [part for part in answered.body.split(b"\0") if part]
    assert frames[0] + b"\0" == frame
    assert json.loads(frames[-1])["error_code"] == 50001


def test_a_fastchat_worker_that_breaks_at_once_gives_an_error_frame(fastchat: Tree) -> None:
    answered = ask(fastchat, [CLOSE], post(path=PATH))
    assert (answered.status, answered.complete, answered.body[-1:]) == (200, True, b"\0")
    assert json.loads(answered.body[:-1])["error_code"] == 50001


CUTS: dict[str, list[bytes | str]] = {
    "length": [answer(b"hello")[:-1]],
    "length, after the first byte": [answer(b"hello")[:-4], b"e"],
    "chunks": [CHUNKED_HEAD, chunk(b'{"a":')],
    "chunks, inside one": [CHUNKED_HEAD, chunk(b'{"a":')[:-4]],
    "chunks, before the last CRLF": [CHUNKED_HEAD, chunk(OK_BODY), b"0\r\n"],
    "stream, before the last CRLF": [SSE_HEAD, chunk(DONE), b"0\r\n"],
    "stream, in the trailers": [SSE_HEAD, chunk(DONE), b"0\r\nx: y"],
    "stream with a length": [answer(event("a") + DONE, b"content-type: text/event-stream")[:-3]],
    "stream, compressed": [SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n", chunk(b"\x1f\x8b")],
    "chunk too large to fill": [SSE_HEAD, b"fffffff\r\ndata"],
    "extension": [SSE_HEAD, chunk(event("a")), b"5;a"],
}


#: for HTTP/1.0 the chunks are taken away, so that an event can stand anywhere in a plain stream
PLACELESS = {name: script for name, script in CUTS.items() if script[0] != SSE_HEAD}


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize(
    ("script", "version"),
    [(script, b"1.1") for script in CUTS.values()] + [(script, b"1.0") for script in PLACELESS.values()],
    ids=[*CUTS, *(f"{name}, HTTP/1.0" for name in PLACELESS)],
)
def test_a_cut_answer_without_place_for_an_error_is_reset(
    chain: Tree, script: list[bytes | str], end: str, version: bytes
) -> None:
    """With an RST: for HTTP/1.0 the connection's end is the answer's, and a FIN would make it look whole."""
    chain.engine.plan([*script, end])
    with chain.client() as client:
        client.send(post(version=version))
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_a_cut_answer_without_length_is_reset_unless_it_is_a_stream(chain: Tree) -> None:
    chain.engine.plan([UNTIL_CLOSE % JSON, b'{"a":', HOLD, RESET])
    with chain.client() as client:
        client.send(post())
        client.read_head()
        chain.engine.release()
        with pytest.raises(ConnectionResetError):
            client.rest()


# -- before the first byte -----------------------------------------------------------------------------------------


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
    "closed behind the head": [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", CLOSE],
    "reset behind the head": [SSE_HEAD, RESET],
    "closed behind an interim answer": [b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE],
}


@pytest.mark.parametrize("script", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_child_that_breaks_before_the_first_byte_gives_502(chain: Tree, script: list[bytes | str]) -> None:
    chain.world.call(lambda: setattr(chain.engine, "otherwise", script))
    with chain.client() as client:
        client.send(post())
        answered = client.read_answer()
        assert answered.status == 502
        assert answered.error["code"] == "child_failed"
        chain.engine.plan()
        client.send(post())
        assert client.read_answer().status == 200  # the client's connection is none the worse


@pytest.mark.parametrize("script", MALFORMED.values(), ids=MALFORMED.keys())
def test_another_child_is_asked_if_there_is_one(pair: Tree, script: list[bytes | str]) -> None:
    for broken in pair.engines:
        for engine in pair.engines:
            engine.plan()
        pair.world.call(lambda broken=broken: setattr(broken, "otherwise", script))
        before = pair.root.metrics.retries
        answers = [pair.ask(post()) for _ in range(6)]
        assert [found.status for found in answers] == [200] * 6
        if not broken.received:
            continue  # chance; the other one of the two is next
        assert pair.root.metrics.retries > before
        return
    raise AssertionError("neither engine was asked")


@pytest.fixture(scope="module")
def _pair(world: World) -> Any:
    with tree(world, engines=2, dispatch="round_robin") as running:
        yield running


@pytest.fixture
def pair(_pair: Tree) -> Any:
    yield _pair
    for engine in _pair.engines:
        engine.free()
    _pair.wait_idle()
    assert _pair.world.problems == []


def test_no_answer_starts_twice(pair: Tree) -> None:
    """A child that broke after its first byte is not replaced: what went out cannot be taken back."""
    for engine in pair.engines:
        engine.plan()
        pair.world.call(lambda engine=engine: setattr(engine, "otherwise", [SSE_HEAD, chunk(event("a")), RESET]))
    answered = pair.ask(post())
    assert answered.body.count(b"data: a") == 1
    assert sse_error(answered.body)
    assert sum(len(engine.received) for engine in pair.engines) == 1


def test_a_keep_alive_that_ends_between_two_requests_costs_nothing(single: Tree) -> None:
    """The engine is the only one there is, and closes as it sees the next request: it is asked again."""
    for end in (CLOSE, RESET):
        single.engine.plan([answer()], [end], [answer(b"again")])
        assert single.ask(post()).body == OK_BODY
        assert single.ask(post()).body == b"again"
        first, second, third = (received.connection for received in single.engine.received)
        assert first == second != third


def test_an_engine_that_closes_each_time_gives_502_in_the_end(single: Tree) -> None:
    single.engine.plan([answer()])
    assert single.ask(post()).status == 200
    single.world.call(lambda: setattr(single.engine, "otherwise", [CLOSE]))
    assert single.ask(post()).status == 502
    assert len(single.engine.received) == 3  # the first request, a stale connection, a new one


def test_a_keep_alive_that_ended_while_idle_is_noticed_before(chain: Tree) -> None:
    chain.engine.plan([answer(), CLOSE])
    assert chain.ask(post()).status == 200
    pool = chain.nodes[-1].lane.pool(chain.child())
    chain.world.eventually(lambda: not pool.idle, "the close to be seen")
    assert chain.ask(post()).status == 200
    first, second = chain.engine.received
    assert first.connection != second.connection


def test_llamacpp_s_hundred_requests_on_a_connection(single: Tree) -> None:
    fields = b"Keep-Alive: timeout=5, max=100"
    single.engine.plan(*[[answer(OK_BODY, fields)]] * 99, [answer(OK_BODY, b"Connection: close"), CLOSE])
    with single.client() as client:
        for _ in range(150):
            client.send(post())
            assert client.read_answer().status == 200
    numbers = [received.connection for received in single.engine.received]
    assert len(set(numbers[:100])) == 1
    assert set(numbers[100:]).isdisjoint(numbers[:100])


def test_an_early_answer_is_passed_on_and_the_connection_dropped(chain: Tree) -> None:
    """The engine refuses at the head; three megabytes of body are still to be written."""
    body = b'{"model":"m","x":"' + b"y" * 3_000_000 + b'"}'
    refusal = answer(b"too long", status=b"413 Too Large")
    for script in ([refusal, CLOSE], [refusal, HOLD]):
        chain.engine.plan()
        chain.world.call(lambda script=script: setattr(chain.engine, "early", script))
        with chain.client() as client:
            client.send(post(body))
            answered = client.read_answer()
            assert (answered.status, answered.body) == (413, b"too long")
            chain.world.call(lambda: chain.engine.surplus.clear())
            client.send(post())
            assert client.read_answer().status == 200
    chain.world.call(lambda: chain.engine.surplus.clear())  # the part of the body that HOLD saw


def test_bytes_behind_an_answer_reach_nobody(chain: Tree) -> None:
    for first in (answer(), SSE_HEAD + chunk(event("a")) + b"0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"):
        chain.engine.plan([first + answer(b"not asked for")])
        with chain.client() as client:
            client.send(post())
            client.read_answer()
            client.send(post())
            assert client.read_answer().body == OK_BODY
        one, two = (received.connection for received in chain.engine.received)
        assert one != two
