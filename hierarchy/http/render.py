"""Whole answers of our own: errors in the dialect of whoever asked, and good ones."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

from hierarchy.errors import RequestError
from hierarchy.http.dialect import Dialect
from hierarchy.http.request_head import Fields, plain_answer


def error_answer(error: RequestError, dialect: Dialect, fields: Fields, *, close: bool) -> bytes:
    """A whole answer. fields: added as they are (date, server)."""
    own = [(b"content-type", b"application/octet-stream" if dialect.form == "frames" else b"application/json")]
    status = error.status
    if dialect.always_ok:
        status = 200
    else:
        if error.retry_after_s is not None:
            own.append((b"retry-after", b"%d" % error.retry_after_s))
        if status == 401:
            own.append((b"www-authenticate", b"Bearer"))
    return plain_answer(status_line(status), [*fields, *own], dialect.error(error), close=close)


def json_answer(body: bytes, fields: Fields, *, close: bool) -> bytes:
    """A good answer of our own."""
    return plain_answer(status_line(200), [*fields, (b"content-type", b"application/json")], body, close=close)


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
