"""The head of a child's response: what it says of the body, and which of its fields are forwarded. Pure.

Engines send the same head again and again, except for its length and, once a second, its date. So the parsed head (a
`ResponseHead`) is cached, with the length cut out; an `UpstreamResponse` adds the length and framing of one response.

Source: RFC 9110, section 7.6.1 (hop-by-hop fields); RFC 9112, section 6.3 (the length of a message).
"""

from __future__ import annotations

import functools
import re
from http import HTTPStatus
from typing import Final, Literal

import httptools

from hierarchy.http.framing import FIELD_PREFIX, Chunked, Framing, Length, UntilClose
from hierarchy.http.request_head import (
    HOP_BY_HOP,
    PATH,
    RETRIED,
    UNSPENT,
    Fields,
    HeadError,
    decimal,
    named_by_connection,
    number_at,
)

#: what a response's body claims to be, if it is worth a look (`response_check`)
UNCHECKED: Final = 0
JSON: Final = 1
EVENTS: Final = 2
PAGE: Final = 3
MAX_CACHED: Final = 2048  # bytes; a longer head is not cached
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_LENGTH: Final = re.compile(rb"\r\n(?i:content-length): ([0-9]{1,15})\r\n").search


class UpstreamResponse:
    """One response of a child: its head, its length, and the tracker of where its body ends."""

    __slots__ = ("after", "before", "framing", "head", "length", "ordinary_head")

    def __init__(self, data: bytes) -> None:
        """Parse `data`, a head that ends in an empty line.

        Raises:
            HeadError: it is malformed, or switches protocols, which this node never requests.
        """
        found = _LENGTH(data)
        self.length = 0  # bytes of the body, if its framing is a length
        # The head's bytes before and after the length; without a length, `before` is the whole head.
        self.before, self.after = data, b""
        if found is not None:
            self.length = int(found[1])
            self.before, self.after = data[: found.start(1)], data[found.end(1) :]
            data = b"%b0%b" % (self.before, self.after)
        self.head = head = _parsed(data) if len(data) <= MAX_CACHED else ResponseHead(data)
        if found is None:  # no length, or one that is written in an unusual way
            self.length = head.length
        self.framing = self.new_framing()
        # What `forward` made of an ordinary head for a connection that stays open, up to the length; b"" before that.
        self.ordinary_head = b""

    def repeats(self, data: bytes) -> int:
        """Where the body begins if `data` starts with the same head again, whatever its length; 0 for another head.

        Takes over the new length; `framing` is unchanged. A connection mostly brings the same head again and again,
        and comparing bytes is cheaper than a look-up.
        """
        if not data.startswith(self.before):
            return 0
        begin, after = len(self.before), self.after
        if not after:
            return begin
        length, stop = number_at(data, begin, 15)
        end = stop + len(after)
        if length < 0 or data[stop:end] != after:
            return 0
        self.length = length
        return end

    def new_framing(self) -> Framing:
        """A tracker at the beginning of the body."""
        kind = self.head.kind
        if kind == "length":
            return Length(self.length)
        return Chunked() if kind == "chunked" else Length(0) if kind == "none" else UntilClose()

    def forward(self, *, path: bytes, framing: bytes | None, close: bool, parent_lines: bytes = b"") -> bytes:
        """The head as the client, or the parent, receives it.

        path: the value of x-hierarchy-path. framing: a `name: value` line that replaces the response's own framing; b""
        for no framing (until close), None to keep it. close: add `connection: close`. parent_lines: complete
        `name: value` lines for a parent.
        """
        head = self.head.forward(path, framing, close) + parent_lines
        ordinary = self.head.is_ordinary and framing is None and not close and not parent_lines
        if framing is not None or not self.head.has_length:
            head += b"\r\n"
            if ordinary:
                self.ordinary_head = head
            return head
        head += b"content-length: "
        if ordinary:
            self.ordinary_head = head
        return b"%b%d\r\n\r\n" % (head, self.length)


class ResponseHead:
    """The meaning of the bytes of a head, whatever the number in its Content-Length."""

    def __init__(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1."):
            raise HeadError(f"the response begins with {data[:20]!r}")
        self.reason = b""
        self.fields: Fields = []
        # What the Keep-Alive field promises; None if it does not.
        self.idle_s: float | None = None
        self.uses_left: int | None = None
        self.path = b""  # the child's own x-hierarchy-path
        self.unspent: int | None = None  # attempts that come back with a failure
        self.retried = 0  # attempts after the first one, below
        self.length = 0
        self._forwarded: dict[tuple[bytes, bytes | None, bool], bytes] = {}
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise HeadError(f"the response's head is malformed: {error}") from None
        self.status: int = parser.get_status_code()
        if self.status < 100 or (self.reason != b"OK" and _CONTROL(self.reason)):
            raise HeadError(f"the response's status line is malformed: {self.status} {self.reason[:40]!r}")
        self.interim = self.status < 200  # another head follows
        # A failure is the child's fault. After a 501 the engine is well: it was not started for this kind of request.
        self.is_failure = self.status >= 500 and self.status != HTTPStatus.NOT_IMPLEMENTED
        # Nothing but forwarding has to be done: not a failure, no attempts to count.
        self.is_ordinary = not self.is_failure and not self._was_retried()
        self.kind = self._kind()  # of framing
        self._named = named_by_connection(self.fields)
        # Not the parser's own answer, which is wrong once a message without a body is complete.
        is_persistent = parser.get_http_version() == "1.1" or (
            b"keep-alive" in self._named and self.kind != "chunked"  # which HTTP/1.0 does not know
        )
        # The connection can serve another request.
        self.keep_alive = is_persistent and b"close" not in self._named and self.kind != "until-close"
        self.media_type = self._get(b"content-type").partition(b";")[0].strip().lower()
        self.is_event_stream = self.media_type.startswith(b"text/event-stream")
        coding = self._get(b"content-encoding").strip().lower()
        self.coding = b"" if coding == b"identity" else coding  # of the content, such as gzip
        # Not compressed, so that this node can add bytes of its own.
        self.is_plain = not self.coding
        self.form = self._form()
        # A 204 has no length (RFC 9110, section 8.6), even if the engine sends one.
        self.has_length = self.status != 204 and any(name == b"content-length" for name, _ in self.fields)

    # -- callbacks of the parser -----------------------------------------------------------------------------

    def on_status(self, reason: bytes) -> None:
        """Part of the reason phrase."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field."""
        name = name.lower()
        if name == PATH:
            self.path = value
        elif name in (UNSPENT, RETRIED):
            count = decimal(value, 3)
            if count >= 0:
                if name == UNSPENT:
                    self.unspent = count
                else:
                    self.retried = count
        elif name == b"keep-alive":
            self._read_keep_alive(value)
        elif name == b"content-length":
            self.length = int(value)
        self.fields.append((name, value))

    def on_body(self, data: bytes) -> None:
        """The parser found the end of the head earlier than `head_end` did."""
        raise HeadError("there are bytes behind its end")

    # -- inside ----------------------------------------------------------------------------------------------

    def _was_retried(self) -> bool:
        """A method, since the parser's callbacks change what `__init__` has assigned, which mypy does not know."""
        return self.unspent is not None or self.retried > 0

    def _get(self, name: bytes) -> bytes:
        return next((value for field, value in self.fields if field == name), b"")

    def _read_keep_alive(self, value: bytes) -> None:
        for item in value.split(b","):
            key, _, text = item.strip().lower().partition(b"=")
            number = decimal(text, 9)
            if number >= 0:
                if key == b"timeout":
                    self.idle_s = float(number)
                elif key == b"max":
                    self.uses_left = number

    def _form(self) -> int:
        """What its body claims to be: `UNCHECKED`, `JSON`, `EVENTS` or `PAGE`."""
        if self.status != HTTPStatus.OK or not self.is_plain:
            return UNCHECKED
        kind = self.media_type
        if kind == b"text/html":
            return PAGE
        return EVENTS if self.is_event_stream else JSON if kind == b"application/json" else UNCHECKED

    def _kind(self) -> Literal["none", "length", "chunked", "until-close"]:
        # llhttp has already refused a length beside a transfer coding, and lengths that differ.
        if self.status < 200 or self.status in (204, 304):
            return "none"
        kind: Literal["length", "chunked", "until-close"] = "until-close"
        for name, value in self.fields:
            if name == b"transfer-encoding":
                if kind == "chunked" or value.strip().lower() != b"chunked":
                    raise HeadError(f"transfer-encoding {value[:40]!r} is not supported; only chunked is, once")
                kind = "chunked"
            elif name == b"content-length":
                kind = "length"
        return kind

    def forward(self, path: bytes, framing: bytes | None, close: bool) -> bytes:
        """The lines that are forwarded, without Content-Length and the empty line at the end."""
        known = self._forwarded.get((path, framing, close))
        if known is not None:
            return known
        drop = HOP_BY_HOP | {b"content-length"} | (self._named - {b"content-type"})
        lines = [
            b"%b: %b\r\n" % field
            for field in self.fields
            if field[0] not in drop and not field[0].startswith(FIELD_PREFIX)
        ]
        if framing is not None:
            lines.append(framing)
        elif self.kind == "chunked":
            lines.append(b"transfer-encoding: chunked\r\n")
        if close:
            lines.append(b"connection: close\r\n")
        head = b"HTTP/1.1 %d %b\r\n%bx-hierarchy-path: %b\r\n" % (self.status, self.reason, b"".join(lines), path)
        if len(self._forwarded) < 64:
            self._forwarded[path, framing, close] = head
        return head


_parsed = functools.lru_cache(maxsize=512)(ResponseHead)
