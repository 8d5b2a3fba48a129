"""What becomes of an engine's answer on its way to a client of the other API family."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from hierarchy.errors import HierarchyError

MAX_BYTES = 16 * 1024 * 1024  # of anything that has to be kept until it is complete


class BadReply(HierarchyError):
    """The engine sent what is incomplete or not understood. `str(error)` goes on behind its name: "gpu-1 sent …"."""


class Reply(Protocol):
    """Turns the body of an engine's answer into the client's. Neither has any framing of HTTP's.

    status, content_type: of the client's answer; final once `feed` has given something, or `end` was called.
    streams: the client gets its answer in pieces; else all of it comes from `end`.
    done: nothing more of the engine is wanted: hang up, and call `end`.
    """

    status: int
    content_type: bytes
    streams: bool
    done: bool

    def begin(self, status: int) -> None:
        """The engine's answer begins."""

    def feed(self, data: bytes) -> bytes:
        """The next bytes of it, cut anywhere. Returns what the client gets now, b"" very often.

        Raises:
            BadReply
        """

    def end(self) -> bytes:
        """It is complete, or no more is wanted. Returns the last that the client gets.

        Raises:
            BadReply
        """


class Collected:
    """The half of a `Reply` that keeps what cannot be passed on in pieces. status_in: the engine's."""

    status = 200
    content_type = b"application/json"
    streams = False
    done = False
    status_in = 200

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def begin(self, status: int) -> None:
        self.status_in = status

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > MAX_BYTES:
            raise BadReply(f"sent more than {MAX_BYTES} bytes at once")
        self._parts.append(data)
        return b""

    def _collected(self) -> bytes:
        return b"".join(self._parts)

    def _refuse_broken(self, body: bytes) -> None:
        """Of an answer with another status than 200: raises BadReply, unless it is one to the client's own address."""
        if not (400 <= self.status_in < 500 or self.status_in == HTTPStatus.NOT_IMPLEMENTED):
            raise BadReply(f"answered {self.status_in}: {excerpt(body)}")


def excerpt(body: bytes) -> str:
    """The beginning of an answer, for a message of one line."""
    return " ".join(body[:200].decode(errors="replace").split())
