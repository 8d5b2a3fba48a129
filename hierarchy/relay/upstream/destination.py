"""What the data path keeps for one share: where its requests go, how long they may take, and what is counted."""

from __future__ import annotations

from hierarchy.registry.child import Child, Share
from hierarchy.relay.timeouts import Timeouts
from hierarchy.relay.upstream.pool import Pool
from hierarchy.runtime.metrics import ShareMetrics
from hierarchy.translation import WorkerProfile


class Destination:
    """One share as the data path sees it; made at the first request for it, kept until the child changes."""

    __slots__ = ("_profile", "_profile_of", "child", "metrics", "pool", "share", "timeouts")

    def __init__(self, share: Share, pool: Pool, timeouts: Timeouts, metrics: ShareMetrics) -> None:
        self.share = share
        self.child: Child = share.child
        self.pool = pool  # the child's connections
        self.timeouts = timeouts  # of the share's model
        self.metrics = metrics  # of this model at this child
        self._profile: WorkerProfile | None = None
        self._profile_of = -1  # the process that `_profile` describes

    @property
    def profile(self) -> WorkerProfile | None:
        """What the FastChat worker there reports about its model; None: not requested yet from this process."""
        return self._profile if self._profile_of == self.child.process_number else None

    @profile.setter
    def profile(self, profile: WorkerProfile) -> None:
        self._profile, self._profile_of = profile, self.child.process_number

    def __repr__(self) -> str:
        return f"<Destination {self.child.name} {self.share.key[0]}>"
