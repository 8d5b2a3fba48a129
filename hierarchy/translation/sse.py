"""Server-sent events, as OpenAI's API streams them.

Source: HTML standard, section 9.2: lines end in CR LF, LF or CR; several `data` lines are one value; a line that begins
with a colon is a comment. httpx-sse has the same rules but reads from an httpx.Response only, decodes all text, and has
no limit on the size of an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hierarchy.translation.response import MAX_BUFFERED_BYTES, BadEngineResponse

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n").search
_SPLIT_LINES = re.compile(rb"\r\n|\n|\r").split


class EventSplitter:
    """Splits a stream of bytes into events."""

    def __init__(self) -> None:
        self._rest = b""  # the beginning of an event that is not complete

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(name, data) of each event that is now complete. The name is b"" if the event has none.

        Raises:
            BadEngineResponse: an event is too long.
        """
        rest = self._rest + data if self._rest else data
        while end := _EVENT_END(rest):
            event, rest = rest[: end.start()], rest[end.end() :]
            yield from _parse(event)
        self._rest = rest
        if len(rest) > MAX_BUFFERED_BYTES:
            raise BadEngineResponse(f"sent an event of more than {MAX_BUFFERED_BYTES} bytes")


def _parse(event: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, data) of an event; nothing if it has no data."""
    name, values = b"", []
    for line in _SPLIT_LINES(event):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            values.append(value)
        elif field == b"event":
            name = value
    if values:
        yield name, b"\n".join(values)
