"""Request heads that were seen before.

A client sends the same head with each request, but for its Content-Length; so does a parent, but for that, its
x-hierarchy-seq, what the prompt begins with, and the time that it leaves. What the strict parser and this node's checks
made of a head holds for the same bytes again, so it is cached, without those. A head that is new, or did not come in
one read, is parsed.
"""

from __future__ import annotations

import re
from typing import Final

from hierarchy.http.request_head import RequestHead, number_at

MAX_KEPT: Final = 2560  # bytes of one head
MAX_PREFIX: Final = 512  # bytes of the value of x-hierarchy-prefix, its line's end included
_PREFIX_LINE: Final = b"\r\nx-hierarchy-prefix: "
MAX_HEADS: Final = 4096  # each child's reports have one of their own
_NUMBERS: Final = re.compile(
    rb"\r\n(?:x-hierarchy-seq: ([0-9]{1,18})\r\n(?:x-hierarchy-prefix: ([A-Za-z0-9_;-]{1,400})\r\n)?"
    rb"(?:x-hierarchy-deadline-ms: ([0-9]{1,12})\r\n)?)?"
    rb"(?i:content-length): ([0-9]{1,15})\r\n"
).search


class Split:
    """A read that begins with a whole head: the bytes around its numbers, and the numbers."""

    __slots__ = ("after", "before", "between", "end", "era", "head", "left_ms", "length", "prefix", "seq")

    def __init__(self, before: bytes, seq: int, between: bytes, length: int, after: bytes, end: int) -> None:
        # All of the head but the numbers; without a `seq`, `between` is empty.
        self.before = before
        self.between = between
        self.after = after
        self.seq = seq  # the request's number, if a parent sends it; else -1
        self.prefix = b""  # what the prompt begins with, if a parent says so
        self.left_ms = -1  # of the time for the whole request; -1: the head sets no limit
        self.length = length  # of the body
        self.end = end  # where the body begins
        self.head: RequestHead | None = None  # what the parser made of it, if it was ever accepted
        self.era = 0  # of the `HeadCache`

    @property
    def key(self) -> bytes:
        """The head without its numbers."""
        return b"%b%b%b" % (self.before, self.between, self.after)

    def repeats(self, data: bytes) -> bool:
        """Does `data` begin with this head again, whatever its numbers? Then they are taken over.

        A connection mostly brings the same head again and again, and comparing bytes is cheaper than a look-up.
        """
        if self.left_ms >= 0 or not data.startswith(self.before):
            return False  # limits on whole requests are rare, and have a third number
        between, after, at, seq, prefix = self.between, self.after, len(self.before), -1, b""
        if between:
            seq, stop = number_at(data, at, 18)
            begin = stop + len(_PREFIX_LINE)
            if data[stop:begin] == _PREFIX_LINE:
                stop = data.find(b"\r\n", begin, begin + MAX_PREFIX)
                if stop < 0:
                    return False
                prefix = data[begin:stop]
            at = stop + len(between)
            if seq < 0 or data[stop:at] != between:
                return False
        length, stop = number_at(data, at, 15)
        end = stop + len(after)
        if length < 0 or data[stop:end] != after:
            return False
        self.seq, self.length, self.end, self.prefix = seq, length, end, prefix
        return True


def split(data: bytes) -> Split | None:
    """Cut the numbers out of the head at the start of a read. None if it is not whole, or has an unusual length."""
    end = data.find(b"\r\n\r\n", 0, MAX_KEPT)
    if end < 0:
        return None
    end += 4
    found = _NUMBERS(data, 0, end - 2)
    if found is None:
        return None
    seq, prefix, left_ms, length = found.groups()
    begin, stop = found.span(4)
    if seq is None:
        return Split(data[:begin], -1, b"", int(length), data[stop:end], end)
    before, after = found.span(1)
    if prefix is not None:
        after = found.end(2)  # its whole line is left out, since not each request has one
    if left_ms is None:
        parent = Split(data[:before], int(seq), data[after:begin], int(length), data[stop:end], end)
    else:
        between = data[after : found.start(3)] + data[found.end(3) : begin]
        parent = Split(data[:before], int(seq), between, int(length), data[stop:end], end)
        parent.left_ms = int(left_ms)
    parent.prefix = prefix or b""
    return parent


class HeadCache:
    """The heads that were parsed and accepted, by `Split.key`."""

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}
        self._era = 0

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, data: bytes, last: Split | None) -> Split | None:
        """The head at the start of a read, with its meaning if it was accepted before; None if it is not whole.

        last: what was found on the same connection before. Most reads repeat it; then it is changed and returned.
        """
        if last is not None and last.era == self._era and last.repeats(data):
            return last
        found = split(data)
        if found is not None:
            found.era = self._era
            found.head = self._heads.get(found.key)
        return found

    def add(self, found: Split, head: RequestHead) -> None:
        """Keep what the parser made of a head."""
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()  # heads that never come again fill it; those that do are back at once
        self._heads[found.key] = found.head = head

    def forget_old(self) -> None:
        """Make room for those of today: a head that comes again is parsed once more."""
        self._heads.clear()

    def forget(self) -> None:
        """The meaning of heads has changed (other keys): parse each of them again."""
        self._heads.clear()
        self._era += 1
