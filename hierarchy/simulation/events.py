"""The clock of a simulation, and what happens next."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Events:
    """Calls functions at their time, and those of one time in the order in which they were added. Times in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0  # events that have happened
        self._stops = False
        self._added = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def clock(self) -> float:
        """The time now, for classes that get a clock."""
        return self.now

    def at(self, when: float, act: Callable[..., None], *args: Any) -> None:
        """Call `act(*args)` then."""
        self._added += 1
        heappush(self._heap, (when, self._added, act, args))

    def after(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        """Call `act(*args)` after so many seconds."""
        self._added += 1
        heappush(self._heap, (self.now + seconds, self._added, act, args))

    def run(self, until: float = math.inf, most: float = math.inf) -> bool:
        """Let what is due happen, until something calls `stop`. Returns whether something is left.

        until: no later than then, and it is then afterwards. most: no more than so many events.
        """
        heap, self._stops = self._heap, False
        while heap and heap[0][0] <= until and most > 0 and not self._stops:
            when, _, act, args = heappop(heap)
            self.now = when
            self.count += 1
            most -= 1
            act(*args)
        if until < math.inf and most > 0 and not self._stops:
            self.now = max(self.now, until)
        return bool(heap)

    def stop(self) -> None:
        """Let nothing happen after this event."""
        self._stops = True

    def __repr__(self) -> str:
        return f"<Events {len(self._heap)} at {self.now:.3f} s>"
