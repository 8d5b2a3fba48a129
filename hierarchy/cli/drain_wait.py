"""Waiting until nothing is in flight at a drained node or engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hierarchy.cli.client import NodeClient, NodeError, NodeRefused
from hierarchy.errors import HierarchyError

POLL_S = 0.5
REPEAT_S = 30.0  # the progress is repeated so often if it does not change
QUIET_S = 2.0  # and not more often than this if it does
Page = dict[str, Any]


class WaitError(HierarchyError):
    """Requests were still in flight at the end of the time."""


class Waiting:
    """Polls the status of `path` until nothing was in flight for `settle_s`.

    Args:
        settle_s: in which all instances of the nodes above it learn of the drain.
        timeout_s: the longest wait.
        say: prints one line of progress.
        clock, sleep: injected; monotonic seconds.
    """

    def __init__(
        self,
        node: NodeClient,
        path: str,
        *,
        settle_s: float,
        timeout_s: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._node = node
        self._path = path
        self._settle_s = settle_s
        self._timeout_s = timeout_s
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._said = ""
        self._said_at = -REPEAT_S

    def run(self) -> str:
        """Wait. Returns how it ended, for the operator.

        Raises:
            WaitError: after `timeout_s` something was still in flight.
        """
        start = self._clock()
        idle_since: float | None = None
        while True:
            what = self._look()
            now = self._clock()
            idle_since = None if what else now if idle_since is None else idle_since
            if idle_since is not None and now - idle_since >= self._settle_s:
                return f"{self._path}: nothing is in flight"
            if not now - start < self._timeout_s:  # also ends it if the time is not a number
                what = what or "nothing in flight, but not for long enough"
                raise WaitError(f"{self._path}: {what} after {now - start:.0f} s; it stays drained")
            self._report(what, now)
            self._sleep(POLL_S)

    def _look(self) -> str:
        """What keeps it from being idle; "" if nothing does."""
        try:
            page = self._node.get("/admin/status", path=self._path, brief="true")
        except NodeRefused as error:
            return "" if error.status == 404 else f"its status is not known ({error.message or error.status})"
        except NodeError as error:
            return str(error)
        return busy(page)

    def _report(self, what: str, now: float) -> None:
        wait_s = QUIET_S if what != self._said else REPEAT_S
        if what and now - self._said_at >= wait_s:
            self._say(f"{self._path}: {what}")
            self._said, self._said_at = what, now


def busy(page: Page) -> str:
    """What keeps a node or engine with this status from being idle; "" if nothing does."""
    state = page.get("state")
    if failed := page.get("failed"):
        return f"no status from {', '.join(failed)}"
    if state in ("up", "suspect", "ejected", "asleep", "starting"):
        return "not drained at all instances of the node above it"
    # The queue is what the engine itself reports: requests of others, too. One that is down or gone reports nothing.
    queue = 0 if state in ("down", "gone") else page.get("queue_length") or 0
    count = max(page.get("in_flight") or 0, queue)
    return f"{count} in flight" if count else ""
