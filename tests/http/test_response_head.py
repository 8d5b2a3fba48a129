"""Heads of responses: their framing, which fields are forwarded, and the same head again with another length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.http.framing import Chunked, Length, UntilClose
from hierarchy.http.request_head import Fields, HeadError, head_end
from hierarchy.http.response_head import UpstreamResponse

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b"content-length: 5\r\n", Length),
        (b"transfer-encoding: Chunked\r\n", Chunked),
        (b"", UntilClose),
        (b"connection: close\r\n", UntilClose),
    ],
)
def test_the_framing_of_a_response(lines: bytes, framing: type) -> None:
    response = UpstreamResponse(OK + lines + b"\r\n")
    assert isinstance(response.framing, framing)
    assert not response.framing.done


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"100 Continue", b"103 Early Hints"])
@pytest.mark.parametrize("lines", [b"", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"])
def test_responses_that_never_have_a_body(status: bytes, lines: bytes) -> None:
    response = UpstreamResponse(b"HTTP/1.1 %b\r\n%b\r\n" % (status, lines))
    assert response.framing.done
    assert response.head.interim == status.startswith(b"1")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICE/1.0 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        OK + b"content-length: 5, 5\r\n\r\n",
        OK + b"content-length: +5\r\n\r\n",
        OK + b"content-length: \r\n\r\n",
        OK + b"content-length: 99999999999999999999999999\r\n\r\n",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked, gzip\r\n\r\n",
        OK + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n",
        OK + b"x: a\n\r\n\r\n",
        OK + b"x: a\r\n b\r\n\r\n",
        OK + b"x : a\r\n\r\n",
        OK + b"x: \0\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: y\n\nbody\r\n\r\n",
    ],
    ids=repr,
)
def test_malformed_heads(data: bytes) -> None:
    with pytest.raises(HeadError):
        UpstreamResponse(data)


@pytest.mark.parametrize(
    ("data", "keep_alive", "idle_s", "uses_left"),
    [
        (OK + b"content-length: 0\r\n\r\n", True, None, None),
        (OK + b"content-length: 0\r\nconnection: close\r\n\r\n", False, None, None),
        (OK + b"content-length: 0\r\nkeep-alive: timeout=5, max=100\r\n\r\n", True, 5.0, 100),
        (OK + b"content-length: 0\r\nkeep-alive: Timeout=5,max=0\r\n\r\n", True, 5.0, 0),
        (OK + b"content-length: 0\r\nkeep-alive: timeout=x, max\r\n\r\n", True, None, None),
        (OK + b"content-length: 0\r\nkeep-alive: max=%b\r\n\r\n" % (b"9" * 5000), True, None, None),
        (OK + b"\r\n", False, None, None),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False, None, None),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n", True, None, None),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", False, None, None),
    ],
)
def test_keep_alive_and_its_limits(data: bytes, keep_alive: bool, idle_s: float | None, uses_left: int | None) -> None:
    response = UpstreamResponse(data)
    assert (response.head.keep_alive, response.head.idle_s, response.head.uses_left) == (keep_alive, idle_s, uses_left)


def test_forward_drops_hop_by_hop_fields_and_keeps_the_rest() -> None:
    response = UpstreamResponse(
        b"HTTP/1.1 200 Very Fine\r\nConnection: keep-alive, x-one, content-type\r\nX-One: 1\r\n"
        b"Keep-Alive: timeout=5\r\nContent-Type: a/b\r\n"
        b"Content-Encoding: gzip\r\nX-Hierarchy-Path: below\r\nX-Hierarchy-Other: x\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\nX-Raw: \xc3\xa9\xff\r\nContent-Length: 5\r\n\r\n"
    )
    assert response.head.path == b"below"
    assert response.forward(path=b"e", framing=None, close=False) == (
        b"HTTP/1.1 200 Very Fine\r\ncontent-type: a/b\r\ncontent-encoding: gzip\r\nset-cookie: a\r\nset-cookie: b\r\n"
        b"x-raw: \xc3\xa9\xff\r\nx-hierarchy-path: e\r\ncontent-length: 5\r\n\r\n"
    )


TE = b"transfer-encoding: chunked\r\n"
PATH = b"x-hierarchy-path: e\r\n"


@pytest.mark.parametrize(
    ("data", "framing", "close", "lines"),
    [
        (OK + TE + b"\r\n", None, False, TE + PATH),
        (OK + TE + b"\r\n", b"", True, b"connection: close\r\n" + PATH),
        (OK + b"\r\n", TE, False, TE + PATH),
        (OK + b"content-length: 5\r\n\r\n", None, True, b"connection: close\r\n" + PATH + b"content-length: 5\r\n"),
    ],
)
def test_forward_with_another_framing(data: bytes, framing: bytes | None, close: bool, lines: bytes) -> None:
    for _ in range(2):  # the second one is cached
        assert UpstreamResponse(data).forward(path=b"e", framing=framing, close=close) == OK + lines + b"\r\n"


@pytest.mark.parametrize(
    "written", [b"content-length: %d", b"Content-Length: %d", b"content-length:%d", b"CONTENT-LENGTH: \t%d "]
)
@pytest.mark.parametrize("status", [b"200 OK", b"304 Not Modified"])
def test_the_same_head_with_another_length(written: bytes, status: bytes) -> None:
    for length in (5, 0, 123456789, 5):
        response = UpstreamResponse(b"HTTP/1.1 %b\r\nx: y\r\n%b\r\n\r\n" % (status, written % length))
        assert response.framing.done == (length == 0 or status != b"200 OK")
        assert b"content-length: %d\r\n" % length in response.forward(path=b"e", framing=None, close=False)
        if length and status == b"200 OK":
            assert response.framing.feed(b"x" * 7) == min(7, length)


def test_a_cached_head_does_not_hide_a_malformed_length() -> None:
    UpstreamResponse(OK + b"content-length: 5\r\n\r\n")
    for second in (b"content-length: 5", b"content-length: 0", b"content-length: +5", b"transfer-encoding: chunked"):
        with pytest.raises(HeadError):
            UpstreamResponse(OK + b"content-length: 5\r\n" + second + b"\r\n\r\n")
        with pytest.raises(HeadError):
            UpstreamResponse(OK + second + b"\r\ncontent-length: 5\r\n\r\n")
    with pytest.raises(HeadError):
        UpstreamResponse(OK + b"content-length: 1000000000000000000000\r\n\r\n")


def test_a_204_is_forwarded_without_a_length() -> None:
    response = UpstreamResponse(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n")
    assert response.forward(path=b"e", framing=None, close=False) == (
        b"HTTP/1.1 204 No Content\r\nx-hierarchy-path: e\r\n\r\n"
    )


names = st.text("abcdefXYZ-_", min_size=1, max_size=10).map(lambda name: b"x-" + name.encode())
values = st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte > 32 and byte != 127))


@given(st.lists(st.tuples(names, values), max_size=8), st.integers(200, 599))
def test_a_forwarded_head_has_the_same_meaning(fields: Fields, status: int) -> None:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    data = b"HTTP/1.1 %d Some Reason\r\n%bcontent-length: 0\r\n\r\n" % (status, lines)
    assert head_end(data + b"more") == len(data)
    assert head_end(data[:-1]) == -1
    again = UpstreamResponse(UpstreamResponse(data).forward(path=b"e", framing=None, close=False))
    expected = [(name.lower(), value) for name, value in fields if not name.lower().startswith(b"x-hierarchy-")]
    assert [pair for pair in again.head.fields if pair[0] not in (b"content-length", b"x-hierarchy-path")] == expected
    assert again.head.status == status
    assert again.head.path == b"e"
