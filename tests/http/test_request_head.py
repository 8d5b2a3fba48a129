"""Heads of requests: what is refused, what goes down."""

from __future__ import annotations

import pytest

from hierarchy.errors import BadRequest
from hierarchy.http import request_head
from hierarchy.http.dialect import ANTHROPIC, FRAMES, OBJECT, OPENAI, Dialect
from hierarchy.http.request_head import Fields, check_request, lane_path, request_fields

HOST = (b"host", b"a")


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (b"/v1/chat/completions", (OPENAI, b"/v1/chat/completions")),
        (b"/v1/x?a=/../b", (OPENAI, b"/v1/x?a=/../b")),
        (b"/v1/models/a:b@c", (OPENAI, b"/v1/models/a:b@c")),
        (b"http://host:80/v1/x?a=b", (OPENAI, b"/v1/x?a=b")),
        (b"http://user@[::1]/v1/x", (OPENAI, b"/v1/x")),
        (b"/worker_generate_stream", (FRAMES, b"/worker_generate_stream")),
        (b"/v1/messages", (ANTHROPIC, b"/v1/messages")),
        (b"/v1/messages?beta=true", (ANTHROPIC, b"/v1/messages?beta=true")),
        (b"/v1/messages/batches", (OPENAI, b"/v1/messages/batches")),
        (b"/tokenize", (OPENAI, b"/tokenize")),
        (b"/tokenize/x", None),
        (b"/count_token", (OBJECT, b"/count_token")),
        (b"/worker_get_conv_template", (OBJECT, b"/worker_get_conv_template")),
        (b"/worker_generate_stream?x", (FRAMES, b"/worker_generate_stream?x")),
        (b"/worker_generate_stream/", None),
        (b"/v1/", None),
        (b"/v1", None),
        (b"/v2/x", None),
        (b"/V1/x", None),
        (b"//v1/x", None),
        (b"/v1//x", None),
        (b"/v1/../x", None),
        (b"/v1/x/..", None),
        (b"/v1/./x", None),
        (b"/v1/%2e%2e/x", None),
        (b"/v1/x%00", None),
        (b"/v1/x\\y", None),
        (b"/v1/x;y", None),
        (b"/a/../v1/x", None),
        (b"http://h", None),
        (b"http:///v1/x", None),
        (b"v1/x", None),
        (b"*", None),
        (b"", None),
    ],
)
def test_lane_path(target: bytes, found: tuple[Dialect, bytes] | None) -> None:
    assert lane_path(target) == found


def test_long_targets_are_served_but_not_remembered() -> None:
    before = request_head._lane_path.cache_info().currsize
    assert lane_path(b"/v1/" + b"x" * 1000) == (OPENAI, b"/v1/" + b"x" * 1000)
    assert request_head._lane_path.cache_info().currsize == before


@pytest.mark.parametrize(
    ("version", "fields", "words"),
    [
        ("2.0", [HOST], "HTTP/2.0"),
        ("0.9", [], "HTTP/0.9"),
        ("1.1", [], "no Host"),
        ("1.1", [HOST, HOST], "twice"),
        ("1.0", [HOST, HOST], "twice"),
        ("1.1", [(b"host", b"a b")], "not the name of a host"),
        ("1.1", [(b"host", b"a/b")], "not the name of a host"),
        ("1.1", [(b"host", b"a@b")], "not the name of a host"),
        ("1.1", [(b"host", b"\xff")], "not the name of a host"),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], "only chunked"),
        ("1.1", [HOST, (b"transfer-encoding", b"identity"), (b"transfer-encoding", b"chunked")], "twice"),
        ("1.0", [(b"transfer-encoding", b"chunked")], "only chunked"),
    ],
)
def test_check_request_refuses(version: str, fields: Fields, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        check_request(b"/", version, fields)


def test_check_request_refuses_fragments() -> None:
    with pytest.raises(BadRequest, match="fragment"):
        check_request(b"/v1/x#y", "1.1", [HOST])


@pytest.mark.parametrize("host", [b"a", b"a.b:80", b"[::1]:80", b"", b"a_b", b"1.2.3.4", b"a:", b"a \t"])
def test_check_request_returns_what_the_lane_looks_at(host: bytes) -> None:
    fields = [(b"host", host), (b"transfer-encoding", b"Chunked "), (b"x", b"y"), (b"expect", b"100-continue")]
    found = check_request(b"/", "1.1", fields)
    assert found == {b"host": host, b"transfer-encoding": b"Chunked ", b"expect": b"100-continue"}


def test_requests_without_host_are_fine_in_http_10() -> None:
    assert check_request(b"/", "1.0", []) == {}


def test_request_fields_drop_what_is_not_for_the_next_hop() -> None:
    fields = [
        (b"host", b"a"),
        (b"connection", b"close, X-One , te"),
        (b"connection", b"x-two"),
        (b"x-one", b"1"),
        (b"x-two", b"2"),
        (b"te", b"trailers"),
        (b"keep-alive", b"1"),
        (b"proxy-authorization", b"secret"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"trailer", b"x"),
        (b"expect", b"100-continue"),
        (b"content-length", b"5"),
        (b"x-hierarchy-auth", b"guess"),
        (b"x-hierarchy-anything", b"x"),
        (b"authorization", b"Bearer k"),
        (b"x-raw", b"\xc3\xa9\xff"),
        (b"x-same", b"1"),
        (b"x-same", b"2"),
    ]
    assert request_fields(fields) == b"authorization: Bearer k\r\nx-raw: \xc3\xa9\xff\r\nx-same: 1\r\nx-same: 2\r\n"
