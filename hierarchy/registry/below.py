"""What is below a child, as it reports: kept as long as it is no longer than the child's share, else not at all.

A child whose subtree is too large keeps its place and its requests: only `/tree` does not show what is below it. The
size is an upper bound, to which each patch adds its own; only when that passes a limit is the whole measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierarchy.registry.child import Child
from hierarchy.runtime.steps import Steps
from hierarchy.wire import subtree
from hierarchy.wire.large import Children
from hierarchy.wire.limits import NO_WEIGHT, ChildLimits, Weight, weigh
from hierarchy.wire.listing import Listing, listing_steps

SLACK = 8  # a part of a limit


class Merged:
    """What a large message changes below a child, computed in steps before the message is applied.

    of: the message's `children`. base: what was below the child before; merged: what is below it then.
    """

    __slots__ = ("base", "is_too_large", "listing", "merged", "of", "weight")

    def __init__(self, of: Children, base: Mapping[str, Any], merged: Mapping[str, Any], listing: Listing) -> None:
        self.of = of.value
        self.weight = of.weight
        self.is_too_large = of.is_too_large
        self.base = base
        self.merged = merged
        self.listing = listing


def merge_in_steps(of: Children, base: Mapping[str, Any], before: Listing | None) -> Steps[Merged]:
    """Compute what a message changes. before: the listing of `base`, if it is known."""
    merged = yield from subtree.merge_steps(base, of.value)
    listing = yield from listing_steps(merged, before)
    return Merged(of, base, merged, listing)


def replace_below(
    child: Child,
    children: dict[str, Any] | None,
    limits: ChildLimits,
    ready: Merged | None = None,
    others: Weight = NO_WEIGHT,
) -> None:
    """A registration carries all that is below a child.

    ready: that, prepared from nothing. others: what is below the other instances of the same node.
    """
    if ready is not None and ready.of is children:
        weight, merged = ready.weight, ready.merged
        child.listed = ready.listing
    else:
        ready = None
        weight = weigh(children) if children else NO_WEIGHT
        merged = subtree.merge({}, children or {})
    _keep(child, merged, weight, weight.fits(limits, others) and not (ready is not None and ready.is_too_large))


def patch_below(
    child: Child,
    changes: dict[str, Any],
    limits: ChildLimits,
    ready: Merged | None = None,
    others: Weight = NO_WEIGHT,
) -> None:
    """A report carries what changed. After a subtree that was too large, only a registration begins a new one."""
    if child.below_is_cut:
        return
    if ready is not None and ready.is_too_large:
        _keep(child, {}, NO_WEIGHT, False)
        return
    if ready is not None and ready.of is changes and ready.base is child.subtree:
        added, merged = ready.weight, ready.merged
        child.listed = ready.listing
    else:
        added = weigh(changes)
        merged = subtree.merge(child.subtree, changes)
    weight = child.below.plus(added)
    if not weight.fits(limits, others):
        weight = _measured(merged, limits, others)
    _keep(child, merged, weight, weight.fits(limits, others))


def _measured(below: Mapping[str, Any], limits: ChildLimits, others: Weight) -> Weight:
    """The weight of all that is below a child.

    It takes milliseconds, so a child close to its limit must not cause it with each patch: an eighth is let go.
    """
    weight = weigh(below)
    slack = Weight(limits.subtree_bytes // SLACK, limits.subtree_values // SLACK, limits.memory_bytes // SLACK)
    if not weight.fits(limits, others):
        return weight
    return Weight(*(max(0, own - free) for own, free in zip(weight, slack, strict=True)))


def _keep(child: Child, below: Mapping[str, Any], weight: Weight, fits: bool) -> None:
    child.below_is_cut = not fits
    child.subtree, child.below = (below, weight) if fits else ({}, NO_WEIGHT)
