"""Whatever an engine answers, its client gets exactly one legal response, before and after the early head."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierarchy.http import promise
from hierarchy.relay import held
from tests.relay.raw import SSE_HEAD, Client, ReceivedResponse, chunk, event, http_response, post
from tests.relay.support import CLOSE, HOLD, RESET, Script, Step, Tree, World, tree
from tests.support import DEADLINE_S

STREAM = b'{"model":"m","stream":true}'
SSE = b"content-type: text/event-stream\r\n"
JSON = b"content-type: application/json\r\n"
GZIP = b"content-encoding: gzip\r\n"
LAST = b"0\r\n\r\n"
DONE = event("[DONE]")
ANSWER = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
).encode()


def wait(running: Tree, times: int = 1) -> None:
    """Until the client has got that many comments, if it gets any."""
    running.world.eventually(lambda: running.engine.received, "the request")
    for _ in range(times):
        running.forward(promise.COMMENT_EVERY_S + 0.1)


def after_the_early_head(running: Tree, script: Script, *, cut: bool = False) -> ReceivedResponse:
    """What a client gets that waited. Afterwards its connection can be used again, but for a response that was cut."""
    running.engine.plan([HOLD, *script])
    with running.client() as client:
        client.send(post(STREAM))
        wait(running)
        running.engine.release()
        found = client.read_response()
        assert found.complete
        assert found.fields.count((b"transfer-encoding", b"chunked")) == 1
        if cut:
            assert client.is_closed()
            return found
        running.engine.plan()
        client.send(post())
        assert client.read_response().status == 200
    return found


def failures(running: Tree) -> list[object]:
    return [repr(share.failures) for share in running.child().shares.values()]


def error_of(found: ReceivedResponse) -> dict[str, object]:
    return dict(json.loads(found.body.rpartition(b"event: error\ndata: ")[2])["error"])


# -- compressed streams ----------------------------------------------------------------------------------------------

CONTENT = event("a") + event("b") + DONE
WHOLE = gzip.compress(CONTENT)
CODED = {
    "gzip": (b"gzip", WHOLE),
    "gzip in members": (b"gzip", b"".join(map(gzip.compress, (event("a"), event("b"), DONE)))),
    "deflate": (b"deflate", zlib.compress(CONTENT)),
    "bare deflate": (b"deflate", zlib.compress(CONTENT)[2:-4]),
}


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("framing", ["chunked", "length", "until close"])
def test_a_compressed_stream_is_decompressed(single: Tree, name: str, framing: str) -> None:
    coding, body = CODED[name]
    head = b"HTTP/1.1 200 OK\r\n%bcontent-encoding: %b\r\n" % (SSE, coding)
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    script: list[Step] = [head + b"content-length: %d\r\n\r\n" % len(body), *pieces]
    if framing == "chunked":
        script = [head + b"transfer-encoding: chunked\r\n\r\n", *map(chunk, pieces), LAST]
    elif framing == "until close":
        script = [head + b"connection: close\r\n\r\n", *pieces, CLOSE]
    found = after_the_early_head(single, script)
    assert found.body.replace(b": waiting\n\n", b"") == CONTENT
    assert found.get(b"content-encoding") == []


@pytest.mark.parametrize("broken", [WHOLE[:-9], WHOLE[:12] + b"\xff" * 30], ids=["cut off", "damaged"])
def test_a_compressed_stream_that_breaks_ends_with_an_error(single: Tree, broken: bytes) -> None:
    found = after_the_early_head(single, [SSE_HEAD[:-2] + GZIP + b"\r\n", chunk(broken), LAST], cut=True)
    assert "compressed" in str(error_of(found)["message"]) or "decompressed" in str(error_of(found)["message"])


BOMB = gzip.compress(b"\n" * 16 * 1024 * 1024)  # 16 kB


def test_a_bomb_passes_in_slices(single: Tree) -> None:
    """A client that reads it gets all of it; no more than a slice is in memory, and no step takes long."""
    found = after_the_early_head(single, [SSE_HEAD[:-2] + GZIP + b"\r\n", chunk(BOMB), LAST])
    assert found.body == b": waiting\n\n" + b"\n" * 16 * 1024 * 1024


@pytest.mark.parametrize(
    ("status", "beginning"),
    [
        (b"200 OK", "e0 answered 200 with a very long body that is not a stream"),
        (b"422 No", "e0 answered 422: BOOM!!!"),
    ],
)
def test_a_bomb_that_is_no_stream_is_read_only_in_part(single: Tree, status: bytes, beginning: str) -> None:
    bomb = gzip.compress(b'{"detail":"BOOM' + b"!" * 16 * 1024 * 1024)
    head = b"HTTP/1.1 %b\r\n%b%btransfer-encoding: chunked\r\n\r\n" % (status, JSON, GZIP)
    error = error_of(after_the_early_head(single, [head, chunk(bomb), LAST]))
    assert str(error["message"]).startswith(beginning)


# -- answers in other forms ------------------------------------------------------------------------------------------


def test_audio_in_place_of_events_is_an_error_at_once(single: Tree) -> None:
    audio = http_response(bytes(range(256)) * 400, b"content-type: audio/mpeg")  # 100 kB
    before = failures(single)
    error = error_of(after_the_early_head(single, [audio]))
    assert error["message"] == "e0 answered 200 with audio/mpeg where the request wants a stream of events"
    assert not single.child().down
    assert failures(single) == before  # the request may be what is wrong


def test_a_refusal_that_does_not_end_is_cut_where_its_text_is_known(single: Tree) -> None:
    head = b"HTTP/1.1 400 X\r\n%btransfer-encoding: chunked\r\n\r\n" % JSON
    long: list[Step] = [chunk(b"x" * 8192)] * (held.MAX_REFUSAL // 8192 + 1)
    error = error_of(after_the_early_head(single, [head, chunk(b'{"detail":"too long '), *long, HOLD]))
    assert (error["status"], str(error["message"])[:31]) == (400, "e0 answered 400: too long xxxxx")


def test_an_answer_that_is_too_long_to_become_a_stream(single: Tree) -> None:
    head = b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % JSON
    content = b'{"choices":[' + b" " * promise.MAX_ANSWER + b"]}"
    pieces = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    script: list[Step] = [head, *map(chunk, pieces)]
    assert "very long body" in str(error_of(after_the_early_head(single, [*script, HOLD]))["message"])
    single.engine.plan([*script, LAST])
    found = single.request(post(STREAM))  # without an early head it passes as it is
    assert (found.complete, found.get(b"content-type")) == (True, [b"application/json"])
    assert found.body == content


def test_an_answer_is_a_stream_only_for_a_client_that_wants_one(chain: Tree) -> None:
    answer = http_response(ANSWER, b"content-type: application/json")
    assert chain.request_playing([answer], post()).body == ANSWER
    assert chain.request_playing([answer], post(STREAM, path=b"/v1/embeddings")).body == ANSWER
    found = chain.request_playing([answer], post(STREAM))  # through three levels: the entry node makes it one
    assert found.get(b"content-type") == [b"text/event-stream; charset=utf-8"]
    assert found.get(b"x-hierarchy-path") == [b"n1/n2/e0"]
    assert found.body.endswith(DONE)
    other = http_response(b'{"ok":true}', b"content-type: application/json")
    assert chain.request_playing([other], post(STREAM)).body == b'{"ok":true}'


def test_a_stream_that_begins_with_a_foreign_error_has_the_clients_form(chain: Tree) -> None:
    foreign = b'data: {"object":"error","message":"too long","code":400}\n\n'
    found = chain.request_playing([SSE_HEAD + chunk(foreign) + chunk(DONE) + LAST], post(STREAM))
    assert found.complete
    assert error_of(found) == {
        "message": "n1/n2/e0 answered 200: too long", "type": "invalid_request_error", "param": None,
        "code": "engine_error", "status": 400,
    }  # fmt: skip
    own = b'data: {"error":{"message":"too long","code":400}}\n\n'
    assert chain.request_playing([SSE_HEAD + chunk(own) + LAST], post(STREAM)).body == own


# -- time --------------------------------------------------------------------------------------------------------------


def test_comments_continue_while_what_comes_is_held(single: Tree) -> None:
    """An engine that ignores `stream` may send its answer slowly; its client must not look idle."""
    head = b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % JSON
    single.engine.plan([head, chunk(ANSWER[:9]), HOLD, chunk(ANSWER[9:]) + LAST])
    with single.client() as client:
        client.send(post(STREAM))
        single.world.eventually(lambda: any(one.attempt and one.attempt.holds for one in single.exchanges()))
        assert single.root.lane.held.total == len(STREAM) + len(chunk(ANSWER[:9])) + 9
        for _ in range(3):
            single.forward(promise.COMMENT_EVERY_S + 0.1)
            client.read_until(b": waiting\n\n\r\n")
        single.engine.release()
        found = client.read_until(LAST)
        assert b"chat.completion.chunk" in found
        assert b"HTTP/1.1" not in found
    single.wait_idle()
    assert single.root.lane.held.total == 0


def test_what_is_held_has_its_share_of_the_nodes_memory(single: Tree) -> None:
    """Each answer is within its own limit; a node with many of them holds no more than it may."""
    head = b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % JSON
    held = single.root.lane.held
    before = held.limit
    try:
        single.world.call(lambda: setattr(held, "limit", 100_000))
        error = error_of(after_the_early_head(single, [head, *[chunk(b"[" * 10_000)] * 12, HOLD]))
        assert (error["code"], error["status"]) == ("memory_full", 503)
        single.wait_idle()
        assert held.total == 0
    finally:
        single.world.call(lambda: setattr(held, "limit", before))


@pytest.mark.parametrize("status", [b"503 Full", b"422 No"])
def test_a_refusal_that_began_before_the_early_head_keeps_it(single: Tree, status: bytes) -> None:
    head = b"HTTP/1.1 %b\r\n%btransfer-encoding: chunked\r\n\r\n" % (status, JSON)
    script: Script = [head, HOLD, chunk(b'{"detail":"full"}') + LAST]
    single.engine.plan(script, script, script)
    with single.client() as client:
        client.send(post(STREAM))
        wait(single)
        single.engine.free()
        found = client.read_until(LAST)
        assert b"answered %b: full" % status[:3] in found
        assert found.count(b"HTTP/1.1") == 1


# -- every other way -------------------------------------------------------------------------------------------------

BODIES = st.one_of(
    st.sampled_from(
        [b"", b" ", CONTENT, event("a"), ANSWER, ANSWER[:-4], b'{"ok":1}', b"[]", b"\xff\xfb\0", b"<html>"]
    ),
    st.sampled_from(
        [b'{"error":{"message":"no"}}', b'{"detail":"no"}', b'{"error":"no"}', b'data: {"error":"no"}\n\n']
    ),
    st.sampled_from([b'{"text":"a","error_code":0}\0', b'{"text":"no","error_code":50001}\0', b'{"text":']),
    st.binary(max_size=20),
    st.sampled_from([b"x" * 70_000, b'{"detail":"' + b"y" * 70_000]),
)
STATUSES = st.sampled_from([200, 200, 200, 201, 204, 206, 302, 304, 307, 400, 404, 422, 429, 500, 502, 503])
FIELDS = st.sampled_from([b"", SSE, SSE, JSON, JSON, b"content-type: text/html\r\n", b"content-type: audio/mpeg\r\n"])
CODINGS = st.sampled_from([b"", b"", b"", b"gzip", b"deflate", b"br", b"identity"])
FRAMINGS = st.sampled_from(["length", "chunks", "trailers", "until close"])
ENDINGS = st.sampled_from(["whole", "whole", "whole", "cut", "reset", "more"])


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """An engine's answer."""
    body, coding, framing = draw(BODIES), draw(CODINGS), draw(FRAMINGS)
    if coding and draw(st.booleans()):
        body = gzip.compress(body, mtime=0) if coding == b"gzip" else zlib.compress(body)
    lines = draw(FIELDS) + (b"content-encoding: %b\r\n" % coding if coding else b"")
    lines += draw(st.sampled_from([b"", b"", b"location: http://10.0.0.1/\r\n", b"connection: close\r\n"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
    if framing == "length":
        lines += b"content-length: %d\r\n" % len(body)
    elif framing != "until close":
        lines += b"transfer-encoding: chunked\r\n"
        pieces = [*map(chunk, pieces), b"0\r\n%b\r\n" % (b"x-a: b\r\n" if framing == "trailers" else b"")]
    head = b"HTTP/1.1 %d X\r\n%b\r\n" % (draw(STATUSES), lines)
    joined, ending = draw(st.booleans()), draw(ENDINGS)
    script: list[Step] = [head + pieces[0], *pieces[1:]] if pieces and joined else [head, *pieces]
    if ending in ("cut", "reset") and pieces:
        return [*script[:-1], RESET if ending == "reset" else CLOSE]
    if ending == "more":
        script.append(b"surplus")
    return [*script, CLOSE] if framing == "until close" or ending == "more" else script


@pytest.fixture(scope="module")
def both() -> Iterator[dict[bytes, Tree]]:
    """A node above an engine of each API family, by a path that it serves."""
    world = World()
    with ExitStack() as stack:
        running = {kind: stack.enter_context(tree(world, kind=kind)) for kind in ("openai", "fastchat")}
        openai, fastchat = running["openai"], running["fastchat"]
        paths = (b"/v1/chat/completions", b"/v1/messages", b"/v1/responses", b"/v1/audio/speech", b"/v1/embeddings")
        yield {**dict.fromkeys(paths, openai), b"/worker_generate_stream": fastchat}
    world.close()


def forgive(running: Tree) -> None:
    """Set the clock right, and forget what the engine did: an engine that is ejected would be asked nothing."""

    def work() -> None:
        running.clock.skew = 0.0
        for node in running.nodes:
            for child in node.registry:
                child.failures = None
                for share in child.shares.values():
                    share.failures, share.penalty = None, 0

    running.world.call(work)


def read_one(client: Client) -> ReceivedResponse | None:
    """The response of a client that asked for the connection to be closed; None if it was reset."""
    try:
        data = client.rest()
    except ConnectionResetError:
        return None
    found = ReceivedResponse()
    parser = httptools.HttpResponseParser(found)
    parser.feed_data(data)
    found.status = parser.get_status_code()
    assert data.count(b"HTTP/1.1 ") == 1
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scripts(),
    st.booleans(),
    st.sampled_from(
        [
            b"/v1/chat/completions",
            b"/v1/messages",
            b"/v1/responses",
            b"/v1/audio/speech",
            b"/v1/embeddings",
            b"/worker_generate_stream",
        ]
    ),
    st.sampled_from([b"1.1", b"1.1", b"1.0"]),
)
def test_each_answer_leads_to_one_legal_response(
    both: dict[bytes, Tree],
    caplog: pytest.LogCaptureFixture,
    script: list[Step],
    early: bool,
    path: bytes,
    version: bytes,
) -> None:
    running = both[path]
    caplog.clear()
    running.engine.plan([HOLD, *script], script, script)
    body = b'{"model":"m","stream":true,"stream_format":"sse"}'
    with running.client(DEADLINE_S) as client, caplog.at_level(logging.INFO):
        client.send(post(body, b"connection: close", path=path, version=version))
        running.world.eventually(lambda: running.engine.received, "the request")
        if early:
            running.forward(promise.COMMENT_EVERY_S + 0.1)
        promised = bool(running.world.call(lambda: [one for one in running.exchanges() if one.response.waiting]))
        running.engine.release()
        found = read_one(client)
    assert promised == (early and path != b"/v1/embeddings")
    running.wait_idle()
    forgive(running)
    assert running.world.problems == []
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
    if not promised:
        return
    assert found is not None  # a promise is never broken off
    assert (found.status, found.get(b"content-encoding"), found.get(b"content-length")) == (200, [], [])
    if version == b"1.1":
        assert found.complete
    if path == b"/worker_generate_stream" or any(isinstance(step, bytes) and SSE in step for step in script):
        return  # an engine's own stream passes as it comes
    content = found.body.replace(b": waiting\n\n", b"", 1).lstrip(promise.BLANKS)
    assert content.startswith((b"data:", b"event:", b":")), content
