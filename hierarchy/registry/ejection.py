"""When a child or one of its models is ejected for failures, for how long, and how it returns. Pure; no own clock.

    healthy ──failures──▶ ejected ──time is over──▶ returning: one request, then two, four … ──▶ healthy
                             ▲________________ failed again: twice as long ______|

A connection that cannot be made concerns the whole child; a bad response only the model that it was for. What is
healthy has no `FailureRecord` at all, so that a request on a good day pays one comparison for all of this.
All times are seconds of one monotonic clock.

Source: Envoy's outlier detection (consecutive failures, failure percentage, ejection time that grows); TCP's slow
start for the return.
"""

from __future__ import annotations

import math
from typing import Final, Literal

BASE_S: Final = 2.0  # the first ejection
MAX_S: Final = 60.0  # the longest one
STRIKES: Final = 3  # strikes in a row that eject
FULL_WINDOW: Final = 16  # requests at once with which a returning child counts as healthy
FORGET_AFTER_S: Final = 60.0  # without a failure; the next ejection is then a first one again
Failure = Literal["unreachable", "broke", "error", "timeout", "cut"]
#: Strikes for each failure. A 5xx response or a stream that was cut may be the request's fault, so it takes three.
WEIGHTS: dict[Failure, int] = {"unreachable": STRIKES, "broke": STRIKES, "timeout": STRIKES, "error": 1, "cut": 1}
WINDOW_S: Final = 10.0  # responses are counted over one to two of these
REQUEST_VOLUME: Final = 10  # responses in the window without which its error rate says nothing
FAILURE_RATE: Final = 0.3  # error rate that ejects, if the siblings' is less than half of it
SIBLING_FAILURES: Final = 3  # fewer failures of all siblings together are no sign of a common fault


def ejection_s(ejections: int) -> float:
    """How long the next ejection lasts, after `ejections` in a row, in seconds."""
    return min(BASE_S * 2.0 ** min(ejections, 10), MAX_S)


class Responses:
    """How many responses were good and how many were not, over the last one to two windows. Counts of responses.

    A good one costs one addition; `turn` does the rest, once in a window.
    """

    __slots__ = ("_bad_before", "_bad_mid", "_good_before", "_good_mid", "bad", "good")

    def __init__(self) -> None:
        self.good = self.bad = 0  # ever
        self._good_mid = self._bad_mid = 0  # when this window began
        self._good_before = self._bad_before = 0  # when the window before began

    def turn(self) -> None:
        """A window is over."""
        self._good_before, self._bad_before = self._good_mid, self._bad_mid
        self._good_mid, self._bad_mid = self.good, self.bad

    @property
    def failures(self) -> int:
        """Bad responses in the last windows."""
        return self.bad - self._bad_before

    @property
    def volume(self) -> int:
        """All responses in the last windows."""
        return self.good - self._good_before + self.failures

    @property
    def error_rate(self) -> float:
        """Part of the responses in the last windows that were bad, 0 to 1."""
        volume = self.volume
        return self.failures / volume if volume else 0.0

    def __repr__(self) -> str:
        return f"<Responses {self.failures} of {self.volume} bad>"


def is_outlier(own: Responses, siblings: list[Responses], *, failing_siblings: int) -> bool:
    """Does a child fail where its siblings, which serve the same model, do not?

    A fault of all of them is no single child's fault: the request may be bad, or something that they share.
    failing_siblings: those whose last response was bad.
    """
    asked = [one for one in siblings if one.volume]
    if not asked:
        return True  # nothing speaks against it; if they fail too, the ejection ends
    if 2 * failing_siblings >= len(asked):
        return False
    failures = sum(one.failures for one in asked)
    rate = failures / sum(one.volume for one in asked)
    return failures < SIBLING_FAILURES or 2 * rate < own.error_rate


class FailureRecord:
    """The failures of one child, or of one of its models."""

    __slots__ = ("_running_before", "ejections", "last_at", "reason", "strikes", "until", "window")

    def __init__(self) -> None:
        self.strikes = 0  # since the last success
        self.ejections = 0  # in a row
        self.until = -math.inf  # the end of the ejection
        self.reason = ""  # of the ejection, one line
        self.window = FULL_WINDOW  # requests that it may have at once
        self.last_at = 0.0  # the last failure
        self._running_before = 0  # requests that it had when it was ejected, and may still have

    @property
    def returning(self) -> bool:
        """Is it ejected, or not fully back yet?"""
        return self.window < FULL_WINDOW

    def ejects(self, now: float) -> bool:
        """Does the ejection last?"""
        return now < self.until

    def failed(self, failure: Failure, now: float) -> bool:
        """Count a failure. Returns whether the child should be ejected for it."""
        if now - max(self.last_at, self.until) > FORGET_AFTER_S:
            self.ejections = 0
        self.last_at = now
        if now < self.until:
            return False  # a request from before the ejection, which proves nothing new
        self.strikes += WEIGHTS[failure]
        return self.strikes >= STRIKES or self.returning

    def eject(self, now: float, in_flight: int, reason: str = "") -> float:
        """Begin an ejection; returns when it ends. in_flight: requests that the child has."""
        self.until = now + ejection_s(self.ejections)
        self.reason = reason
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

    def first_byte(self, now: float) -> None:
        """A response that is no failure began. Each allows one more request at once: each round doubles the window.

        Streams last long, so their ends would let a child return too slowly.
        """
        if now >= self.until and self.window < FULL_WINDOW:
            self.window += 1

    def completed(self) -> None:
        """A whole, good response ended."""
        self.strikes = 0

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
