"""An operator's drain of a child: no new requests, running ones finish."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec


class Drain(msgspec.Struct, frozen=True):
    """Who drained a child, when and why."""

    #: Unix seconds; 0: unknown
    since: float = 0.0
    #: the operator: the name of the admin key and the address
    by: str = ""
    #: as the operator wrote it
    reason: str = ""

    def __str__(self) -> str:
        """`by ann from 10.0.0.5 since 2026-01-31T12:00Z: new GPU`."""
        since = f" since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%dT%H:%MZ}" if self.since else ""
        return f"by {self.by or 'an operator'}{since}" + (f": {self.reason}" if self.reason else "")
