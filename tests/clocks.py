"""Clocks that a test can move. Like `time.monotonic`, they return seconds."""

from __future__ import annotations

import time


class Clock:
    """Moves only when a test calls `tick`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class SkewedClock:
    """Runs like the real clock, `skew` seconds ahead of it."""

    def __init__(self) -> None:
        self.skew = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skew
