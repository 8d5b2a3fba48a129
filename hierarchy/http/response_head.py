"""The head of a child's answer: what it says of its body, and what goes up of it. Pure functions of bytes.

Engines send the same head again and again, but for its length and, once a second, its date. So what the parser made of
one is remembered (`AnswerHead`), with the length cut out; an `Answer` adds the length and the framing of one answer.

Source: RFC 9110, section 7.6.1 (hop-by-hop fields); RFC 9112, section 6.3 (how long a message is).
"""

from __future__ import annotations

import functools
import re
from http import HTTPStatus
from typing import Final, Literal

import httptools

from hierarchy.http.framing import Chunked, Framing, Length, UntilClose
from hierarchy.http.request_head import (
    HOP_BY_HOP,
    OURS,
    PATH,
    RETRIED,
    UNSPENT,
    Fields,
    HeadError,
    named_by_connection,
    number_at,
)

MAX_KEPT: Final = 2048  # bytes of a head that is remembered
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_LENGTH: Final = re.compile(rb"\r\n(?i:content-length): ([0-9]{1,15})\r\n").search


class Answer:
    """One answer to a POST: its head, its length, and the tracker of where its body ends.

    before, after: what stands around the length in the head's bytes; without a length, `before` is all of it.
    usual: what `forward` made of a plain-sailing head for a connection that goes on, up to the length; b"" before that.
    """

    __slots__ = ("after", "before", "framing", "head", "length", "usual")

    def __init__(self, data: bytes) -> None:
        """Parse `data`, a head that ends in an empty line.

        Raises:
            HeadError: it is malformed, or switches protocols, which nobody asked for.
        """
        found = _LENGTH(data)
        self.length = 0
        self.before, self.after = data, b""
        if found is not None:
            self.length = int(found[1])
            self.before, self.after = data[: found.start(1)], data[found.end(1) :]
            data = b"%b0%b" % (self.before, self.after)
        self.head = head = _parsed(data) if len(data) <= MAX_KEPT else AnswerHead(data)
        if found is None:  # none, or written in an unusual way
            self.length = head.length
        self.framing = self.new_framing()
        self.usual = b""

    def repeated(self, data: bytes) -> int:
        """Is the head at the start of `data` this one again, whatever its length? Then that length is taken over.

        Returns where its body begins, 0 for another head. One connection mostly brings the same head again and again,
        which comparing bytes tells more cheaply than looking it up. `framing` is left as it is.
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
        """A tracker at the body's beginning."""
        kind = self.head.kind
        if kind == "length":
            return Length(self.length)
        return Chunked() if kind == "chunked" else Length(0) if kind == "none" else UntilClose()

    def forward(self, *, path: bytes, framing: bytes | None, close: bool, ours: bytes = b"") -> bytes:
        """The head that goes up to the client.

        path: our x-hierarchy-path. ours: complete `name: value` lines for a parent. framing: a `name: value` line that
        replaces the answer's own framing, b"" for none at all (until close), None to pass it as it is. close: say that
        the connection ends with this answer.
        """
        head = self.head.forward(path, framing, close) + ours
        usual = self.head.plain_sailing and framing is None and not close and not ours
        if framing is not None or not self.head.has_length:
            head += b"\r\n"
            if usual:
                self.usual = head
            return head
        head += b"content-length: "
        if usual:
            self.usual = head
        return b"%b%d\r\n\r\n" % (head, self.length)


class AnswerHead:
    """What the bytes of a head mean, whatever number stands in its Content-Length.

    kind: of framing. keep_alive: the connection can serve another request. idle_s, uses_left: what its Keep-Alive field
    promised, or None. path: the child's own x-hierarchy-path. unspent: attempts that come back with a failure, or None.
    retried: how often it was tried anew below. failed: by the fault of who answered. plain_sailing: none of the 3.
    interim: 1xx, another head follows. is_plain: not compressed, so that bytes of ours can be put behind its own.
    """

    def __init__(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1."):
            raise HeadError(f"the answer begins with {data[:20]!r}")
        self.reason = b""
        self.fields: Fields = []
        self.idle_s: float | None = None
        self.uses_left: int | None = None
        self.path = b""
        self.unspent: int | None = None
        self.retried = 0
        self.length = 0
        self._forwarded: dict[tuple[bytes, bytes | None, bool], bytes] = {}
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise HeadError(f"the answer's head is malformed: {error}") from None
        self.status: int = parser.get_status_code()
        if self.status < 100 or (self.reason != b"OK" and _CONTROL(self.reason)):
            raise HeadError(f"the answer's status line is malformed: {self.status} {self.reason[:40]!r}")
        self.interim = self.status < 200
        # A 501 says that the engine was not started for what was asked: nothing is wrong with it.
        self.failed = self.status >= 500 and self.status != HTTPStatus.NOT_IMPLEMENTED
        self.plain_sailing = not self.failed and not self._was_retried()
        self.kind = self._kind()
        self._named = named_by_connection(self.fields)
        # Not the parser's own word, which is wrong once a message without a body is complete.
        asked = parser.get_http_version() == "1.1" or (
            b"keep-alive" in self._named and self.kind != "chunked"  # which HTTP/1.0 does not know
        )
        self.keep_alive = asked and b"close" not in self._named and self.kind != "until-close"
        self.is_event_stream = self._get(b"content-type").lower().startswith(b"text/event-stream")
        self.is_plain = self._get(b"content-encoding").strip().lower() in (b"", b"identity")
        # A 204 has no length (RFC 9110, section 8.6), even if the engine thinks so.
        self.has_length = self.status != 204 and any(name == b"content-length" for name, _ in self.fields)

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == PATH:
            self.path = value
        elif name in (UNSPENT, RETRIED):
            if value.isdigit() and len(value) < 4:
                if name == UNSPENT:
                    self.unspent = int(value)
                else:
                    self.retried = int(value)
        elif name == b"keep-alive":
            self._promise(value)
        elif name == b"content-length":
            self.length = int(value)
        self.fields.append((name, value))

    def on_body(self, data: bytes) -> None:
        raise HeadError("bytes stand behind its end")

    def _was_retried(self) -> bool:
        """Asked after the parser's callbacks, which change what `__init__` has assigned."""
        return self.unspent is not None or self.retried > 0

    def _get(self, name: bytes) -> bytes:
        return next((value for field, value in self.fields if field == name), b"")

    def _promise(self, value: bytes) -> None:
        for item in value.split(b","):
            key, _, number = item.strip().lower().partition(b"=")
            if number.isdigit() and len(number) < 10:
                if key == b"timeout":
                    self.idle_s = float(number)
                elif key == b"max":
                    self.uses_left = int(number)

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
        """The lines that go up, without Content-Length and the empty line at the end."""
        known = self._forwarded.get((path, framing, close))
        if known is not None:
            return known
        drop = HOP_BY_HOP | {b"content-length"} | (self._named - {b"content-type"})
        lines = [
            b"%b: %b\r\n" % field for field in self.fields if field[0] not in drop and not field[0].startswith(OURS)
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


_parsed = functools.lru_cache(maxsize=512)(AnswerHead)
