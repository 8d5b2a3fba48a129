"""The children among which a policy chooses."""

from __future__ import annotations

import math
from bisect import bisect
from itertools import accumulate
from random import Random
from typing import Any, Final

import xxhash

from hierarchy.registry.child import Share
from hierarchy.registry.membership import drain_key

_xxh3: Final[Any] = xxhash.xxh3_64_intdigest
_RANGE: Final = float(1 << 64)
MAX_RENDEZVOUS: Final = 256  # children; of more, a session's child changes with each of them


class Candidates:
    """The shares of the children that may get a request for one model now; never empty, never changed."""

    def __init__(self, shares: list[Share]) -> None:
        self.shares = shares
        #: those of all are known, so a free slot comes first; `Registry.available` returns another list if that changes
        self.by_slots = not any(share.slots == 0 for share in shares)
        self.has_cold = any(share.load_s > 0.0 for share in shares)  # some would have to load the model first
        self._warm: Candidates | None = None
        self._cold: list[Share] | None = None
        self._cumulative: list[float] | None = None
        self._seeds: list[Any] | None = None  # of what all parents call the children

    def by_warmth(self) -> tuple[Candidates | None, list[Share]]:
        """Those that have the model loaded, None if there are none, and those that would have to load it.

        Computed once: where that changes, so do the candidates.
        """
        if self._cold is None:
            warm = [share for share in self.shares if not share.load_s]
            self._cold = [share for share in self.shares if share.load_s]
            self._warm = Candidates(warm) if warm else None
        return self._warm, self._cold

    @property
    def cumulative_speed(self) -> list[float]:
        """Computed once, so that a draw weighted by speed costs only a bisection."""
        if self._cumulative is None:
            self._cumulative = list(accumulate([share.speed for share in self.shares]))
        return self._cumulative

    def draw(self, rng: Random) -> Share:
        """One share at random, weighted by speed."""
        return self._at(rng.random())

    def _at(self, part: float) -> Share:
        weights = self.cumulative_speed
        return self.shares[bisect(weights, part * weights[-1], 0, len(weights) - 1)]

    def of_session(self, session: int) -> Share:
        """The share that all nodes with the same children draw for a session, weighted by speed.

        Source: weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables").
        """
        shares = self.shares
        raw = session.to_bytes(8, "big")
        if len(shares) > MAX_RENDEZVOUS:
            return self._at(_xxh3(raw) / _RANGE)
        if self._seeds is None:
            self._seeds = [_xxh3(drain_key(share.child).encode()) for share in shares]
        best, most = shares[0], -1.0
        for share, seed in zip(shares, self._seeds, strict=True):
            drawn: float = (_xxh3(raw, seed) + 1) / (_RANGE + 1)
            weight = share.speed / -math.log(drawn) if drawn < 1 else math.inf
            if weight > most:
                best, most = share, weight
        return best
