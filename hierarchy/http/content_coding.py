"""Content codings that can be undone: a stream whose head promised none may come compressed. Pure.

Source: RFC 9110, section 8.4.1 (`deflate` is the zlib format, but some send the bare one).
"""

from __future__ import annotations

import zlib
from typing import Any, Final

from hierarchy.errors import HierarchyError

#: bytes of content that one piece of a read may become (`relay.turns`: 2 to 16 KiB, a thousand times smaller at most)
MAX_CONTENT: Final = 2 * 1024 * 1024 + 64 * 1024
SLICE: Final = 1024  # bytes that are decompressed at a time: no more than that is lost, or copied behind a member's end
_GZIP: Final = 31  # zlib's `wbits`
_ZLIB: Final = 15
_BARE: Final = -15


class CodingError(HierarchyError):
    """The bytes are not in the content coding that the head names. `str(error)` follows the sender's name."""


class Decoder:
    """Undoes gzip or deflate, piece by piece."""

    def __init__(self, coding: bytes) -> None:
        self._is_gzip = coding in (b"gzip", b"x-gzip")
        self._zlib: Any = zlib.decompressobj(_GZIP) if self._is_gzip else None  # None: the format is not known yet
        self._began = False

    @property
    def complete(self) -> bool:
        """Has the content ended, or not begun?"""
        return not self._began or (self._zlib is not None and bool(self._zlib.eof))

    def feed(self, data: bytes) -> bytes:
        """The content of the next bytes.

        Raises:
            CodingError: they are in another coding, or too much comes out of them.
        """
        out: list[bytes] = []
        left = MAX_CONTENT
        for at in range(0, len(data), SLICE):
            left -= self._feed(data[at : at + SLICE], out, left)
        return b"".join(out)

    def _feed(self, data: bytes, out: list[bytes], left: int) -> int:
        """Append the content of a slice to `out`. left: bytes that it may have. Returns how many it has."""
        size = 0
        while data:
            if self._zlib is None:
                self._zlib = zlib.decompressobj(_ZLIB if data[0] & 0x0F == 8 else _BARE)
            elif self._zlib.eof:
                if not self._is_gzip:
                    raise CodingError("sent more behind the end of its compressed content")
                self._zlib = zlib.decompressobj(_GZIP)  # gzip may have several members
            self._began = True
            try:
                content = self._zlib.decompress(data, left - size)
            except zlib.error as error:
                raise CodingError(f"sent content that cannot be decompressed: {error}") from None
            out.append(content)
            size += len(content)
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
            if size >= left:
                raise CodingError(f"sent content of more than {MAX_CONTENT} bytes in one read")
        return size


def decoder(coding: bytes) -> Decoder | None:
    """For the value of a Content-Encoding field; None if it cannot be undone here."""
    coding = coding.strip().lower()
    return Decoder(coding) if coding in (b"gzip", b"x-gzip", b"deflate") else None


def decoded(coding: bytes, body: bytes, limit: int) -> bytes:
    """As much of a body as can be read: it may be cut off, or in a coding that is not known here (then b"").

    limit: bytes of content, behind which no more is decompressed.
    """
    if coding.strip().lower() in (b"", b"identity"):
        return body[:limit]
    found = decoder(coding)
    if found is None:
        return b""
    out: list[bytes] = []
    size = 0
    try:
        for at in range(0, len(body), SLICE):
            out.append(found.feed(body[at : at + SLICE]))
            size += len(out[-1])
            if size >= limit:
                break
    except CodingError:
        pass
    return b"".join(out)[:limit]
