"""How far away a child is: the time from a message to it until its response, without what keeps it busy.

Samples come from the probes of engines, from pings on reverse links, and from pings to nodes that this node dials. A
busy child responds late, and a response can never be too early. So the least of the samples of the last minute or so
counts, and a single late one counts nothing. Pure; the caller passes the time.
"""

from __future__ import annotations

import math
from typing import Final

WINDOW_S: Final = 30.0  # the least of this time is one of those that are kept
LEAST_SAMPLES: Final = 3  # of a window; pings are seconds apart
STEP_S: Final = 0.005  # differences below it are no distance: a choice between neighbours shall not depend on noise
CHANGE: Final = 0.25  # part by which a round trip has to change so that another one is shown and counts
CHANGE_S: Final = 0.001  # and how much at least


def counted_s(seconds: float) -> float:
    """What a round trip adds to a request's time, in steps."""
    return STEP_S * round(seconds / STEP_S)


class RoundTrip:
    """The round trip to one child, in seconds.

    Attributes:
        seconds: the least of the last samples; infinite before the first.
        shown: the same, but only another one where it has changed much, so that reports need not repeat it.
        counted: what it adds to a request's time, in steps; 0 before the first sample.
    """

    __slots__ = ("_before", "_former", "_least", "_samples", "_since", "counted", "seconds", "shown")

    def __init__(self) -> None:
        self.seconds = self.shown = math.inf
        self.counted = 0.0
        self._since = -math.inf  # when the present window began
        self._samples = 0  # of the present window
        self._least = math.inf  # of the present window
        self._former = self._before = math.inf  # of the window before, and of the one before that

    @property
    def is_known(self) -> bool:
        """Was there a sample?"""
        return self.seconds < math.inf

    def note(self, sample_s: float, now: float) -> None:
        """A response came `sample_s` seconds after its message."""
        if self._samples >= LEAST_SAMPLES and now - self._since >= WINDOW_S:
            self._before, self._former, self._least = self._former, self._least, math.inf
            self._samples = 0
        if not self._samples:
            self._since = now
        self._samples += 1
        self._least = min(self._least, max(0.0, sample_s))
        self.seconds = min(self._least, self._former, self._before)
        change, shown = abs(self.seconds - self.shown), self.shown
        if shown == math.inf or change > max(CHANGE_S, CHANGE * shown):
            self.shown = self.seconds
            self.counted = counted_s(self.seconds)

    def __repr__(self) -> str:
        return f"<RoundTrip {self.seconds:.4f} s>" if self.is_known else "<RoundTrip unknown>"
