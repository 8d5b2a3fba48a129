"""The link handshake as bytes: what a child sends, what the parent reads, and what it refuses."""

from __future__ import annotations

import httptools
import pytest

from hierarchy.errors import BadRequest
from hierarchy.http.link_handshake import (
    INSTANCE,
    LINK_PROTOCOL,
    NODE,
    PING,
    WANTED,
    LinkRequest,
    asks_for_link,
    link_accepted,
    link_request,
    read_link_request,
)
from hierarchy.http.request_head import AUTH, Fields

VALID: Fields = [(b"connection", b"keep-alive, Upgrade"), (b"upgrade", b"Hierarchy-Link/1"), (NODE, b"a")]


class Head:
    """A head as httptools parses it."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: Fields = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_message_complete(self) -> None:
        self.complete = True


def test_a_parent_reads_what_a_child_sends() -> None:
    head = Head()
    parser = httptools.HttpRequestParser(head)
    with pytest.raises(httptools.HttpParserUpgrade):
        parser.feed_data(link_request(b"parent:8000", b"site-a", b"instance", b"secret"))
    assert asks_for_link(head.target, head.fields)
    request = read_link_request(parser.get_method(), head.fields)
    assert request == LinkRequest("site-a", b"instance", b"secret")


def test_the_response_that_accepts_a_link() -> None:
    head = Head()
    parser = httptools.HttpResponseParser(head)
    with pytest.raises(httptools.HttpParserUpgrade):
        parser.feed_data(link_accepted(7))
    assert parser.get_status_code() == 101
    assert head.fields == [(b"connection", b"upgrade"), (b"upgrade", LINK_PROTOCOL), (WANTED, b"7")]


def test_a_ping_is_a_complete_request() -> None:
    head = Head()
    httptools.HttpRequestParser(head).feed_data(PING)
    assert (head.target, head.complete) == (b"/link", True)


@pytest.mark.parametrize(
    ("target", "upgrade", "expected"),
    [
        (b"/link", b"hierarchy-link/1", True),
        (b"/link", b" Hierarchy-Link/2", True),  # a later version, which `read_link_request` refuses
        (b"/link", b"websocket", False),
        (b"/links", b"hierarchy-link/1", False),
    ],
)
def test_asks_for_link(target: bytes, upgrade: bytes, expected: bool) -> None:
    assert asks_for_link(target, [(b"upgrade", upgrade)]) == expected


def test_fields_that_a_child_leaves_out_are_empty() -> None:
    assert read_link_request(b"GET", VALID) == LinkRequest("a", b"", b"")
    fields = [*VALID, (INSTANCE, b"i"), (AUTH, b"s"), (b"content-length", b"0")]
    assert read_link_request(b"GET", fields) == LinkRequest("a", b"i", b"s")


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        (b"POST", VALID, "GET /link"),
        (b"GET", VALID[1:], "Connection: Upgrade"),
        (b"GET", [*VALID, (b"content-length", b"1")], "no body"),
        (b"GET", [*VALID, (b"transfer-encoding", b"chunked")], "no body"),
        (b"GET", [VALID[0], (b"upgrade", b"hierarchy-link/2")], "only hierarchy-link/1"),
        (b"GET", VALID[:1], "only hierarchy-link/1"),
    ],
)
def test_invalid_requests_for_a_link_are_refused(method: bytes, fields: Fields, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read_link_request(method, fields)
