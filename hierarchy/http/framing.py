"""Where the body of a message ends: small trackers, pure functions of bytes (RFC 9112, section 6).

Each tracker has `feed(data) -> int`: how many bytes of `data` belong to this body. Fewer than given means that the
body ended inside; `done` says that it has ended. Nothing is copied or decoded: bodies pass unchanged.
`completion(filler)` returns what must still be sent after a cut, so that new bytes can follow in valid framing.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from hierarchy.errors import HierarchyError

MAX_LINE: Final = 4096  # of a chunk's size line with its extensions, or of one trailer
MAX_TRAILERS: Final = 32 * 1024
MAX_FILL: Final = 1024 * 1024  # a chunk cut with more than this missing is not filled up
LAST_CHUNK: Final = b"0\r\n\r\n"
# The parser of the receiver may be stricter than RFC 9112: what is unusual is refused here, not there.
_SIZE_DIGITS: Final = re.compile(rb"[0-9A-Fa-f]{1,15}").fullmatch
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSIONS: Final = re.compile(rb"(?:;%b(?:=(?:%b|%b))?)+" % (_TOKEN, _TOKEN, _QUOTED)).fullmatch
# Trailers must not contain fields that frame the message (RFC 9110, section 6.5.1).
_TRAILER_LINE: Final = re.compile(
    rb"(?!(?i:content-length|transfer-encoding):)%b:[\t -~\x80-\xff]*\r\n" % _TOKEN
).fullmatch


class FramingError(HierarchyError):
    """The bytes break the rules of their framing. Messages say which rule."""

    good = 0  # how many of the bytes given came before the error; the tracker's state is the one after them


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. It must not be empty: that would be the last chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Framing:
    """What the three trackers have in common."""

    __slots__ = ("done",)

    def __init__(self, done: bool = False) -> None:
        self.done = done

    def feed(self, data: bytes) -> int:
        """Accept the next bytes; returns how many of them belong to the body. Raises `FramingError`."""
        raise NotImplementedError

    def completion(self, filler: bytes) -> bytes | None:
        """Bytes that complete a body that was cut, so that a chunk can follow; None if that is impossible.

        filler: one byte, used as content where content is missing.
        """
        raise NotImplementedError


class Length(Framing):
    """Content-Length, or no body at all (0)."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        super().__init__(length == 0)
        self.left = length

    def feed(self, data: bytes) -> int:
        size = len(data)
        if size < self.left:
            self.left -= size
            return size
        taken, self.left, self.done = self.left, 0, True
        return taken

    def completion(self, filler: bytes) -> bytes | None:
        return b"" if self.done else None


class UntilClose(Framing):
    """The body lasts until the connection closes."""

    __slots__ = ()

    def feed(self, data: bytes) -> int:
        return len(data)

    def completion(self, filler: bytes) -> bytes | None:
        return b""


# The states of a `Chunked` tracker: what comes next.
_SIZE: Final = 0
_DATA: Final = 1
_CR: Final = 2
_LF: Final = 3
_TRAILER: Final = 4
_END: Final = 5


class Chunked(Framing):
    """Transfer-Encoding: chunked. Strict: CRLF only, hexadecimal sizes of at most 15 digits, no blanks around them,
    bounded lines, trailers that look like fields.
    """

    __slots__ = ("_left", "_line", "_state", "_trailers")

    def __init__(self) -> None:
        super().__init__()
        self._state = _SIZE
        self._left = 0  # bytes of the current chunk's data still to come
        self._line = b""  # a size or trailer line of which only a part has come
        self._trailers = 0

    def feed(self, data: bytes) -> int:
        at = 0
        if self._state == _SIZE and not self._line:  # the commonest case: whole chunks
            at = _whole_chunks(data)
        return at if at == len(data) else self._feed(data, at)

    def _feed(self, data: bytes, at: int) -> int:
        size = len(data)
        state = self._state
        try:
            while at < size:
                if state == _SIZE:
                    end = data.find(b"\r\n", at)
                    if end < 0 or self._line:
                        self._state = state
                        at = self._slow_line(data, at)
                        state = self._state
                        continue
                    self._left = _chunk_size(data[at:end])
                    at = end + 2
                    state = _DATA if self._left else _TRAILER
                elif state == _DATA:
                    taken = min(self._left, size - at)
                    self._left -= taken
                    at += taken
                    if not self._left:
                        state = _CR
                elif state in (_CR, _LF):
                    if data[at] != (13 if state == _CR else 10):
                        raise FramingError("a chunk is not followed by CRLF")
                    at += 1
                    state = _LF if state == _CR else _SIZE
                elif state == _TRAILER:
                    self._state = state
                    at = self._slow_line(data, at)
                    state = self._state
                else:
                    break
        except FramingError as error:
            error.good = at
            raise
        finally:
            self._state = state
        return at

    def _slow_line(self, data: bytes, at: int) -> int:
        """Take in a line that may come in parts. Returns where it stopped; changes nothing if it raises."""
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
            self._left = _chunk_size(line[:-2])
            self._state = _DATA if self._left else _TRAILER
        elif line == b"\r\n":
            self._state = _END
            self.done = True
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS:
                raise FramingError(f"trailers are longer than {MAX_TRAILERS} bytes")
            if not _TRAILER_LINE(line):
                raise FramingError(f"{line[:40]!r} is no trailer")
        self._line = b""
        return stop

    def completion(self, filler: bytes) -> bytes | None:
        if self._state == _SIZE:
            return self._completion_of_size(filler)
        if self._state == _DATA:
            return filler * self._left + b"\r\n" if self._left <= MAX_FILL else None
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
            line, rest = line + b"1", b"1\r\n"  # it could have become any size, so let it be one
        elif b";" in line:
            return None  # inside an extension, whose grammar is not followed here
        try:
            left = _chunk_size(line)
        except FramingError:
            return None
        return rest + filler * left + b"\r\n" if 0 < left <= MAX_FILL else None


def _whole_chunks(data: bytes) -> int:
    """Where the whole chunks end that stand at the beginning; whatever is unusual about the next one ends them too."""
    at, size = 0, len(data)
    while at < size:
        end, last, left = at, min(at + 15, size), 0
        while end < last:
            digit = data[end]
            if 48 <= digit <= 57:
                left = 16 * left + digit - 48
            elif 97 <= digit <= 102:
                left = 16 * left + digit - 87
            elif 65 <= digit <= 70:
                left = 16 * left + digit - 55
            else:
                break
            end += 1
        stop = end + 2 + left
        if not left or stop + 2 > size:
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
    raise FramingError(f"{line[:20]!r} is no chunk size")


class Dechunker:
    """Takes the chunk framing away, for clients of HTTP/1.0, who do not know it.

    Its input has passed a `Chunked`: nothing is checked again.
    """

    __slots__ = ("_left", "_line")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current chunk's data and their CRLF still to come; -1: the last one was seen
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        out = []
        at = 0
        while at < len(data) and self._left >= 0:
            if self._left:
                taken = min(self._left, len(data) - at)
                out.append(data[at : at + max(0, min(taken, self._left - 2))])
                self._left -= taken
                at += taken
                continue
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end + 1
            self._line += data[at:stop]
            at = stop
            if end >= 0:
                size = int(self._line.partition(b";")[0], 16)
                self._line = b""
                self._left = size + 2 if size else -1
        return b"".join(out)
