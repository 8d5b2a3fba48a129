"""When a child that fails is passed over, for how long, and how it comes back. Pure state; the clock is the caller's.

    well ──failures──▶ ejected ──time is over──▶ returning: one request, then two, four … ──▶ well
                          ▲________________ failed again: twice as long ______|

A child that is well has no `Trouble` at all, so that the requests of good days pay one comparison for all of this.

Source: Envoy's outlier detection (consecutive failures, ejection time that grows); TCP's slow start for the return.
"""

from __future__ import annotations

from typing import Literal

BASE_S, MAX_S = 2.0, 60.0  # of an ejection: the first, and the longest
STRIKES = 3  # failures in a row that eject; one where the child could not even be reached
WELL = 16  # requests at once with which it counts as back
FORGOTTEN_S = 60.0  # without a failure, and the next ejection is a first one again
Failure = Literal["unreachable", "broke", "error", "timeout", "cut"]
#: what each failure counts. An answer of 5xx, or a stream that was cut, may be the request's fault: it takes three.
WEIGHTS: dict[Failure, int] = {"unreachable": STRIKES, "broke": STRIKES, "timeout": STRIKES, "error": 1, "cut": 1}


class Trouble:
    """One child's failures. `ejections` counts those in a row; `window` is how many requests it may have at once."""

    __slots__ = ("_base", "ejections", "last_at", "strikes", "until", "window")

    def __init__(self) -> None:
        self.strikes = 0
        self.ejections = 0
        self.until = 0.0  # the end of the ejection
        self.window = WELL
        self.last_at = 0.0
        self._base = 0  # requests that it had when it was ejected, and that may run on

    @property
    def returning(self) -> bool:
        """Is it on its way back, or still away?"""
        return self.window < WELL

    def failed(self, failure: Failure, now: float) -> bool:
        """Count a failure. Returns whether the child should be ejected for it."""
        if now - max(self.last_at, self.until) > FORGOTTEN_S:
            self.ejections = 0
        self.last_at = now
        if now < self.until:
            return False  # an old request of its, which says nothing new
        self.strikes += WEIGHTS[failure]
        return self.strikes >= STRIKES or self.returning

    def eject(self, now: float, in_flight: int) -> float:
        """Send it away. Returns until when."""
        self.until = now + min(BASE_S * 2.0 ** min(self.ejections, 10), MAX_S)
        self.ejections += 1
        self.strikes = 0
        self.window = 1
        self._base = in_flight
        return self.until

    def end(self, now: float) -> None:
        """It is let back in before its time, as slowly as ever."""
        self.until = min(self.until, now)

    def spare(self) -> None:
        """It cannot be done without: it stays, and its failures are counted from nought again."""
        self.strikes = 0

    def succeeded(self, now: float) -> None:
        """A first byte came from it. Each lets one more request in, so that the window doubles with each round."""
        self.strikes = 0
        if now >= self.until and self.window < WELL:
            self.window += 1

    def admits(self, in_flight: int) -> bool:
        """May it have one more request?"""
        if self.window >= WELL:
            return True
        self._base = min(self._base, in_flight)
        return in_flight - self._base < self.window

    def forgotten(self, now: float) -> bool:
        """Is there nothing left to remember?"""
        return not self.returning and now - max(self.last_at, self.until) > FORGOTTEN_S

    def __repr__(self) -> str:
        return f"<Trouble strikes={self.strikes} ejections={self.ejections} window={self.window}>"
