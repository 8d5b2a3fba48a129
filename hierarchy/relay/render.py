"""Errors as the bytes that each API's clients expect: OpenAI's object or event, FastChat's frame."""

from __future__ import annotations

import json
from http import HTTPStatus
from urllib.parse import quote

from hierarchy.errors import RequestError
from hierarchy.relay.head import Fields, plain_answer
from hierarchy.status import Api


def error_answer(error: RequestError, api: Api | None, fields: Fields, *, close: bool) -> bytes:
    """A whole answer. FastChat's clients never look at the status, so theirs is 200 with an error frame.

    fields: added as they are (date, server).
    """
    if api == "fastchat":
        body = json.dumps(error.fastchat()).encode() + b"\0"
        own = [(b"content-type", b"application/octet-stream")]
        return plain_answer(status_line(200), [*fields, *own], body, close=close)
    own = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        own.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.status == 401:
        own.append((b"www-authenticate", b"Bearer"))
    body = json.dumps(error.openai()).encode()
    return plain_answer(status_line(error.status), [*fields, *own], body, close=close)


def json_answer(body: bytes, fields: Fields, *, close: bool) -> bytes:
    """A good answer of our own."""
    return plain_answer(status_line(200), [*fields, (b"content-type", b"application/json")], body, close=close)


def sse_event(error: RequestError) -> bytes:
    """An error as server-sent event. The blank lines end whatever event was cut, and mean nothing otherwise."""
    return b"\n\nevent: error\ndata: %b\n\n" % json.dumps(error.openai()).encode()


def fastchat_event(error: RequestError) -> bytes:
    """An error as frame. The first NUL ends whatever frame was cut; every reader skips empty frames."""
    return b"\0%b\0" % json.dumps(error.fastchat()).encode()


def status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def field_value(text: str) -> bytes:
    """A text as a header field's value, percent-encoded where it is not plain ASCII; `unquote` undoes it."""
    return quote(text, safe="/:.,@+=-_~ ").encode() if not _is_plain(text) else text.encode()


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "%" not in text and text == text.strip()
