"""Heads of requests: what is refused, and which fields are forwarded."""

from __future__ import annotations

import pytest

from hierarchy.balancing.lent_attempts import DEFAULT_LENT
from hierarchy.errors import BadRequest
from hierarchy.http import request_head
from hierarchy.http.dialect import ANTHROPIC, CHAT, FRAMES, MESSAGES, OBJECT, OPENAI, Dialect
from hierarchy.http.request_head import (
    Fields,
    RequestHead,
    check_request,
    decimal,
    lane_path,
    number_at,
    request_fields,
)

HOST = (b"host", b"a")


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (b"/v1/chat/completions", (CHAT, b"/v1/chat/completions")),
        (b"/v1/x?a=/../b", (OPENAI, b"/v1/x?a=/../b")),
        (b"/v1/models/a:b@c", (OPENAI, b"/v1/models/a:b@c")),
        (b"http://host:80/v1/x?a=b", (OPENAI, b"/v1/x?a=b")),
        (b"http://user@[::1]/v1/x", (OPENAI, b"/v1/x")),
        (b"/worker_generate_stream", (FRAMES, b"/worker_generate_stream")),
        (b"/v1/messages", (MESSAGES, b"/v1/messages")),
        (b"/v1/messages?beta=true", (MESSAGES, b"/v1/messages?beta=true")),
        (b"/v1/messages/batches", (OPENAI, b"/v1/messages/batches")),
        (b"/v1/messages/count_tokens", (ANTHROPIC, b"/v1/messages/count_tokens")),
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


def test_long_targets_are_served_but_not_cached() -> None:
    before = request_head._lane_path.cache_info().currsize
    assert lane_path(b"/v1/" + b"x" * 1000) == (OPENAI, b"/v1/" + b"x" * 1000)
    assert request_head._lane_path.cache_info().currsize == before


@pytest.mark.parametrize(
    ("version", "fields", "message"),
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
def test_check_request_refuses(version: str, fields: Fields, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        check_request(b"/", version, fields)


def test_check_request_refuses_fragments() -> None:
    with pytest.raises(BadRequest, match="fragment"):
        check_request(b"/v1/x#y", "1.1", [HOST])


@pytest.mark.parametrize("host", [b"a", b"a.b:80", b"[::1]:80", b"", b"a_b", b"1.2.3.4", b"a:", b"a \t"])
def test_check_request_returns_the_fields_that_the_node_uses(host: bytes) -> None:
    fields = [(b"host", host), (b"transfer-encoding", b"Chunked "), (b"x", b"y"), (b"expect", b"100-continue")]
    found = check_request(b"/", "1.1", fields)
    assert found == {b"host": host, b"transfer-encoding": b"Chunked ", b"expect": b"100-continue"}


def test_http_10_requests_need_no_host() -> None:
    assert check_request(b"/", "1.0", []) == {}


def test_request_fields_drops_what_is_not_for_the_child() -> None:
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


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"9" * 18, 10**18 - 1),
        (b"9" * 19, -1),
        (b"", -1),
        (b"-1", -1),
        (b"+1", -1),
        (b" 1", -1),
        (b"1_0", -1),
        (b"\xb2", -1),
    ],
)
def test_decimal(value: bytes, number: int) -> None:
    assert decimal(value) == number


def test_decimal_with_fewer_digits() -> None:
    assert decimal(b"999", 3) == 999
    assert decimal(b"1000", 3) == -1


@pytest.mark.parametrize(
    ("data", "found"), [(b"x12y", (12, 3)), (b"x123", (12, 3)), (b"x1", (1, 2)), (b"xy", (-1, 1)), (b"x", (-1, 1))]
)
def test_number_at(data: bytes, found: tuple[int, int]) -> None:
    assert number_at(data, 1, 2) == found


@pytest.mark.parametrize(
    ("hops", "attempts", "expected"),
    [(b"3", b"2", (3, 2)), (b"x", b"x", (0, DEFAULT_LENT)), (b"", b"", (0, DEFAULT_LENT)), (b"1" * 20, b"0", (0, 1))],
)
def test_the_numbers_that_a_parent_sends(hops: bytes, attempts: bytes, expected: tuple[int, int]) -> None:
    found = {b"x-hierarchy-hops": hops, b"x-hierarchy-attempts": attempts, b"x-hierarchy-model": b"a%20b"}
    head = RequestHead.from_fields((OPENAI, b"/v1/x"), [], found, http10=False, keep_alive=True, within_limits=True)
    assert (head.hops, head.attempts) == expected
    assert head.model == "a b"


@pytest.mark.parametrize(
    ("route", "content_type", "translated", "native"),
    [
        ((OPENAI, b"/v1/chat/completions?x=y"), b"", True, "openai"),
        ((OPENAI, b"/v1/chat/completions"), b"multipart/form-data; boundary=b", False, "openai"),
        ((OPENAI, b"/v1/rerank"), b"", False, "openai"),
        ((FRAMES, b"/worker_generate_stream"), b"", True, "fastchat"),
        ((OBJECT, b"/worker_generate"), b"", True, None),
    ],
)
def test_engines_that_can_serve_a_request(
    route: tuple[Dialect, bytes], content_type: bytes, translated: bool, native: str | None
) -> None:
    found = {b"content-type": content_type}
    head = RequestHead.from_fields(route, [], found, http10=False, keep_alive=True, within_limits=True)
    assert (head.translated, head.native) == (translated, native)


@pytest.mark.parametrize(("http10", "keep_alive", "expects"), [(True, False, False), (False, True, True)])
def test_http_10_knows_neither_keep_alive_nor_expect(http10: bool, keep_alive: bool, expects: bool) -> None:
    found = {b"expect": b"100-Continue"}
    head = RequestHead.from_fields((OPENAI, b"/v1/x"), [], found, http10=http10, keep_alive=True, within_limits=True)
    assert (head.keep_alive, head.expects_continue) == (keep_alive, expects)
