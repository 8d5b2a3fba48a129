"""What expires, such as a certificate: days left, and when to warn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

DAY_S = 86400.0
#: Warn so many seconds before the end, but not before the last quarter: automatic renewal of a certificate for 90 days
#: happens a month before its end, that of one for a day some hours before.
WARN_S = 14 * DAY_S
WARN_SHARE = 0.25
Stage = Literal["valid", "expires soon", "expired", "not yet valid"]


@dataclass(frozen=True)
class Lifetime:
    """From when to when something is valid, in Unix seconds."""

    begins: float
    ends: float

    def days_left(self, now: float) -> float:
        """Days until it expires; negative if it has."""
        return (self.ends - now) / DAY_S

    def stage(self, now: float) -> Stage:
        """How near its end is. now: Unix seconds."""
        if now >= self.ends:
            return "expired"
        if now < self.begins:
            return "not yet valid"
        return "expires soon" if self.ends - now < min(WARN_S, WARN_SHARE * (self.ends - self.begins)) else "valid"

    def describe(self, now: float) -> str:
        """Its stage in words; "" while nothing is to be done."""
        stage = self.stage(now)
        if stage == "expired":
            return f"expired on {date_of(self.ends)}"
        if stage == "not yet valid":
            return f"is not valid before {date_of(self.begins)}"
        return f"expires on {date_of(self.ends)}, in {self.days_left(now):.1f} days" if stage == "expires soon" else ""


def date_of(at: float) -> str:
    """A moment in UTC, as `2026-01-31 12:00 UTC`. at: Unix seconds."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "an unknown day"
