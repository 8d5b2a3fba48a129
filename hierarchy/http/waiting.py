"""What a client that waits for its first token is told meanwhile, so that nothing between us gives up. Pure.

The head goes out with the first comment, so whatever comes of the request, its status is 200: an error can only be an
event from then on. Attempts go on behind it.
"""

from __future__ import annotations

import msgspec

from hierarchy.errors import RequestError
from hierarchy.http import render
from hierarchy.http.dialect import Dialect
from hierarchy.http.request_head import Fields

EVERY_S = 15.0
END = b"0\r\n\r\n"


class _Wish(msgspec.Struct):
    stream: bool = False


_wish = msgspec.json.Decoder(_Wish).decode


def wants_stream(body: bytes, dialect: Dialect) -> bool:
    """Does the client expect a stream, whose form has a place for comments?"""
    if dialect.form != "events":
        return dialect.form == "frames"
    try:
        return _wish(body).stream
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def opening(dialect: Dialect, fields: Fields, *, http10: bool, close: bool) -> bytes:
    """The head of an answer of which nothing is known yet. fields: added as they are (date, server)."""
    own = [(b"content-type", dialect.stream_type), (b"cache-control", b"no-cache")]
    if not http10:
        own.append((b"transfer-encoding", b"chunked"))
    if close:
        own.append((b"connection", b"close"))
    return render.status_line(200) + b"".join(b"%b: %b\r\n" % field for field in [*fields, *own]) + b"\r\n"


def comment(dialect: Dialect, *, http10: bool) -> bytes:
    return _framed(dialect.comment, http10=http10)


def failed(error: RequestError, dialect: Dialect, *, http10: bool) -> bytes:
    """An error of our own ends it."""
    return _framed(dialect.error_event(error), http10=http10) + (b"" if http10 else END)


def refused(body: bytes, dialect: Dialect, *, http10: bool) -> bytes:
    """A child's own error answer ends it."""
    return _framed(dialect.as_event(body), http10=http10) + (b"" if http10 else END)


def _framed(data: bytes, *, http10: bool) -> bytes:
    return data if http10 else b"%x\r\n%b\r\n" % (len(data), data)
