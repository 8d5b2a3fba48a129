"""Warnings about requests: the first of a kind at once, and equal ones that follow as one line with their number.

A fault of one engine may concern hundreds of requests within a second. An operator needs to see it once, and how many.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from hierarchy.errors import RequestError, Unavailable

EVERY_S: Final = 5.0  # after which equal warnings are written again, as one line
MAX_KINDS: Final = 1000  # that are remembered; an engine's own messages may differ each time
log = logging.getLogger("hierarchy.lane")


class Warnings:
    """What was logged lately. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # by text: when it was written, and how many came since

    @property
    def kinds(self) -> int:
        """Number of different texts that are remembered."""
        return len(self._kinds)

    def warn(self, text: str, *values: object) -> None:
        """Log `text % values`, unless the same was logged lately: then count it."""
        text %= values
        known = self._kinds.get(text)
        if known is not None:
            self._kinds[text] = known[0], known[1] + 1
            return
        if len(self._kinds) >= MAX_KINDS:
            self.flush()
        self._kinds[text] = self._clock(), 0
        log.warning(text)

    def sweep(self) -> None:
        """Write how many equal ones came, where the time for that has come."""
        if self._kinds:
            now = self._clock()
            for text in [text for text, (since, _) in self._kinds.items() if now - since >= EVERY_S]:
                self._write_count(text, now)

    def flush(self) -> None:
        """Write all counts now, and forget everything."""
        kinds, self._kinds = self._kinds, {}
        for text, (_, count) in kinds.items():
            _log_count(text, count)

    def _write_count(self, text: str, now: float) -> None:
        _, count = self._kinds.pop(text)
        _log_count(text, count)
        if count:
            self._kinds[text] = now, 0  # it goes on, perhaps

    def __repr__(self) -> str:
        return f"<Warnings kinds={len(self._kinds)}>"


def warn_of_response(warnings: Warnings, model: str, status: int, path: str, outcome: str, reason: str) -> None:
    """The client of this node got a response that failed below; no other line of this node says so.

    path: of the engine. outcome, reason: of its attempt.
    """
    if outcome == "cut":
        warnings.warn("response for model %s cut: %s %s", model, path, reason or "ended too early")
    elif status == HTTPStatus.OK:
        warnings.warn("request for model %s failed: %d from %s: it %s", model, status, path, reason)
    else:
        warnings.warn("request for model %s failed: %d from %s", model, status, path)


def warn_of_error(warnings: Warnings, model: str, error: RequestError) -> None:
    """The client of this node gets an error of this node."""
    status, code = error.status, error.code
    if isinstance(error, Unavailable) and error.event:  # the message has names and times, which clients can vary
        warnings.warn("requests failed: %d %s: %s", status, code, error.event)
    else:
        warnings.warn("request for model %s failed: %d %s: %s", model or "?", status, code, error)


def _log_count(text: str, count: int) -> None:
    if count:
        log.warning("%s (%d more times)", text, count)
