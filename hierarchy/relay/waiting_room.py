"""Requests that are held for a moment, because the model that they name may be back in a moment.

    no child for it ──▶ held ──a child that serves it appears──▶ sent there
                          │
                          └──its time is over, or its client is gone──▶ 503 with Retry-After, or nothing

Only the entry node holds requests: a node below gives them back, since its parent may have another child. What is held
is limited in time, number and bytes, so that names which clients make up cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from hierarchy.errors import RequestError, Unavailable
from hierarchy.labels import Requirement
from hierarchy.registry.child import Child

MAX_REQUESTS = 1024  # as many as a busy node gets in a few seconds; each keeps a connection open
MAX_BYTES = 64 * 1024 * 1024  # of bodies: two of the longest that `max_body_bytes` allows by default
# How many requests at once go to a child that has just appeared and reports no slots. The others follow with the next
# sweep, when its siblings may have appeared too: the first child to come back shall not get everything.
FIRST_FEW = 4
LOG_INTERVAL_S = 10.0  # clients decide how often requests are held, so they must not decide how much is logged
log = logging.getLogger("hierarchy.lane")


class Guest(Protocol):
    """A request that may be held."""

    held_until: float  # its time is over then, by the clock of the room; 0: it was never held

    def try_again(self, now: float) -> None:
        """Try again. If there is still no child and its time is over, it ends with an error."""


class _Place:
    """One held request.

    names: of the models, any of which would do. size: bytes of its body. require: labels that the child must have.
    """

    __slots__ = ("guest", "names", "require", "size")

    def __init__(self, guest: Guest, names: Collection[str], size: int, require: Requirement | None) -> None:
        self.guest = guest
        self.names = names
        self.size = size
        self.require = require


class WaitingRoom:
    """The held requests of one node, the oldest first.

    Args:
        clock: seconds, that of the registry.
        available: whether a model of that name is available now.
        hold_s: the longest time for which a request is held; 0 for not at all.
        call_soon: runs a function a moment later, outside of the present call; by default the event loop's.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        available: Callable[[str], bool],
        hold_s: float,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.hold_s = hold_s
        self._clock = clock
        self._available = available
        self._call_soon = call_soon or (lambda work: asyncio.get_running_loop().call_soon(work))
        self._places: dict[Guest, _Place] = {}
        self._bytes = 0
        self._appeared: dict[Child, dict[str, int]] = {}  # how many requests for each model may go to a new child
        self._logged_at = -math.inf
        self._count = 0  # requests since the room was empty, if that was logged
        self._was_empty = True  # at the last sweep

    def __len__(self) -> int:
        return len(self._places)

    def now(self) -> float:
        """Seconds of the room's clock."""
        return self._clock()

    def hold(
        self,
        guest: Guest,
        names: Collection[str],
        size: int,
        error: RequestError,
        require: Requirement | None = None,
    ) -> bool:
        """Keep a request until there may be a child for it. Returns False if it must end now, with the error.

        Args:
            names: of the models, any of which would do.
            size: bytes of its body.
            error: why there is no child; it knows whether waiting is worthwhile.
            require: labels that the child must have; None for none.
        """
        if not isinstance(error, Unavailable) or error.patience_s <= 0:
            return False
        now = self._clock()
        first = not guest.held_until
        if first:
            guest.held_until = now + min(self.hold_s, error.patience_s)
        if now >= guest.held_until or len(self._places) >= MAX_REQUESTS or self._bytes + size > MAX_BYTES:
            return False
        if first:
            self._log_begin(error, now)
        self._places[guest] = _Place(guest, names, size, require)
        self._was_empty = False
        self._bytes += size
        return True

    def leave(self, guest: Guest) -> None:
        """The request has ended, or its client is gone."""
        self._take(guest)

    def _take(self, guest: Guest) -> bool:
        place = self._places.pop(guest, None)
        if place is not None:
            self._bytes -= place.size
        return place is not None

    # -- back to work ----------------------------------------------------------------------------------------

    def appeared(self, child: Child) -> None:
        """A child may take requests that it could not take before. Some of those that wait for its models go to it."""
        if not self._places:
            return
        if not self._appeared:
            self._call_soon(self._let_some_go)
        free = self._appeared.setdefault(child, {})
        for (name, _), share in child.shares.items():
            slots = share.slots - share.value if share.slots else FIRST_FEW
            free[name] = free.get(name, 0) + max(1, slots)

    def _let_some_go(self) -> None:
        appeared, self._appeared = self._appeared, {}
        going: list[Guest] = []
        for place in self._places.values():
            if _takes_place(place, appeared):
                going.append(place.guest)
        self._resume(going)

    def sweep(self) -> None:
        """Twice a second: those whose model is available, or whose time is over, try again."""
        self._log_end()
        if not self._places:
            return
        now, places = self._clock(), self._places.values()
        available = {name for name in {name for place in places for name in place.names} if self._available(name)}
        ready = [place for place in places if now >= place.guest.held_until]
        ready += [place for place in places if not available.isdisjoint(place.names)]
        self._resume([place.guest for place in ready])

    def _resume(self, guests: Iterable[Guest]) -> None:
        now = self._clock()
        for guest in guests:
            if self._take(guest):  # else it has left meanwhile
                guest.try_again(now)

    # -- one line when it begins, and one when it is over ----------------------------------------------------

    def _log_begin(self, error: Unavailable, now: float) -> None:
        if not self._places and not self._count and now >= self._logged_at + LOG_INTERVAL_S:
            self._logged_at = now
            self._count = 1
            log.warning("requests are held: %s", error.event or error)
        elif self._count:
            self._count += 1

    def _log_end(self) -> None:
        """Once the room was empty at two sweeps: requests that try again may come back at once."""
        if self._count and not self._places and self._was_empty:
            log.info("no request is held any more, after %d", self._count)
            self._count = 0
        self._was_empty = not self._places

    def __repr__(self) -> str:
        return f"<WaitingRoom {len(self._places)} requests, {self._bytes} bytes>"


def _takes_place(place: _Place, appeared: dict[Child, dict[str, int]]) -> bool:
    """Has one of the new children room for the request? Then it takes it."""
    for child, free in appeared.items():
        for name in place.names:
            if free.get(name, 0) > 0 and (place.require is None or child.labels.can(name, place.require)):
                free[name] -= 1
                return True
    return False
