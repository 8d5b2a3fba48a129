"""Whole responses as bytes, through three levels: they arrive as they were sent."""

from __future__ import annotations

import pytest

from tests.relay.raw import OK_BODY, SSE_HEAD, chunk, event, http_response, post
from tests.relay.support import CLOSE, HOLD, Script, Tree

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


def test_interim_responses_are_not_forwarded(chain: Tree) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    for script in ([interim + http_response()], [interim[:30], interim[30:], http_response()]):
        with chain.client() as client:
            chain.engine.plan(script)
            client.send(post())
            response = client.read_response()
            assert (response.status, response.body, client.interim) == (200, OK_BODY, [])


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("lines", [b"", b"content-length: 7\r\n", b"transfer-encoding: chunked\r\n"])
def test_responses_without_a_body(chain: Tree, status: bytes, lines: bytes) -> None:
    with chain.client() as client:
        chain.engine.plan([b"HTTP/1.1 %b\r\netag: x\r\n%b\r\n" % (status, lines)])
        client.send(post())
        response = client.read_response()
        assert response.status == int(status[:3])
        assert response.get(b"etag") == [b"x"]
        assert response.get(b"transfer-encoding") == []
        client.send(post())
        assert client.read_response().body == OK_BODY  # no body was waited for, and no other bytes taken for one
    assert chain.engine.received[0].connection == chain.engine.received[1].connection


@pytest.mark.parametrize("status", [b"200 OK", b"201 Created", b"400 Bad Request", b"429 Slow", b"500 Oops", b"599 x"])
def test_every_status_passes_with_its_body(chain: Tree, status: bytes) -> None:
    response = chain.request_playing([http_response(b"body", b"retry-after: 7", status=status)], post())
    assert (response.status, response.body, response.get(b"retry-after")) == (int(status[:3]), b"body", [b"7"])


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd"])
def test_compressed_bodies_are_untouched(chain: Tree, encoding: bytes) -> None:
    body = bytes(range(256)) * 40
    response = chain.request_playing([http_response(body, b"content-encoding: " + encoding)], post())
    assert response.body == body
    assert response.get(b"content-encoding") == [encoding]
    response = chain.request_playing(
        [SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunk(body) + b"0\r\n\r\n"], post()
    )
    assert (response.body, response.complete) == (body, True)


def test_chunks_are_forwarded_byte_for_byte(chain: Tree) -> None:
    body = b'5;a="b"\r\nhello\r\n0005\r\nworl\n\r\n0\r\nx-trailer: y\r\n\r\n'
    chain.engine.plan([SSE_HEAD, body[:3], body[3:20], body[20:]])
    with chain.client() as client:
        client.send(post())
        client.read_head()
        assert client.read_until(b"y\r\n\r\n") == body


def test_a_response_without_a_length_lasts_until_the_connection_closes(chain: Tree) -> None:
    in_pieces: Script = [b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo", CLOSE]
    at_once: Script = [b"HTTP/1.0 200 OK\r\n\r\nhello", CLOSE]
    for script in (in_pieces, at_once):
        with chain.client() as client:
            chain.engine.plan(script)
            client.send(post())
            response = client.read_response()
            assert (response.body, response.complete) == (b"hello", True)
            assert response.get(b"transfer-encoding") == [b"chunked"]
            client.send(post())
            assert client.read_response().body == OK_BODY  # the client's own connection stays open


def test_an_empty_response_without_a_length(chain: Tree) -> None:
    response = chain.request_playing([b"HTTP/1.1 200 OK\r\n\r\n", CLOSE], post())
    assert (response.status, response.body, response.complete) == (200, b"", True)


@pytest.mark.parametrize(
    "script",
    [
        [http_response(b"hello")],
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
        assert client.read_response().body == event("a")
