"""A child's response that the client does not get as it comes: another child may do better, or it has another form."""

from __future__ import annotations

from typing import Final

from hierarchy.http.framing import Dechunker
from hierarchy.http.promise import MAX_ANSWER, Fate
from hierarchy.http.response_head import UpstreamResponse

MAX_REFUSAL: Final = 64 * 1024  # bytes of an error response; what it says is at its beginning


class Held:
    """The part of a response that has come. fate: what becomes of it if it goes to the client."""

    def __init__(self, response: UpstreamResponse, fate: Fate, data: bytes) -> None:
        self.response = response
        self.fate = fate
        self._limit = MAX_ANSWER if fate == "as_events" else MAX_REFUSAL
        self._body = bytearray()
        # Chunk framing is removed as it comes: a long body of tiny chunks takes a while.
        self._dechunk = Dechunker() if response.head.kind == "chunked" else None
        self._content = bytearray()
        self.add(data)

    @property
    def is_full(self) -> bool:
        """Is it longer than it may be?"""
        return len(self._body) > self._limit

    @property
    def body(self) -> bytes:
        """As much as has come, chunk framing included."""
        return bytes(self._body)

    @property
    def content(self) -> bytes:
        """As much as has come, without chunk framing."""
        return bytes(self._body if self._dechunk is None else self._content)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return len(self._body) + len(self._content)

    def add(self, data: bytes) -> None:
        """The next bytes of its body."""
        self._body += data
        if self._dechunk is not None:
            self._content += self._dechunk.feed(data)

    def __repr__(self) -> str:
        return f"<Held {self.response.head.status} {self.fate} {len(self._body)} bytes>"
