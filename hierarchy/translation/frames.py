"""FastChat's stream: JSON objects (frames), each followed by a NUL byte. An empty frame has no meaning."""

from __future__ import annotations

from hierarchy.translation.response import MAX_BUFFERED_BYTES, BadEngineResponse


class FrameSplitter:
    """Splits a stream of bytes into frames.

    Each frame has the whole text so far, so only the newest of the frames in one read is needed.
    """

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a frame that is not complete

    def feed(self, data: bytes) -> bytes:
        """The newest frame that is now complete; b"" if there is none.

        Raises:
            BadEngineResponse: a frame is too long.
        """
        *frames, self._rest = (self._rest + data if self._rest else data).split(b"\0")
        if len(self._rest) > MAX_BUFFERED_BYTES:
            raise BadEngineResponse(f"sent a frame of more than {MAX_BUFFERED_BYTES} bytes")
        return next((frame for frame in reversed(frames) if frame.strip()), b"")

    def end(self) -> bytes:
        """A last frame that no NUL follows; b"" if there is none. The caller has to check that it is complete."""
        rest, self._rest = self._rest.strip(), b""
        return rest
