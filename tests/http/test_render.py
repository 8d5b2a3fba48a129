"""Responses that this node writes itself, as httptools parses them."""

from __future__ import annotations

from urllib.parse import unquote

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest, ChildFailed, InvalidApiKey, RequestError, Unavailable
from hierarchy.http import render
from hierarchy.http.dialect import ANTHROPIC, FRAMES, OBJECT, OPENAI, Dialect
from hierarchy.http.framing import chunk
from hierarchy.http.request_head import Fields
from hierarchy.http.response_head import UpstreamResponse
from tests.relay.raw import ReceivedResponse

DATE: Fields = [(b"date", b"now")]
ERROR = ChildFailed("gone")
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


def parsed(data: bytes) -> ReceivedResponse:
    """The response in `data` as httptools parses it."""
    response = ReceivedResponse()
    parser = httptools.HttpResponseParser(response)
    parser.feed_data(data)
    response.status = parser.get_status_code()
    return response


@pytest.mark.parametrize(
    ("error", "dialect", "status", "more"),
    [
        (BadRequest("x"), OPENAI, 400, []),
        (BadRequest("x"), ANTHROPIC, 400, []),
        (InvalidApiKey("x"), OPENAI, 401, [(b"www-authenticate", b"Bearer")]),
        (Unavailable("x"), OPENAI, 503, [(b"retry-after", b"1")]),
        (Unavailable("x", 7), ANTHROPIC, 503, [(b"retry-after", b"7")]),
        (Unavailable("x"), FRAMES, 200, [(b"retry-after", b"1")]),
        (Unavailable("x", 30), OBJECT, 200, [(b"retry-after", b"30")]),
        (InvalidApiKey("x"), OBJECT, 200, []),
    ],
)
@pytest.mark.parametrize("close", [False, True])
def test_error_response(error: RequestError, dialect: Dialect, status: int, more: Fields, close: bool) -> None:
    found = parsed(render.error_response(error, dialect, DATE, close=close))
    content_type = b"application/octet-stream" if dialect is FRAMES else b"application/json"
    body = dialect.error(error)
    expected = [*DATE, (b"content-type", content_type), *more, (b"content-length", b"%d" % len(body))]
    assert (found.status, found.body, found.complete) == (status, body, True)
    assert found.fields == expected + ([(b"connection", b"close")] if close else [])


def test_json_response() -> None:
    found = parsed(render.json_response(b"{}", DATE, close=False))
    expected = [*DATE, (b"content-type", b"application/json"), (b"content-length", b"2")]
    assert (found.status, found.fields, found.body, found.complete) == (200, expected, b"{}", True)


@pytest.mark.parametrize(
    ("status", "line"),
    [(200, b"HTTP/1.1 200 OK\r\n"), (404, b"HTTP/1.1 404 Not Found\r\n"), (599, b"HTTP/1.1 599 \r\n")],
)
def test_status_line(status: int, line: bytes) -> None:
    assert render.status_line(status) == line


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example(" ")
@example("a b ")
@example("a b é")
@example("50%")
def test_field_value_is_printable_ascii_that_unquote_reverses(text: str) -> None:
    value = render.field_value(text).decode("ascii")
    assert value.isprintable()
    assert value == value.strip()
    assert unquote(value) == text


@pytest.mark.parametrize(
    ("dialect", "head", "body"),
    [
        (OPENAI, SSE + CHUNKED, chunk(b"data: 1\n\n")),
        (OPENAI, SSE + CHUNKED, chunk(b"data: 1\n\n")[:-7]),
        (FRAMES, b"HTTP/1.1 200 OK\r\n" + CHUNKED, chunk(b'{"text":"a"}\0')),
    ],
)
def test_error_tail_completes_a_chunked_stream(dialect: Dialect, head: bytes, body: bytes) -> None:
    response = UpstreamResponse(head)
    response.framing.feed(body)
    tail = render.error_tail(ERROR, dialect, response, rechunked=False, raw=False)
    assert tail is not None
    found = parsed(head + body + tail)
    assert found.complete
    assert found.body.endswith(dialect.error_event(ERROR))


def test_error_tail_where_this_node_frames_the_body() -> None:
    response = UpstreamResponse(SSE + b"\r\n")  # until close
    event = OPENAI.error_event(ERROR)
    assert render.error_tail(ERROR, OPENAI, response, rechunked=False, raw=True) == event
    tail = render.error_tail(ERROR, OPENAI, response, rechunked=True, raw=False)
    assert tail is not None
    assert parsed(SSE + CHUNKED + tail).body == event


@pytest.mark.parametrize(
    ("dialect", "head"),
    [
        (OPENAI, SSE + b"content-length: 9\r\n\r\n"),
        (OPENAI, SSE + b"content-encoding: gzip\r\n" + CHUNKED),
        (OPENAI, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + CHUNKED),
        (OBJECT, b"HTTP/1.1 200 OK\r\n" + CHUNKED),
    ],
)
def test_responses_without_a_place_for_an_error_have_no_tail(dialect: Dialect, head: bytes) -> None:
    assert render.error_tail(ERROR, dialect, UpstreamResponse(head), rechunked=False, raw=False) is None
