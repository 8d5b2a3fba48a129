"""Responses that are cut after their first byte: they never look complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.relay.raw import OK_BODY, SSE_HEAD, chunk, event, http_response, post
from tests.relay.support import CLOSE, HOLD, RESET, Script, Tree, World, tree

PATH = b"/worker_generate_stream"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\n"
DONE = event("[DONE]")
SSE, JSON, OCTETS = b"text/event-stream", b"application/json", b"application/octet-stream"


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
        response = client.read_response()
        assert response.complete  # in valid framing, so that the event is read
        assert response.body.startswith(b"data: a\n")
        assert DONE not in response.body
        assert sse_error(response.body)["code"] == "child_failed"


def test_a_stream_whose_framing_breaks_ends_with_an_error_event(chain: Tree) -> None:
    response = chain.request_playing([SSE_HEAD, chunk(event("a")) + b"x\r\nmore", HOLD], post())
    assert response.complete
    assert "malformed" in sse_error(response.body)["message"]


def test_a_cut_stream_of_an_engine_that_sends_no_chunks(chain: Tree) -> None:
    response = chain.request_playing([UNTIL_CLOSE % SSE, event("a"), RESET], post())
    assert response.complete
    assert sse_error(response.body)["code"] == "child_failed"


def test_a_cut_stream_for_http_10_ends_with_an_error_event_too(chain: Tree) -> None:
    chunked: Script = [SSE_HEAD, chunk(event("a")) + b"5\r\nda", RESET]
    until_close: Script = [UNTIL_CLOSE % SSE, event("a"), RESET]
    for script in (chunked, until_close):
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
    response = fastchat.request_playing([head, chunk(cut) if b"chunked" in head else cut, RESET], post(path=PATH))
    assert response.complete
    frames = [part for part in response.body.split(b"\0") if part]
    assert frames[0] + b"\0" == frame
    assert json.loads(frames[-1])["error_code"] == 50001


def test_a_fastchat_worker_that_breaks_at_once_gives_an_error_frame(fastchat: Tree) -> None:
    response = fastchat.request_playing([CLOSE], post(path=PATH))
    assert (response.status, response.complete, response.body[-1:]) == (200, True, b"\0")
    assert json.loads(response.body[:-1])["error_code"] == 50001


CUTS: dict[str, list[bytes | str]] = {
    "length": [http_response(b"hello")[:-1]],
    "length, after the first byte": [http_response(b"hello")[:-4], b"e"],
    "chunks": [CHUNKED_HEAD, chunk(b'{"a":')],
    "chunks, inside one": [CHUNKED_HEAD, chunk(b'{"a":')[:-4]],
    "chunks, before the last CRLF": [CHUNKED_HEAD, chunk(OK_BODY), b"0\r\n"],
    "stream, before the last CRLF": [SSE_HEAD, chunk(DONE), b"0\r\n"],
    "stream, in the trailers": [SSE_HEAD, chunk(DONE), b"0\r\nx: y"],
    "stream with a length": [http_response(event("a") + DONE, b"content-type: text/event-stream")[:-3]],
    "stream, compressed": [SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n", chunk(b"\x1f\x8b")],
    "chunk too large to fill": [SSE_HEAD, b"fffffff\r\ndata"],
    "extension": [SSE_HEAD, chunk(event("a")), b"5;a"],
}


#: for HTTP/1.0 the chunk framing is removed, so that an event can follow anywhere in a plain stream
PLACELESS = {name: script for name, script in CUTS.items() if script[0] != SSE_HEAD}


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize(
    ("script", "version"),
    [(script, b"1.1") for script in CUTS.values()] + [(script, b"1.0") for script in PLACELESS.values()],
    ids=[*CUTS, *(f"{name}, HTTP/1.0" for name in PLACELESS)],
)
def test_a_cut_response_without_a_place_for_an_error_is_reset(
    chain: Tree, script: list[bytes | str], end: str, version: bytes
) -> None:
    """With an RST: for HTTP/1.0 the end of the connection ends the response, and a FIN would make it look whole."""
    chain.engine.plan([*script, end])
    with chain.client() as client:
        client.send(post(version=version))
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_a_cut_response_without_a_length_is_reset_unless_it_is_a_stream(chain: Tree) -> None:
    chain.engine.plan([UNTIL_CLOSE % JSON, b'{"a":', HOLD, RESET])
    with chain.client() as client:
        client.send(post())
        client.read_head()
        chain.engine.release()
        with pytest.raises(ConnectionResetError):
            client.rest()
