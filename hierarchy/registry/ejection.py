"""When a child that fails is ejected, for how long, and how it returns. Pure state; the caller passes the time.

    healthy ──failures──▶ ejected ──time is over──▶ returning: one request, then two, four … ──▶ healthy
                             ▲________________ failed again: twice as long ______|

A healthy child has no `FailureRecord` at all, so that a request on a good day pays one comparison for all of this.
All times are seconds of one monotonic clock.

Source: Envoy's outlier detection (consecutive failures, ejection time that grows); TCP's slow start for the return.
"""

from __future__ import annotations

from typing import Final, Literal

BASE_S: Final = 2.0  # the first ejection
MAX_S: Final = 60.0  # the longest one
STRIKES: Final = 3  # strikes in a row that eject
FULL_WINDOW: Final = 16  # requests at once with which a returning child counts as healthy
FORGET_AFTER_S: Final = 60.0  # without a failure; the next ejection is then a first one again
Failure = Literal["unreachable", "broke", "error", "timeout", "cut"]
#: Strikes for each failure. A 5xx response or a stream that was cut may be the request's fault, so it takes three.
WEIGHTS: dict[Failure, int] = {"unreachable": STRIKES, "broke": STRIKES, "timeout": STRIKES, "error": 1, "cut": 1}


def ejection_s(ejections: int) -> float:
    """How long the next ejection lasts, after `ejections` in a row, in seconds."""
    return min(BASE_S * 2.0 ** min(ejections, 10), MAX_S)


class FailureRecord:
    """The failures of one child."""

    __slots__ = ("_running_before", "ejections", "last_at", "strikes", "until", "window")

    def __init__(self) -> None:
        self.strikes = 0  # since the last success
        self.ejections = 0  # in a row
        self.until = 0.0  # the end of the ejection
        self.window = FULL_WINDOW  # requests that it may have at once
        self.last_at = 0.0  # the last failure
        self._running_before = 0  # requests that it had when it was ejected, and may still have

    @property
    def returning(self) -> bool:
        """Is it ejected, or not fully back yet?"""
        return self.window < FULL_WINDOW

    def failed(self, failure: Failure, now: float) -> bool:
        """Count a failure. Returns whether the child should be ejected for it."""
        if now - max(self.last_at, self.until) > FORGET_AFTER_S:
            self.ejections = 0
        self.last_at = now
        if now < self.until:
            return False  # a request from before the ejection, which proves nothing new
        self.strikes += WEIGHTS[failure]
        return self.strikes >= STRIKES or self.returning

    def eject(self, now: float, in_flight: int) -> float:
        """Begin an ejection; returns when it ends. in_flight: requests that the child has."""
        self.until = now + ejection_s(self.ejections)
        self.ejections += 1
        self.strikes = 0
        self.window = 1
        self._running_before = in_flight
        return self.until

    def end_ejection(self, now: float) -> None:
        """End it early. The child still returns slowly."""
        self.until = min(self.until, now)

    def clear_strikes(self) -> None:
        """The child was not ejected, because too few would be left."""
        self.strikes = 0

    def succeeded(self, now: float) -> None:
        """The child sent a first byte. Each one allows one more request at once, so each round doubles the window."""
        self.strikes = 0
        if now >= self.until and self.window < FULL_WINDOW:
            self.window += 1

    def admits(self, in_flight: int) -> bool:
        """May the child get one more request, beside those it has?"""
        if self.window >= FULL_WINDOW:
            return True
        self._running_before = min(self._running_before, in_flight)
        return in_flight - self._running_before < self.window

    def is_over(self, now: float) -> bool:
        """Is nothing left to remember?"""
        return not self.returning and now - max(self.last_at, self.until) > FORGET_AFTER_S

    def __repr__(self) -> str:
        return f"<FailureRecord strikes={self.strikes} ejections={self.ejections} window={self.window}>"
