"""FastChat's stream: JSON objects, each ended by a NUL. An empty frame means nothing."""

from __future__ import annotations

from hierarchy.translation.response import MAX_BYTES, BadReply


class Frames:
    """Cuts a stream into frames. Each has the whole text so far, so only the newest of those in one read matters."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The newest frame that is complete now; b"" if there is none.

        Raises:
            BadReply: a frame is too long.
        """
        *frames, self._rest = (self._rest + data if self._rest else data).split(b"\0")
        if len(self._rest) > MAX_BYTES:
            raise BadReply(f"sent a frame of more than {MAX_BYTES} bytes")
        return next((frame for frame in reversed(frames) if frame.strip()), b"")

    def end(self) -> bytes:
        """A last frame without its NUL, which is taken if it is whole."""
        rest, self._rest = self._rest.strip(), b""
        return rest
