"""Tiers: a node prefers some of its children, and uses the others where the wait at the first ones gets long.

`prefer: [site-a, site-b, cloud]` makes three tiers, in this order; children that it does not name are one more, the
last. A tier is used until its expected wait exceeds that of the next one by `spill_after_s`. The policy then chooses
within the tier, so this works with each of them. A tier without a usable child does not exist for a request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.expected_wait import Residence, wait_at
from hierarchy.labels import Requirement
from hierarchy.registry.child import Child, Share
from hierarchy.wire.status import ModelKey

SWEEP_S: Final = 1.0  # between two looks at how many requests have ended
MANY: Final = 64  # children of a tier: of more, some are drawn to find its wait
DRAWN: Final = 32
MAX_REMEMBERED: Final = 1024  # models whose tiers are kept between two requests


def kept(waits: Sequence[float], spill_after_s: float) -> int:
    """The index of the tier that is used: each is left for the first later one where the wait is shorter by enough.

    waits: expected at each, in seconds, the preferred one first. spill_after_s: how much is enough, and more.
    """
    at = 0
    for later in range(1, len(waits)):
        if waits[at] - waits[later] > spill_after_s:
            at = later
    return at


class Tiers:
    """The tiers of one node.

    prefer: names of children, tier by tier. spill_after_s: by how much longer the wait at a tier may be. former: the
    tiers until now; what was measured of the children stays known.
    """

    def __init__(self, prefer: Sequence[Sequence[str]], spill_after_s: float, former: Tiers | None = None) -> None:
        self.prefer = prefer
        self.spill_after_s = spill_after_s
        self._numbers = {name: number for number, names in enumerate(prefer, 1) for name in names}
        #: shares, and the tiers that they are
        self._split: dict[tuple[ModelKey, Requirement | None], tuple[list[Share], list[Candidates]]] = {}
        self._residences: dict[Child, Residence] = {} if former is None else former._residences
        self._at = -math.inf  # of the last look at them

    def number(self, child: Child) -> int:
        """The tier of a child, from 1 on. Of a replicated node all instances are in one."""
        return self._numbers.get(child.group or child.name, len(self.prefer) + 1)

    def remembered(
        self, key: ModelKey, shares: list[Share], rng: Random, require: Requirement | None = None
    ) -> Candidates:
        """Those of the tier that is used now.

        shares: a list that never changes, for which the tiers are kept. require: labels that they all have.
        """
        known = self._split.get((key, require))
        if known is None or known[0] is not shares:
            if len(self._split) > MAX_REMEMBERED:
                self._split.clear()
            known = self._split[key, require] = shares, self._tiers(shares)
        return self._choose(known[1], rng)

    def narrowed(self, shares: list[Share], rng: Random) -> Candidates:
        """The same, of shares that no other request will have."""
        return self._choose(self._tiers(shares), rng)

    def forget(self, is_current: Callable[[ModelKey, list[Share], Requirement | None], bool]) -> None:
        """Forget the tiers of lists that the registry would no longer return."""
        self._split = {key: known for key, known in self._split.items() if is_current(key[0], known[0], key[1])}

    def expected_wait_s(self, share: Share) -> float:
        """At one child."""
        residence = self._residences.get(share.child)
        return wait_at(share) if residence is None else wait_at(share, residence.seconds, residence.quiet_s)

    def sweep(self, children: Iterable[Child], now: float) -> None:
        """Look at how many requests the children have ended. Call it twice a second."""
        if now - self._at < SWEEP_S:
            return
        self._at = now
        before, self._residences = self._residences, {}
        for child in children:
            ended = child.sent - child.in_flight
            residence = before.get(child) or Residence(now, ended)
            residence.note(now, child.in_flight, ended)
            self._residences[child] = residence

    # -- inside ----------------------------------------------------------------------------------------------

    def _tiers(self, shares: list[Share]) -> list[Candidates]:
        tiers: dict[int, list[Share]] = {}
        for share in shares:
            tiers.setdefault(self.number(share.child), []).append(share)
        return [Candidates(tiers[number]) for number in sorted(tiers)]

    def _choose(self, tiers: list[Candidates], rng: Random) -> Candidates:
        """The tier that is used. Mostly the wait at the first one is short, and no other one is looked at."""
        first = tiers[0]
        if len(tiers) == 1 or self._has_place(first):
            return first
        return tiers[kept([self._wait_s(tier, rng) for tier in tiers], self.spill_after_s)]

    def _has_place(self, tier: Candidates) -> bool:
        """Is the wait at a child so short that no other tier's can be shorter by enough?"""
        limit = self.spill_after_s
        return any(self.expected_wait_s(share) <= limit for share in tier.shares[:MANY])

    def _wait_s(self, tier: Candidates, rng: Random) -> float:
        """The least wait of a tier's children, or of some of them."""
        least = math.inf
        shares = tier.shares
        if len(shares) > MANY:
            shares = [tier.draw(rng) for _ in range(DRAWN)]
        for share in shares:
            wait = self.expected_wait_s(share)
            if wait < least:
                least = wait
        return least

    def __repr__(self) -> str:
        return f"<Tiers {', '.join('+'.join(names) for names in self.prefer)} spill_after_s={self.spill_after_s:g}>"
