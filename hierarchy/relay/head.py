"""Heads of requests and answers: what goes down, what comes back up. Pure functions of bytes.

Source: RFC 9110, section 7.6.1 (hop-by-hop fields), RFC 9112, section 6.3 (how long a message is).
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools

from hierarchy.errors import HierarchyError
from hierarchy.relay.framing import Chunked, Framing, Length, UntilClose

Fields = list[tuple[bytes, bytes]]  # names in lower case, as they came otherwise

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Each hop writes these itself: the body goes down collected, with one length, to another host.
_REWRITTEN = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
OURS = b"x-hierarchy-"
PATH, AUTH, SEQ, MODEL, HOPS = (OURS + name for name in (b"path", b"auth", b"seq", b"model", b"hops"))


class HeadError(HierarchyError):
    """A child's answer begins with something that is no HTTP head, or one whose length cannot be told."""


def _named_by_connection(fields: Fields) -> set[bytes]:
    values = [value for name, value in fields if name == b"connection"]
    return {token.strip().lower() for value in values for token in value.split(b",")} if values else set()


def request_fields(fields: Fields) -> bytes:
    """The client's fields that go on to a child, ready to be written: hop-by-hop ones and all of ours taken out."""
    drop = _named_by_connection(fields) | _REWRITTEN
    return b"".join(
        [b"%b: %b\r\n" % field for field in fields if field[0] not in drop and not field[0].startswith(OURS)]
    )


def request_head(target: bytes, authority: bytes, fields: bytes, length: int, ours: bytes = b"") -> bytes:
    """The head of a POST to a child.

    fields: from `request_fields`. ours: complete `name: value` lines of x-hierarchy-* fields.
    """
    return b"POST %b HTTP/1.1\r\nhost: %b\r\n%b%bcontent-length: %d\r\n\r\n" % (target, authority, fields, ours, length)


class Answer:
    """The head of a child's answer.

    framing: tracks where its body ends. keep_alive: the connection can serve another request. idle_s, uses_left: what
    its Keep-Alive field promised, or None. path: the child's own x-hierarchy-path.
    """

    __slots__ = ("_parser", "fields", "framing", "idle_s", "keep_alive", "path", "reason", "status", "uses_left")

    def __init__(self, head: bytes) -> None:
        """Parse `head`, which ends in an empty line. The answer is to a POST.

        Raises:
            HeadError: it is malformed, or an interim (1xx) answer other than those that may be skipped.
        """
        self.reason = b""
        self.fields: Fields = []
        self.idle_s: float | None = None
        self.uses_left: int | None = None
        self.path = b""
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise HeadError(f"the answer's head is malformed: {error}") from None
        self.status: int = parser.get_status_code()
        self.keep_alive: bool = parser.should_keep_alive()
        self.framing = self._framing()

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == PATH:
            self.path = value
        elif name == b"keep-alive":
            self._promise(value)
        self.fields.append((name, value))

    def get(self, name: bytes) -> bytes:
        """The first field of that name, or empty."""
        return next((value for field, value in self.fields if field == name), b"")

    @property
    def interim(self) -> bool:
        """1xx: another head follows."""
        return self.status < 200

    @property
    def is_event_stream(self) -> bool:
        return self.get(b"content-type").lower().startswith(b"text/event-stream")

    def _promise(self, value: bytes) -> None:
        for item in value.split(b","):
            key, _, number = item.strip().partition(b"=")
            if number.isdigit():
                if key == b"timeout":
                    self.idle_s = float(number)
                elif key == b"max":
                    self.uses_left = int(number)

    def _framing(self) -> Framing:
        # llhttp has already refused a length beside a transfer coding, and lengths that differ.
        if self.status < 200 or self.status in (204, 304):
            return Length(0)
        length = None
        for name, value in self.fields:
            if name == b"transfer-encoding":
                if value.strip().lower() == b"chunked":
                    return Chunked()
                raise HeadError(f"transfer-encoding {value[:40]!r} is not supported; only chunked is")
            if name == b"content-length":
                length = value
        if length is None:
            return UntilClose()
        return Length(int(length))

    def forward(self, *, path: bytes, framing: bytes | None, close: bool) -> bytes:
        """The head that goes up to the client.

        path: our x-hierarchy-path. framing: a `name: value` line that replaces the answer's own framing, b"" for none
        at all (until close), None to pass it as it is. close: say that the connection ends with this answer.
        """
        drop: set[bytes] | frozenset[bytes] = HOP_BY_HOP
        named = _named_by_connection(self.fields)
        if named:
            drop = drop | (named - {b"content-length", b"content-type"})
        if framing is not None:
            drop = drop | {b"content-length"}
        lines = [
            b"%b: %b\r\n" % field for field in self.fields if field[0] not in drop and not field[0].startswith(OURS)
        ]
        if framing is not None:
            lines.append(framing)
        elif isinstance(self.framing, Chunked):
            lines.append(b"transfer-encoding: chunked\r\n")
        if close:
            lines.append(b"connection: close\r\n")
        return b"HTTP/1.1 %d %b\r\n%bx-hierarchy-path: %b\r\n\r\n" % (self.status, self.reason, b"".join(lines), path)


def head_end(data: bytes) -> int:
    """Where the head at the start of `data` ends (after its empty line); -1 if not yet."""
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1


def plain_answer(status_line: bytes, fields: Iterable[tuple[bytes, bytes]], body: bytes, *, close: bool) -> bytes:
    """A whole answer of our own."""
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    end = b"connection: close\r\n" if close else b""
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (status_line, lines, len(body), end, body)
