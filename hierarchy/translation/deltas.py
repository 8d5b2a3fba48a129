"""Turns the text so far, as FastChat's workers send it, into the new part of it, as OpenAI's API streams it."""

from __future__ import annotations

from collections.abc import Collection

_UNFINISHED = "�"  # the worker sends this for a character whose last bytes have not been generated yet


class Deltas:
    """The parts of a growing text that the client may see: no stop string, and nothing after one.

    A worker may begin its text with the prompt: the echo. unrequested_echo: the prompt, which is removed.
    requested_echo: the prompt, which stays because the client requested it; stop strings in it do not count.
    """

    def __init__(
        self, stop_strings: Collection[str] = (), unrequested_echo: str = "", requested_echo: str = ""
    ) -> None:
        self.stopped = False  # a stop string was found
        self._first = len(requested_echo)  # index of the first character at which a stop string can begin
        self._stop_strings = [stop for stop in stop_strings if stop]
        self._echo = unrequested_echo
        self._sent = 0  # characters that the client has

    def feed(self, text: str) -> str:
        """Take the text so far. Returns the new part of it that will not change any more."""
        text = self._without_echo(text).rstrip(_UNFINISHED)
        stop_at = self._find_stop(text)
        if stop_at is not None:
            return self._advance(text[:stop_at])
        held = max((_overlap(text[self._first :], stop) for stop in self._stop_strings), default=0)
        return self._advance(text[: len(text) - held])

    def end(self, text: str) -> str:
        """Take the complete text. Returns the part of it that the client does not have yet."""
        text = self._without_echo(text)
        stop_at = self._find_stop(text)
        return self._advance(text if stop_at is None else text[:stop_at])

    def _without_echo(self, text: str) -> str:
        if not self._echo:
            return text
        if text.startswith(self._echo):
            return text[len(self._echo) :]
        return "" if self._echo.startswith(text) else text

    def _find_stop(self, text: str) -> int | None:
        """Index of the first stop string. No part of it has been sent, since `feed` holds back how it begins."""
        start = max(self._sent, self._first)
        found = [at for stop in self._stop_strings if (at := text.find(stop, start)) >= 0]
        self.stopped = bool(found)
        return min(found, default=None)

    def _advance(self, text: str) -> str:
        """The part of `text` that has not been sent. A worker may shorten its text: then there is nothing new."""
        new, self._sent = text[self._sent :], max(self._sent, len(text))
        return new


def _overlap(text: str, stop: str) -> int:
    """The number of characters at the end of `text` that may be the beginning of `stop`."""
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
