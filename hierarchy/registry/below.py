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
from hierarchy.wire.limits import ChildLimits, weigh
from hierarchy.wire.listing import Listing, listing_steps


class Prepared:
    """What a large message changes below a child, computed in steps before the message is applied.

    of: the message's `children`. base: what was below the child before; merged: what is below it then.
    """

    __slots__ = ("base", "listing", "merged", "of", "size", "values")

    def __init__(self, of: Children, base: Mapping[str, Any], merged: Mapping[str, Any], listing: Listing) -> None:
        self.of = of.value
        self.size = of.size
        self.values = of.values
        self.base = base
        self.merged = merged
        self.listing = listing


def prepare(of: Children, base: Mapping[str, Any], before: Listing | None) -> Steps[Prepared]:
    """Compute what a message changes. before: the listing of `base`, if it is known."""
    merged = yield from subtree.merge_steps(base, of.value)
    listing = yield from listing_steps(merged, before)
    return Prepared(of, base, merged, listing)


def replace_below(
    child: Child, children: dict[str, Any] | None, limits: ChildLimits, ready: Prepared | None = None
) -> None:
    """A registration carries all that is below a child. ready: that, prepared from nothing."""
    if ready is not None and ready.of is children:
        child.below_bytes, child.below_values = ready.size, ready.values
        _keep(child, ready.merged, limits)
        child.listed = ready.listing
        return
    child.below_bytes, child.below_values = weigh(children) if children else (0, 0)
    _keep(child, subtree.merge({}, children or {}), limits)


def patch_below(child: Child, changes: dict[str, Any], limits: ChildLimits, ready: Prepared | None = None) -> None:
    """A report carries what changed. After a subtree that was too large, only a registration begins a new one."""
    if child.below_is_cut:
        return
    if ready is not None and ready.of is changes and ready.base is child.subtree:
        (size, values), merged = (ready.size, ready.values), ready.merged
        child.listed = ready.listing
    else:
        size, values = weigh(changes)
        merged = subtree.merge(child.subtree, changes)
    child.below_bytes += size
    child.below_values += values
    if child.below_bytes > limits.subtree_bytes or child.below_values > limits.subtree_values:
        child.below_bytes, child.below_values = weigh(merged)
    _keep(child, merged, limits)


def _keep(child: Child, below: Mapping[str, Any], limits: ChildLimits) -> None:
    child.below_is_cut = child.below_bytes > limits.subtree_bytes or child.below_values > limits.subtree_values
    if child.below_is_cut:
        below, child.below_bytes, child.below_values = {}, 0, 0
    child.subtree = below
