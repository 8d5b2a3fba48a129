"""Children that have a model loaded come before those that would have to load it. Pure functions.

    some warm child has room           ──▶ those warm children that have
    none, but a cold one is loading it ──▶ all warm ones, and those that load it
    none is loading it                 ──▶ all warm ones, and the emptiest of the cold ones

A warm child has room while a request is expected to wait there for less time than the quickest of the cold ones takes
to load the model. So a hundred requests at once load a model at one child, and not at all of them; a second one loads
it when the first one is not enough. Among what is left the node's policy chooses; `prefix` adds the load time to the
cost.

The emptiest child has the fewest models loaded: an engine that must put one away to load another would soon load that
again, and two engines with room for one model each would swap two models for ever.
"""

from __future__ import annotations

from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.expected_wait import expected_wait_s
from hierarchy.registry.child import NODE, Share


def warm_first(candidates: Candidates) -> Candidates:
    """The candidates among which a policy chooses. Call it where some of them have a load time (`has_cold`)."""
    warm, cold = candidates.by_warmth()
    if warm is not None:
        least_s = min([share.load_s for share in cold])
        roomy = [share for share in warm.shares if _wait_s(share) < least_s]
        if len(roomy) == len(warm.shares):
            return warm
        if roomy:
            return Candidates(roomy)
    more = [share for share in cold if share.is_loading] or emptiest(cold)
    return Candidates([*warm.shares, *more] if warm is not None else more)


def _wait_s(share: Share) -> float:
    return expected_wait_s(share.score * share.speed, share.slots, share.speed, share.pending)


def emptiest(shares: list[Share]) -> list[Share]:
    """Where a model is best loaded: where the fewest others are, then where the least is to do, then the quickest."""
    fullness = [_fullness(share) for share in shares]
    least = min(fullness)
    return [share for share, one in zip(shares, fullness, strict=True) if one == least]


def _fullness(share: Share) -> tuple[int, float, float]:
    child = share.child
    loaded = 0
    if child.kind != NODE:
        loaded = sum([other.load_s == 0.0 or other.open > 0 for other in child.shares.values()])
    return loaded, child.total.value / share.speed, share.load_s
