"""A stream of server-sent events, as OpenAI's API has them: their data.

Source: HTML standard, section 9.2 (lines end in CR LF, LF or CR; several `data` lines are one value; a line that begins
with a colon is a comment).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hierarchy.translation.response import MAX_BYTES, BadReply

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n").search
_LINES = re.compile(rb"\r\n|\n|\r").split


class Events:
    """Cuts a stream into events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(name, data) of each event that is complete now; the name is b"" where none was given.

        Raises:
            BadReply: an event is too long.
        """
        rest = self._rest + data if self._rest else data
        while end := _END(rest):
            event, rest = rest[: end.start()], rest[end.end() :]
            yield from _read(event)
        self._rest = rest
        if len(rest) > MAX_BYTES:
            raise BadReply(f"sent an event of more than {MAX_BYTES} bytes")


def _read(event: bytes) -> Iterator[tuple[bytes, bytes]]:
    name, values = b"", []
    for line in _LINES(event):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            values.append(value)
        elif field == b"event":
            name = value
    if values:
        yield name, b"\n".join(values)
