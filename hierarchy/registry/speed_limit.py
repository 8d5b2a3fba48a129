"""How fast a child may say that it is, where the configuration does not say so: ten times the median of the others.

A child that claims an enormous speed would draw all requests. It is not refused, since an honest site may be large:
what it claims beyond the limit does not count, and operators are told. The first child has nobody to be compared with,
and draws nothing from anybody. Half of all children together can still lie.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from hierarchy.registry.child import Child
from hierarchy.wire.status import ModelStatus, NodeStatus

TIMES: Final = 10.0


def claimed(status: NodeStatus) -> float:
    """The highest speed in a report."""
    return max([status.speed, *[model.speed for model in status.models]])


def limited(status: NodeStatus, limit: float) -> NodeStatus:
    """A report with no speed above the limit."""
    if claimed(status) <= limit:
        return status
    models = tuple(
        [ModelStatus(m.name, m.api, min(m.speed, limit), m.queue_length, m.slots, m.avoid) for m in status.models]
    )
    return NodeStatus(models, min(status.speed, limit), status.queue_length, status.asleep)


class SpeedLimit:
    """The speeds that all children claim, as far as a sweep has seen them; those that serve no model do not count."""

    def __init__(self) -> None:
        self._of: dict[str, float] = {}  # by name; the replicas of a node have the same speed, and one place
        self._sorted: list[float] = []

    def note(self, children: Iterable[Child]) -> None:
        """These are all children now."""
        self._of = {}
        for child in children:
            if child.status.speed > 0.0 and child.left_at is None:
                self._of[child.group or child.name] = child.status.speed if child.declared else child.claimed
        self._sorted = sorted(self._of.values())

    def of(self, child: Child) -> float:
        """The highest speed that counts for a child; infinity for one that the configuration names, or is alone."""
        if child.declared:
            return math.inf
        speeds, own = self._sorted, self._of.get(child.group or child.name)
        # The middle of the list without the child's own speed, which is left out by its place.
        place = bisect_left(speeds, own) if own is not None else len(speeds)
        count = len(speeds) - (own is not None)
        if count == 0:
            return math.inf
        low, high = (count - 1) // 2, count // 2
        return TIMES * (speeds[low + (low >= place)] + speeds[high + (high >= place)]) / 2
