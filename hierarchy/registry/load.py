"""One queue, as a child reported it and as this node's leases correct it."""

from __future__ import annotations

from mypy_extensions import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class Load:
    """One queue: as reported, corrected by this node's leases. Counts of requests."""

    __slots__ = ("ended", "open", "reported", "uncounted")

    def __init__(self) -> None:
        self.reported = 0  # by the last report
        self.open = 0  # this node's open leases
        self.ended = 0  # leases counted in `reported` that have ended since
        self.uncounted = 0  # open leases not counted in `reported`

    @property
    def value(self) -> int:
        """Requests running or waiting there."""
        return max(self.open, self.reported - self.ended + self.uncounted)

    def report(self, queue_length: int) -> None:
        """Start from a new report; the caller then adds the open leases that it did not count to `uncounted`."""
        self.reported, self.ended, self.uncounted = queue_length, 0, 0
