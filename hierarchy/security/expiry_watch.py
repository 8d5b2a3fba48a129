"""Warns of certificates and credentials that expire: once when it is near, once when it has happened."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from hierarchy.runtime.expiry import Lifetime, Stage

#: how to fix it, by the first word of what expires
HINTS = {
    "certificate": "renew it: replace its files, and the node reads them",
    "CA": "replace it on all nodes, and restart them",
    "credential": "a parent renews it at a registration: see the log for why it did not, or make a new join token",
}
log = logging.getLogger("hierarchy.security")


class ExpiryWatch:
    """Looks at what expires each time it is asked to."""

    def __init__(self, lifetimes: Callable[[], Mapping[str, Lifetime]], now: Callable[[], float] = time.time) -> None:
        """
        Args:
            lifetimes: returns what expires now, by the words for it in messages.
            now: Unix seconds.
        """
        self._lifetimes = lifetimes
        self._now = now
        self._reported: dict[str, Stage] = {}

    def check(self) -> None:
        """Log what came near its end, or reached it, since the last call."""
        now = self._now()
        for what, lifetime in self._lifetimes().items():
            stage = lifetime.stage(now)
            if stage != self._reported.get(what, "valid"):
                self._report(what, lifetime, stage, now)
            self._reported[what] = stage

    def _report(self, what: str, lifetime: Lifetime, stage: Stage, now: float) -> None:
        if stage == "expires soon":
            log.warning("the %s %s; %s", what, lifetime.describe(now), hint_for(what))
        elif stage != "valid":
            log.error("the %s %s: others do not accept it; %s", what, lifetime.describe(now), hint_for(what))

    def warnings(self) -> list[str]:
        """One line for each thing that expires soon or has expired."""
        now = self._now()
        found = ((what, lifetime.describe(now)) for what, lifetime in self._lifetimes().items())
        return [f"the {what} {problem}; {hint_for(what)}" for what, problem in found if problem]


def hint_for(what: str) -> str:
    """How to fix that it expires. what: the words for it in messages, such as `certificate FILE`."""
    return HINTS[what.partition(" ")[0]]
