"""The part of prompts that came from a cache, of late. Pure; the caller passes the time."""

from __future__ import annotations

import math
from typing import Final

WINDOW_S: Final = 60.0  # in which there were prompts; what is older than two of them does not count


class HitRate:
    """Compares two counts that only grow: what came from a cache, and all of it. If they are less, they began anew."""

    __slots__ = ("_begin", "_last", "_middle", "_turned_at")

    def __init__(self) -> None:
        self._begin: tuple[float, float] | None = None  # counts at the beginning of the last window but one
        self._middle = self._last = (0.0, 0.0)  # at the beginning of the last window; now
        self._turned_at = -math.inf

    def observe(self, now: float, cached: float, whole: float) -> None:
        """The counts are these now."""
        counts = cached, whole
        if self._begin is None or cached < self._last[0] or whole < self._last[1]:
            self._begin = self._middle = counts if self._begin is None else (0.0, 0.0)
            self._turned_at = now
        elif now - self._turned_at >= WINDOW_S and whole > self._middle[1]:
            self._begin, self._middle, self._turned_at = self._middle, self._last, now
        self._last = counts

    @property
    def value(self) -> float | None:
        """0 to 1; None: there were no prompts yet."""
        if self._begin is None:
            return None
        whole = self._last[1] - self._begin[1]
        return min(1.0, (self._last[0] - self._begin[0]) / whole) if whole > 0 else None

    def __repr__(self) -> str:
        return f"<HitRate {self.value}>"
