"""Responses that this node writes itself: errors, JSON, and the end of a stream that was cut. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from hierarchy.errors import RequestError
from hierarchy.http.dialect import Dialect
from hierarchy.http.framing import LAST_CHUNK, OUTCOME, Length, chunk
from hierarchy.http.request_head import Fields
from hierarchy.http.response_head import UpstreamResponse

_SAFE: Final = "/:.,@+=-_~"  # characters that `field_value` leaves as they are


# -- whole responses -----------------------------------------------------------------------------------------


def error_response(error: RequestError, dialect: Dialect, fields: Fields, *, close: bool) -> bytes:
    """A whole response that is an error, as clients of this dialect expect it.

    fields: added unchanged (date, server).
    """
    own = [(b"content-type", b"application/octet-stream" if dialect.form == "frames" else b"application/json")]
    if error.retry_after_s is not None:
        own.append((b"retry-after", b"%d" % error.retry_after_s))
    status = 200 if dialect.always_ok else error.status
    if status == 401:
        own.append((b"www-authenticate", b"Bearer"))
    return plain_response(status_line(status), [*fields, *own], dialect.error(error), close=close)


def json_response(body: bytes, fields: Fields, *, close: bool) -> bytes:
    """A whole response with status 200 and a JSON body. fields: added unchanged (date, server)."""
    return plain_response(status_line(200), [*fields, (b"content-type", b"application/json")], body, close=close)


def plain_response(status_line: bytes, fields: Iterable[tuple[bytes, bytes]], body: bytes, *, close: bool) -> bytes:
    """A whole response: head, Content-Length and body. close: add `connection: close`."""
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    end = b"connection: close\r\n" if close else b""
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (status_line, lines, len(body), end, body)


def status_line(status: int) -> bytes:
    """The first line of a response, CRLF included; its reason phrase is empty if the status is unknown."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def field_value(text: str) -> bytes:
    """A text as the value of a header field, percent-encoded where it is not plain ASCII; `unquote` reverses it."""
    if text != text.strip():  # readers of fields remove blanks at both ends, so these have to be encoded too
        return quote(text, safe=_SAFE).encode()
    if text.isascii() and text.isprintable() and "%" not in text:
        return text.encode()
    return quote(text, safe=_SAFE + " ").encode()


# -- the end of a response that was cut ----------------------------------------------------------------------


def outcome_trailer(outcome: str) -> bytes:
    """The line that tells a parent how a chunked response ended, if not well."""
    return b"%b: %b\r\n" % (OUTCOME, outcome.encode())


def last_chunk(trailer: bytes = b"") -> bytes:
    """The end of a chunked body. trailer: a complete line."""
    return b"0\r\n%b\r\n" % trailer if trailer else LAST_CHUNK


def error_tail(
    error: RequestError,
    dialect: Dialect,
    response: UpstreamResponse,
    *,
    rechunked: bool,
    raw: bool,
    trailer: bytes = b"",
    promised: bool = False,
) -> bytes | None:
    """The bytes that end a started stream with an error event; None if the response has no place for one.

    rechunked: this node frames the body in chunks of its own. raw: the client receives no framing at all, until the
    connection closes. trailer: a line for a parent. promised: its head is this node's own, and so is its form.
    """
    head = response.head
    in_form = head.is_plain and (head.is_event_stream if dialect.form == "events" else dialect.form == "frames")
    if not (promised or in_form):
        return None
    event = dialect.error_event(error)
    if rechunked:
        return chunk(event) + last_chunk(trailer)
    if raw:
        return event
    if isinstance(response.framing, Length):
        return None
    completion = response.framing.completion(dialect.filler)
    return None if completion is None else completion + chunk(event) + last_chunk(trailer)
