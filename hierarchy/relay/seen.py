"""Requests whose heads have been seen before.

A client sends the same head with each request, but for its Content-Length; so does a parent, but for that, for its
x-hierarchy-seq and for the time that it leaves. What the strict parser and our own checks made of a head holds for the
same bytes again, so it is remembered, with those numbers cut out. A head that has not been seen, or that did not come
in one read, is parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from hierarchy.relay.attempts import MAX_ATTEMPTS, UNSAID
from hierarchy.relay.head import ATTEMPTS, AUTH, HOPS, MODEL, Fields, request_fields
from hierarchy.status import Api

MAX_KEPT, MAX_HEADS = 2048, 1024  # bytes of one head, heads
_NUMBERS = re.compile(
    rb"\r\n(?:x-hierarchy-seq: ([0-9]{1,18})\r\n(?:x-hierarchy-deadline-ms: ([0-9]{1,12})\r\n)?)?"
    rb"(?i:content-length): ([0-9]{1,15})\r\n"
).search


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a lane request's head means.

    target: for the child. fields: those that go on, ready to be written. auth, model, hops, attempts: a parent's, to be
    believed with the right secret only. within_limits: as they are for everyone but a parent.
    """

    api: Api
    target: bytes
    fields: bytes
    http10: bool
    keep_alive: bool
    expects: bool
    within_limits: bool
    auth: bytes
    model: str
    hops: int
    attempts: int = UNSAID

    @classmethod
    def of(
        cls,
        route: tuple[Api, bytes],
        fields: Fields,
        found: dict[bytes, bytes],
        *,
        http10: bool,
        keep_alive: bool,
        within_limits: bool,
    ) -> RequestHead:
        """From a parsed head. found: from `head.check_request`."""
        hops, attempts = found.get(HOPS, b""), found.get(ATTEMPTS, b"")
        return cls(
            *route,
            request_fields(fields),
            http10,
            keep_alive and not http10,
            not http10 and found.get(b"expect", b"").lower() == b"100-continue",
            within_limits,
            found.get(AUTH, b""),
            unquote(found.get(MODEL, b"").decode("ascii", "replace")),
            int(hops) if is_number(hops) else 0,
            min(max(1, int(attempts)), MAX_ATTEMPTS) if is_number(attempts) else UNSAID,
        )


class Split:
    """A read that begins with a whole head: the head without its numbers, and the numbers.

    seq: -1 if it has none. left_ms: of the time for the whole request; -1 if the head sets no limit.
    """

    __slots__ = ("end", "key", "left_ms", "length", "seq")

    def __init__(self, key: bytes, seq: int, left_ms: int, length: int, end: int) -> None:
        self.key = key
        self.seq = seq
        self.left_ms = left_ms
        self.length = length  # of the body
        self.end = end  # where the body begins


def split(data: bytes) -> Split | None:
    """None where there is no whole head with a Content-Length written in the usual way."""
    end = data.find(b"\r\n\r\n", 0, MAX_KEPT)
    if end < 0:
        return None
    found = _NUMBERS(data, 0, end + 2)
    if found is None:
        return None
    seq, left_ms, length = found.groups()
    begin, stop = found.span(3)
    if seq is None:
        return Split(b"%b%b" % (data[:begin], data[stop:end]), -1, -1, int(length), end + 4)
    before, after = found.span(1)
    if left_ms is None:
        key = b"%b%b%b" % (data[:before], data[after:begin], data[stop:end])
        return Split(key, int(seq), -1, int(length), end + 4)
    from_, to = found.span(2)
    key = b"%b%b%b%b" % (data[:before], data[after:from_], data[to:begin], data[stop:end])
    return Split(key, int(seq), int(left_ms), int(length), end + 4)


class Seen:
    """The heads that were parsed and taken, by `Split.key`."""

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def get(self, key: bytes) -> RequestHead | None:
        return self._heads.get(key)

    def add(self, key: bytes, head: RequestHead) -> None:
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()  # heads that never come again fill it; those that do are back at once
        self._heads[key] = head


def is_number(text: bytes) -> bool:
    """Decimal digits that fit into 64 bits."""
    return text.isdigit() and len(text) < 19
