"""Dispatch policies: which of the available children gets the next request.

A policy is a callable `(candidates, rng) -> Share`. Its candidates are never empty, and each may get the request.
`POLICIES` maps the name in YAML and on the command line to a factory, because `round_robin` has state.

Source: `lottery` and `shortest_queue` are FastChat's (its queue_length / speed, but without its preference for the
first of equals); `p2c` is Mitzenmacher's power of two choices, for balancers that know loads from reports alone. Nodes
count their own leases, so `shortest_queue` is better unless a dozen nodes probe the same few engines
(docs/explanation/load-and-leases.md has figures).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.prefix_choice import PrefixChoice
from hierarchy.registry.child import Share
from hierarchy.wire.status import ModelKey

MAX_TURNS: Final = 1024  # models whose turn is remembered
P2C_DRAWS: Final = 8  # at most, for a second share that differs from the first
IDLE_DRAWS: Final = 8  # for a share without load, before all are compared
FEW: Final = 16  # as many are compared at once


Policy = Callable[[Candidates, Random], Share]


def lottery(candidates: Candidates, rng: Random) -> Share:
    """At random, weighted by speed."""
    return candidates.draw(rng)


def shortest_queue(candidates: Candidates, rng: Random) -> Share:
    """The least score (load / speed, or by slots where all are known); among equals at random, weighted by speed."""
    shares, by_slots = candidates.shares, candidates.by_slots
    if len(shares) > FEW:
        # No score is below 0, and a draw that is repeated until it has that score is a draw among all that have it.
        for _ in range(IDLE_DRAWS):
            drawn = candidates.draw(rng)
            if drawn.score == 0.0:
                return drawn
    best, least, speeds = shares[0], math.inf, 0.0
    for share in shares:
        score = share.busy if by_slots else share.score
        if score < least:
            best, least, speeds = share, score, share.speed
        elif score == least:
            # Each further equal replaces the best so far with probability speed / (speeds of all equals so far).
            speeds += share.speed
            if rng.random() * speeds < share.speed:
                best = share
    return best


def p2c(candidates: Candidates, rng: Random) -> Share:
    """Two different shares at random, weighted by speed; the one with the lower score."""
    first = second = candidates.draw(rng)
    if len(candidates.shares) == 1:
        return first
    for _ in range(P2C_DRAWS):  # a share with nearly all the speed is drawn again and again: then it gets the request
        second = candidates.draw(rng)
        if second is not first:
            break
    if candidates.by_slots:
        return second if second.busy < first.busy else first
    return second if second.score < first.score else first


class RoundRobin:
    """Each in turn, per model, whatever its speed and load."""

    def __init__(self) -> None:
        self._turns: dict[ModelKey, int] = {}

    def __call__(self, candidates: Candidates, rng: Random) -> Share:
        shares = candidates.shares
        key = shares[0].key
        # The first turn is random, so that the nodes of a tree do not all start with their first child.
        turn = self._turns.get(key, -1)
        if turn < 0:
            if len(self._turns) >= MAX_TURNS:
                self._turns.clear()  # mostly of models that are gone
            turn = int(rng.random() * len(shares))
        self._turns[key] = turn + 1
        return shares[turn % len(shares)]


POLICIES: dict[str, Callable[[], Policy]] = {
    "shortest_queue": lambda: shortest_queue,
    "p2c": lambda: p2c,
    "lottery": lambda: lottery,
    "round_robin": RoundRobin,
    "prefix": PrefixChoice,
}
