"""How many retries a node may have in flight, so that a fault that hits every engine does not multiply the load.

It is kept by the entry node alone: below it, whoever holds a lent attempt may spend it. An attempt that is lent beyond
the first is a retry that may happen, out of sight; so it is free only as long as hardly any do, and otherwise counts as
one until its request is answered.

Source: Finagle's and Envoy's retry budgets; "beyond a floor" so that a quiet node can retry at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FLOOR = 10  # retries at once that are always allowed
SHARE = 0.2  # of what is in flight for the first time
WINDOW_S = 1.0  # over which retries are counted, to tell whether there is trouble


class RetryBudget:
    """active: retries in flight, or lent. clock: monotonic seconds.

    What is in flight comes and goes in bursts, and at the beginning of each nearly nothing is; so the same share
    holds for what was begun lately, too.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.active = 0
        self.denied = 0
        self.troubled = False  # retries happen: lend no attempt that is not counted
        self._clock = clock
        self._since = 0.0
        self._seen = 0
        self._window_at = -math.inf
        self._taken = [0, 0]  # in the window before, and in this one
        self._sent = [0, 0]  # requests ever sent, when the window before and this one began

    def take(self, in_flight: int, sent: int) -> bool:
        """May one more be retried? Then give it back when it ends.

        in_flight: requests, those retried included. sent: how many were ever sent to children.
        """
        self._turn_window(sent)
        taken = sum(self._taken)
        over = self.active >= FLOOR and self.active + 1 > SHARE * (in_flight - self.active)
        if over or (taken >= FLOOR and taken + 1 > SHARE * (sent - self._sent[0] - taken)):
            self.denied += 1
            return False
        self.active += 1
        self._taken[1] += 1
        return True

    def _turn_window(self, sent: int) -> None:
        now = self._clock()
        if now - self._window_at < WINDOW_S:
            return
        old = now - self._window_at >= 2 * WINDOW_S
        self._taken = [0 if old else self._taken[1], 0]
        self._sent = [sent if old else self._sent[1], sent]
        self._window_at = now

    def give_back(self) -> None:
        self.active -= 1

    def note(self, retries: int) -> None:
        """Retries happened, here or below."""
        now = self._clock()
        if now - self._since > WINDOW_S:
            self._since, self._seen = now, 0
        self._seen += retries
        if self._seen >= FLOOR:
            self.troubled = True
            self._since = now  # it lasts until nothing was heard for a while

    def calm_down(self) -> None:
        """Asked now and then: is it over?"""
        if self.troubled and self._clock() - self._since > WINDOW_S:
            self.troubled, self._seen = False, 0

    def __repr__(self) -> str:
        return f"<RetryBudget active={self.active}{' troubled' if self.troubled else ''}>"
