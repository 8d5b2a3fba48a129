"""Where the body of a message ends: small trackers, pure functions of bytes (RFC 9112, section 6).

Each tracker has `feed(data) -> int`: how many bytes of `data` belong to this body. Fewer than given means that the
body ended inside; `done` says that it has ended. Nothing is copied or decoded: bodies pass unchanged.
`completion(filler)` returns what must still be sent after a cut, so that another chunk can follow in valid framing.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from hierarchy.errors import HierarchyError

MAX_LINE: Final = 4096  # bytes of a chunk's size line with its extensions, or of one trailer
MAX_TRAILERS: Final = 32 * 1024  # bytes of all trailers
MAX_FILL: Final = 1024 * 1024  # bytes; a cut chunk that lacks more is not completed
LAST_CHUNK: Final = b"0\r\n\r\n"
FIELD_PREFIX: Final = b"x-hierarchy-"  # of all fields and trailers that nodes write for each other
OUTCOME: Final = b"x-hierarchy-outcome"  # a trailer: how a response ended below, if not well
# The parser of the receiver may be stricter than RFC 9112, so everything unusual is refused here.
_SIZE_DIGITS: Final = re.compile(rb"[0-9A-Fa-f]{1,15}").fullmatch
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSIONS: Final = re.compile(rb"(?:;%b(?:=(?:%b|%b))?)+" % (_TOKEN, _TOKEN, _QUOTED)).fullmatch
# Trailers must not contain fields that frame the message (RFC 9110, section 6.5.1).
_TRAILER_LINE: Final = re.compile(
    rb"(?!(?i:content-length|transfer-encoding):)%b:[\t -~\x80-\xff]*\r\n" % _TOKEN
).fullmatch


class FramingError(HierarchyError):
    """The bytes break the rules of their framing."""

    valid_bytes = 0  # how many of the bytes given are valid; the tracker's state is the one behind them


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. It must not be empty, since an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Framing:
    """The interface of the three trackers."""

    __slots__ = ("closing", "done")

    def __init__(self, done: bool = False) -> None:
        self.done = done  # the body has ended
        self.closing = done  # nothing of the content follows: the body has ended, or its last chunk has begun

    def feed(self, data: bytes) -> int:
        """Accept the next bytes; returns how many of them belong to the body. Raises `FramingError`."""
        raise NotImplementedError

    def completion(self, filler: bytes) -> bytes | None:
        """Bytes that complete what was cut, so that another chunk can follow; None if that is impossible.

        filler: one byte, used as content where content is missing.
        """
        raise NotImplementedError


class Length(Framing):
    """Content-Length, or no body at all (0)."""

    __slots__ = ("remaining",)

    def __init__(self, length: int) -> None:
        super().__init__(length == 0)
        self.remaining = length  # bytes

    def feed(self, data: bytes) -> int:
        """Accept at most the remaining bytes."""
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return size
        taken, self.remaining = self.remaining, 0
        self.done = self.closing = True
        return taken

    def completion(self, filler: bytes) -> bytes | None:
        """None before the end: the rest could be filled up, but nothing could follow it."""
        return b"" if self.done else None


class UntilClose(Framing):
    """The body lasts until the connection closes."""

    __slots__ = ()

    def feed(self, data: bytes) -> int:
        """Accept everything."""
        return len(data)

    def completion(self, filler: bytes) -> bytes | None:
        """Nothing is missing: any byte may follow another."""
        return b""


# The states of a `Chunked` tracker: what comes next.
_SIZE: Final = 0
_DATA: Final = 1
_CR: Final = 2
_LF: Final = 3
_TRAILER: Final = 4
_END: Final = 5


class Chunked(Framing):
    """Transfer-Encoding: chunked. Strict: CRLF only, hexadecimal sizes of at most 15 digits without blanks around them,
    bounded lines, trailers that have the form of fields.

    Trailers that nodes write for each other are for this node alone: `outcome` has the value of the one that it knows.
    """

    __slots__ = ("_line", "_remaining", "_state", "_trailers", "outcome", "trailers", "trailers_at")

    def __init__(self) -> None:
        super().__init__()
        self.outcome = b""  # of the trailer `OUTCOME`
        self.trailers = b""  # the lines of all trailers that are not for this node alone
        self.trailers_at = 0  # once `closing`: where the trailers, or the empty line, begin in what was fed last
        self._state = _SIZE
        self._remaining = 0  # bytes of the current chunk's data
        self._line = b""  # the first part of a size line or trailer that is not complete
        self._trailers = 0  # bytes of trailers so far

    def feed(self, data: bytes) -> int:
        """Accept bytes up to the end of the trailers. Raises `FramingError`."""
        at = 0
        if self._state == _SIZE and not self._line:  # the most common case: whole chunks
            at = _whole_chunks(data)
        return at if at == len(data) else self._feed(data, at)

    def _feed(self, data: bytes, at: int) -> int:
        size = len(data)
        state = self._state
        self.trailers_at = 0
        try:
            while at < size:
                if state == _SIZE:
                    end = data.find(b"\r\n", at)
                    if end < 0 or self._line:
                        self._state = state
                        at = self._feed_line(data, at)
                        state = self._state
                        continue
                    self._remaining = _chunk_size(data[at:end])
                    at = end + 2
                    state = self._after_size(at)
                elif state == _DATA:
                    taken = min(self._remaining, size - at)
                    self._remaining -= taken
                    at += taken
                    if not self._remaining:
                        state = _CR
                elif state in (_CR, _LF):
                    if data[at] != (13 if state == _CR else 10):
                        raise FramingError("a chunk is not followed by CRLF")
                    at += 1
                    state = _LF if state == _CR else _SIZE
                elif state == _TRAILER:
                    self._state = state
                    at = self._feed_line(data, at)
                    state = self._state
                else:
                    break
        except FramingError as error:
            error.valid_bytes = at
            raise
        finally:
            self._state = state
        return at

    def _feed_line(self, data: bytes, at: int) -> int:
        """Accept a line that may arrive in parts. Returns where it ends in `data`; changes nothing if it raises."""
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        line = self._line + data[at:stop]
        if len(line) > MAX_LINE:
            raise FramingError(f"a chunk's size line or a trailer is longer than {MAX_LINE} bytes")
        if end < 0:
            self._line = line
            return stop
        if not line.endswith(b"\r\n"):
            raise FramingError("a line ends in LF without CR")
        if self._state == _SIZE:
            self._remaining = _chunk_size(line[:-2])
            self._state = self._after_size(stop)
        elif line == b"\r\n":
            self._state = _END
            self.done = True
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS:
                raise FramingError(f"trailers are longer than {MAX_TRAILERS} bytes")
            if not _TRAILER_LINE(line):
                raise FramingError(f"{line[:40]!r} is not a trailer")
            self._keep_trailer(line)
        self._line = b""
        return stop

    def _after_size(self, at: int) -> int:
        """The state behind the size line that ends at `at`."""
        if self._remaining:
            return _DATA
        self.closing = True
        self.trailers_at = at
        return _TRAILER

    def _keep_trailer(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        name = name.lower()
        if not name.startswith(FIELD_PREFIX):
            self.trailers += line
        elif name == OUTCOME:
            self.outcome = value.strip()

    def completion(self, filler: bytes) -> bytes | None:
        """The rest of the chunk that was cut; None behind the last chunk, or if more than `MAX_FILL` is missing."""
        if self._state == _SIZE:
            return self._completion_of_size(filler)
        if self._state == _DATA:
            return filler * self._remaining + b"\r\n" if self._remaining <= MAX_FILL else None
        if self._state == _CR:
            return b"\r\n"
        return b"\n" if self._state == _LF else None  # None: the last chunk has been sent

    def _completion_of_size(self, filler: bytes) -> bytes | None:
        line, rest = self._line, b"\r\n"
        if not line:
            return b""
        if line.endswith(b"\r"):
            line, rest = line[:-1], b"\n"
        elif line.strip(b"0") == b"":
            line, rest = line + b"1", b"1\r\n"  # the number may continue with any digit, so 1 will do
        elif b";" in line:
            return None  # inside an extension, whose grammar is not followed here
        try:
            size = _chunk_size(line)
        except FramingError:
            return None
        return rest + filler * size + b"\r\n" if 0 < size <= MAX_FILL else None


def _whole_chunks(data: bytes) -> int:
    """Where the whole chunks at the beginning of `data` end. A chunk with anything unusual is not counted as one."""
    at, size = 0, len(data)
    while at < size:
        end, last, length = at, min(at + 15, size), 0
        while end < last:
            digit = data[end]
            if 48 <= digit <= 57:
                length = 16 * length + digit - 48
            elif 97 <= digit <= 102:
                length = 16 * length + digit - 87
            elif 65 <= digit <= 70:
                length = 16 * length + digit - 55
            else:
                break
            end += 1
        stop = end + 2 + length
        if not length or stop + 2 > size:
            break
        if data[end] != 13 or data[end + 1] != 10 or data[stop] != 13 or data[stop + 1] != 10:
            break
        at = stop + 2
    return at


@functools.lru_cache(maxsize=256)  # engines write chunks of the same few sizes
def _chunk_size(line: bytes) -> int:
    if _SIZE_DIGITS(line):
        return int(line, 16)
    digits = line.partition(b";")[0]
    if _SIZE_DIGITS(digits) and _EXTENSIONS(line[len(digits) :]) and len(line) <= MAX_LINE:
        return int(digits, 16)
    raise FramingError(f"{line[:20]!r} is not a chunk size")


class Dechunker:
    """Removes chunk framing, for HTTP/1.0 clients, which do not know it.

    Its input has passed a `Chunked` tracker: nothing is checked again.
    """

    __slots__ = ("_line", "_remaining")

    def __init__(self) -> None:
        self._remaining = 0  # bytes of the current chunk's data and their CRLF; -1 behind the last chunk
        self._line = b""  # the first part of a size line that is not complete

    def feed(self, data: bytes) -> bytes:
        """The content of the next bytes of a chunked body."""
        out = []
        at = 0
        while at < len(data) and self._remaining >= 0:
            if self._remaining:
                taken = min(self._remaining, len(data) - at)
                out.append(data[at : at + max(0, min(taken, self._remaining - 2))])
                self._remaining -= taken
                at += taken
                continue
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end + 1
            self._line += data[at:stop]
            at = stop
            if end >= 0:
                size = int(self._line.partition(b";")[0], 16)
                self._line = b""
                self._remaining = size + 2 if size else -1
        return b"".join(out)
