"""An engine's text and status are found in every form of an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.translation.error_text import (
    MAX_READ,
    MAX_TEXT,
    decode_error,
    error_status,
    error_text,
    reports_error,
)

#: bodies in which the engine says BOOM, and whether they are errors whatever the status is
SAYS_BOOM: list[tuple[bytes, bool]] = [
    (b'{"error":{"message":"BOOM","type":"x","code":400}}', True),
    (b'{"type":"error","error":{"type":"invalid_request_error","message":"BOOM"}}', True),
    (b'{"object":"error","message":"BOOM","type":"BadRequestError","code":400}', True),
    (b'{"detail":"BOOM"}', True),
    (b'{"detail":{"error":"BOOM"}}', True),
    (b'{"error":"BOOM","error_type":"validation"}', True),
    (b'{"error":["BOOM"]}', True),
    (b'{"errors":[{"title":"BOOM"}]}', False),
    (b'{"text":"BOOM","error_code":50001}\0', False),
    (b'"BOOM"', False),
    (b'["BOOM"]', False),
    (b'data: {"error":{"message":"BOOM"}}\n\n', True),
    (b'event: error\r\ndata:{"object":"error","message":"BOOM"}\r\n\r\ndata: [DONE]\r\n\r\n', True),
    (b'\n\n {"detail":"BOOM"} \n', True),
    (b"<html><head><title>BOOM</title></head><body><h1>Bad gateway</h1></body></html>", False),
    (b"<h1>BOOM</h1>", False),
    (b" BOOM\r\n", False),
    (b'{"error":{"message":"BOOM"', False),
    (b'{"detail": "BOOM', False),
]


@pytest.mark.parametrize(("body", "is_error"), SAYS_BOOM)
def test_the_text_is_found(body: bytes, is_error: bool) -> None:
    assert error_text(body) == "BOOM"
    assert reports_error(body) is is_error


def test_places_of_mistakes_are_named() -> None:
    errors = [{"type": "missing", "loc": ["body", "messages", number], "msg": "Field required"} for number in range(9)]
    text = error_text(json.dumps({"detail": errors}).encode())
    assert text.startswith("body.messages.0: Field required; body.messages.1: Field required; ")
    assert text.count("Field required") == 5


@pytest.mark.parametrize(
    "body", [b"", b" \r\n\0", b"null", b"{}", b"[]", b'{"error":null}', b'{"code":400}', b"<p></p>"]
)
def test_some_say_nothing_more_than_they_are(body: bytes) -> None:
    assert error_text(body) in ("", body.decode().strip(" \r\n\0"))
    assert not reports_error(body)


def test_the_text_is_one_line_that_a_terminal_can_show() -> None:
    assert (
        error_text(b'{"detail":"a\\n\\tb\\u001b[31m\\u0000c"}')
        == "a b\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}c"
    )
    assert error_text(b"a\xffb") == "a\N{REPLACEMENT CHARACTER}b"
    assert error_text(b'{"error":{"message":"caf\\u00e9 \\"quoted') == 'café "quoted'
    assert error_text(b"<title>a &amp; b</title>") == "a & b"


def test_a_long_text_is_cut() -> None:
    found = error_text(json.dumps({"detail": "x" * 5000}).encode())
    assert (len(found), found[-2:]) == (MAX_TEXT, "x…")
    assert len(error_text(b'{"detail":"' + b"x" * 10**6)) == MAX_TEXT


def test_no_more_is_read_than_an_error_has() -> None:
    assert decode_error(b'{"error":"' + b"x" * MAX_READ + b'"}') is None
    assert not reports_error(b" " * MAX_READ + b'{"error":"x"}')


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (422, b'{"code":400}', 422),
        (503, b"", 503),
        (200, b'{"error":{"message":"x","code":404}}', 404),
        (200, b'{"object":"error","message":"x","code":400}', 400),
        (200, b'{"error":{"message":"x","status":429},"code":500}', 429),
        (200, b'{"error":{"message":"x","code":"context_length_exceeded"},"status_code":413}', 413),
        (200, b'data: {"error":{"message":"x","code":503}}\n\n', 503),
        (200, b'{"error":"x","code":1}', 502),
        (200, b'{"error":"x","code":true}', 502),
        (204, b"", 502),
        (307, b"<p>moved</p>", 502),
    ],
)
def test_the_status_is_the_responses_or_one_in_its_body(status: int, body: bytes, found: int) -> None:
    assert error_status(status, body) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "msg", "loc", "text", "code", "status", "errors", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=200)), st.integers(0, 300))
def test_whatever_it_is_it_can_be_read(body: bytes, cut: int) -> None:
    for part in (body, body[:cut], b"data: " + body, body + b"\0"):
        text = error_text(part)
        assert len(text) <= MAX_TEXT
        assert all(sign.isprintable() for sign in text)
        assert isinstance(reports_error(part), bool)
        assert 400 <= error_status(200, part) < 600


@pytest.mark.parametrize("depth", [5, 50, 10**5])
def test_deep_bodies_can_be_read(depth: int) -> None:
    body = b'{"error":' * depth + b'"x"' + b"}" * depth
    assert error_text(body) == "x" or depth > 50
    assert error_status(200, body) == 502
