"""How many retries a node may have in flight, so that a fault of all engines does not multiply the load.

Only the entry node has a budget. A node below it may spend each attempt that its parent lent. An attempt lent beyond
the first is a retry that may happen out of sight: it is free while hardly any retries happen, and otherwise counts
as one until the request has its response.

Source: Finagle's and Envoy's retry budgets; the fixed number is there so that a quiet node can retry at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

FLOOR: Final = 10  # retries that are always allowed
SHARE: Final = 0.2  # of first attempts; as many retries are allowed
WINDOW_S: Final = 1.0  # over which retries are counted


def allows(retries: int, first_attempts: int) -> bool:
    """May one more retry begin, with this many retries and first attempts so far?"""
    return retries < FLOOR or retries + 1 <= SHARE * first_attempts


class RetryBudget:
    """Counts retries in flight, and those of the last one or two windows. clock: monotonic seconds.

    Requests in flight come in bursts, and at the beginning of a burst there are nearly none. So the limit holds for
    the requests of the last windows as well.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.active = 0  # retries in flight, and attempts that were lent and counted
        self.troubled = False  # many retries happen: each attempt that is lent beyond the first counts
        self._clock = clock
        self._retries_since = 0.0  # when counting `_recent_retries` began, or in trouble the last retry
        self._recent_retries = 0
        self._window_at = -math.inf
        self._taken = [0, 0]  # retries in the window before, and in this one
        self._sent = [0, 0]  # requests ever sent, at the beginning of the window before, and of this one

    def has_room(self, in_flight: int, sent: int) -> bool:
        """Is there a place for one more retry?

        in_flight: requests in flight, retries included. sent: requests ever sent to children.
        """
        self._turn_window(sent)
        taken = sum(self._taken)
        return allows(self.active, in_flight - self.active) and allows(taken, sent - self._sent[0] - taken)

    def take(self, in_flight: int, sent: int) -> bool:
        """Claim a place for one retry, if there is room. If True, call `give_back` when it ends."""
        if not self.has_room(in_flight, sent):
            return False
        self.claim()
        return True

    def claim(self) -> None:
        """Claim a place after `has_room` said that there is one. Call `give_back` when the retry ends."""
        self.active += 1
        self._taken[1] += 1

    def _turn_window(self, sent: int) -> None:
        now = self._clock()
        if now - self._window_at < WINDOW_S:
            return
        old = now - self._window_at >= 2 * WINDOW_S
        self._taken = [0 if old else self._taken[1], 0]
        self._sent = [sent if old else self._sent[1], sent]
        self._window_at = now

    def give_back(self) -> None:
        """A retry that `take` allowed has ended."""
        self.active -= 1

    def note(self, retries: int) -> None:
        """Count retries that happened, here or below."""
        now = self._clock()
        if now - self._retries_since > WINDOW_S:
            self._retries_since, self._recent_retries = now, 0
        self._recent_retries += retries
        if self._recent_retries >= FLOOR:
            self.troubled = True
            self._retries_since = now

    def end_trouble(self) -> None:
        """End `troubled` once no retry has happened for `WINDOW_S`. Call it now and then."""
        if self.troubled and self._clock() - self._retries_since > WINDOW_S:
            self.troubled, self._recent_retries = False, 0

    def __repr__(self) -> str:
        return f"<RetryBudget active={self.active}{' troubled' if self.troubled else ''}>"
