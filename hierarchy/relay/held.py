"""A child's response that the client does not get as it comes: another child may do better, or it has another form."""

from __future__ import annotations

from typing import Final

from hierarchy.http.promise import Fate
from hierarchy.http.response_head import UpstreamResponse

MAX_REFUSAL: Final = 64 * 1024  # bytes of an error response; what it says is at its beginning
MAX_ANSWER: Final = 4 * 1024 * 1024  # bytes of an answer that is made a stream; it is in memory until it is whole


class Held:
    """The part of a response that has come. fate: what becomes of it if it goes to the client."""

    def __init__(self, response: UpstreamResponse, fate: Fate, data: bytes) -> None:
        self.response = response
        self.fate = fate
        self._limit = MAX_ANSWER if fate == "as_events" else MAX_REFUSAL
        self._parts = [data]
        self._size = len(data)

    @property
    def is_full(self) -> bool:
        """Is it longer than it may be?"""
        return self._size > self._limit

    @property
    def body(self) -> bytes:
        """As much as has come, chunk framing included."""
        return b"".join(self._parts)

    def add(self, data: bytes) -> None:
        """The next bytes of its body."""
        self._parts.append(data)
        self._size += len(data)

    def __repr__(self) -> str:
        return f"<Held {self.response.head.status} {self.fate} {self._size} bytes>"
