"""What a client that waits for its first token is told meanwhile, so that nothing between us gives up. Pure.

The head goes out with the first comment, so whatever comes of the request, its status is 200: an error can only be an
event from then on. Attempts go on behind it.

Source: HTML standard, server-sent events (lines that begin with a colon are ignored); FastChat's readers skip empty
frames.
"""

from __future__ import annotations

import msgspec

from hierarchy.errors import RequestError
from hierarchy.relay import render
from hierarchy.relay.head import Fields
from hierarchy.status import Api

EVERY_S = 15.0
COMMENTS: dict[Api, bytes] = {"openai": b": waiting\n\n", "fastchat": b"\0"}
TYPES: dict[Api, bytes] = {"openai": b"text/event-stream; charset=utf-8", "fastchat": b"application/octet-stream"}
END = b"0\r\n\r\n"


class _Wish(msgspec.Struct):
    stream: bool = False


_wish = msgspec.json.Decoder(_Wish).decode


def wants_stream(body: bytes, api: Api) -> bool:
    """Does the client expect a stream, whose form has a place for comments?"""
    if api == "fastchat":
        return True
    try:
        return _wish(body).stream
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def opening(api: Api, fields: Fields, *, http10: bool, close: bool) -> bytes:
    """The head of an answer of which nothing is known yet. fields: added as they are (date, server)."""
    own = [(b"content-type", TYPES[api]), (b"cache-control", b"no-cache")]
    if not http10:
        own.append((b"transfer-encoding", b"chunked"))
    if close:
        own.append((b"connection", b"close"))
    return render.status_line(200) + b"".join(b"%b: %b\r\n" % field for field in [*fields, *own]) + b"\r\n"


def comment(api: Api, *, http10: bool) -> bytes:
    return _framed(COMMENTS[api], http10=http10)


def failed(error: RequestError, api: Api, *, http10: bool) -> bytes:
    """An error of our own ends it."""
    event = render.fastchat_event(error) if api == "fastchat" else render.sse_event(error)
    return _framed(event, http10=http10) + (b"" if http10 else END)


def refused(body: bytes, api: Api, *, http10: bool) -> bytes:
    """A child's own error answer ends it: an object for OpenAI's clients, a frame for FastChat's."""
    if api == "fastchat":
        event = b"\0%b\0" % body.strip(b"\0")
    else:
        event = b"\n\nevent: error\ndata: %b\n\n" % b" ".join(body.split())
    return _framed(event, http10=http10) + (b"" if http10 else END)


def _framed(data: bytes, *, http10: bool) -> bytes:
    return data if http10 else b"%x\r\n%b\r\n" % (len(data), data)
