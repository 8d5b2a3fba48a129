"""What is below a child, as it reports: kept as long as it is no longer than the child's share, else not at all.

A child whose subtree is too large keeps its place and its requests: only `/tree` does not show what is below it. The
size is an upper bound, to which each patch adds its own; only when that passes a limit is the whole measured again.
"""

from __future__ import annotations

from typing import Any

from hierarchy.registry.child import Child
from hierarchy.wire import subtree
from hierarchy.wire.limits import ChildLimits, weigh


def replace_below(child: Child, children: dict[str, Any] | None, limits: ChildLimits) -> None:
    """A registration carries all that is below a child."""
    child.below_bytes, child.below_values = weigh(children) if children else (0, 0)
    _keep(child, subtree.merge({}, children or {}), limits)


def patch_below(child: Child, changes: dict[str, Any], limits: ChildLimits) -> None:
    """A report carries what changed. After a subtree that was too large, only a registration begins a new one."""
    if child.below_is_cut:
        return
    size, values = weigh(changes)
    merged = subtree.merge(child.subtree, changes)
    child.below_bytes += size
    child.below_values += values
    if child.below_bytes > limits.subtree_bytes or child.below_values > limits.subtree_values:
        child.below_bytes, child.below_values = weigh(merged)
    _keep(child, merged, limits)


def _keep(child: Child, below: dict[str, Any], limits: ChildLimits) -> None:
    child.below_is_cut = child.below_bytes > limits.subtree_bytes or child.below_values > limits.subtree_values
    if child.below_is_cut:
        below, child.below_bytes, child.below_values = {}, 0, 0
    child.subtree = below
