"""How fast a child may say that it is, where the configuration does not say so: ten times the median of the others.

A child that claims an enormous speed would draw all requests. It is not refused, since an honest site may be large:
what it claims beyond the limit does not count, and operators are told. The first child has nobody to be compared with,
and draws nothing from anybody. Half of all children together can still lie.

With slots it is the same: a child with a million of them would always have a free one. They are compared for each unit
of speed, so that a site may have as many more as it is faster. Those of a child that claims too many count as unknown:
fewer would make it look full.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from hierarchy.registry.child import Child
from hierarchy.wire.status import NodeStatus

TIMES: Final = 10.0


def claimed(status: NodeStatus) -> float:
    """The highest speed in a report."""
    return max([status.speed, *[model.speed for model in status.models]])


def claimed_slots(status: NodeStatus) -> float:
    """The most slots for each unit of speed in a report; 0.0 if it has none."""
    most = 0.0
    for model in status.models:
        if model.slots:
            most = max(most, model.slots / model.speed)
    return most


def limited(status: NodeStatus, limit: float, slots_limit: float = math.inf) -> NodeStatus:
    """A report with no speed above the limit, and without slots where they are more for each unit of speed."""
    if claimed(status) <= limit and (slots_limit == math.inf or claimed_slots(status) <= slots_limit):
        return status
    replace = msgspec.structs.replace
    models = []
    for model in status.models:
        speed = min(model.speed, limit)
        models.append(replace(model, speed=speed, slots=model.slots if model.slots <= slots_limit * speed else 0))
    return replace(status, models=tuple(models), speed=min(status.speed, limit))


class SpeedLimit:
    """The speeds that all children claim, as far as a sweep has seen them; those that serve no model do not count.

    slots: compares the slots for each unit of speed instead; children that report none do not count.
    """

    def __init__(self, *, slots: bool = False) -> None:
        self._slots = slots
        self._of: dict[str, float] = {}  # by name; the replicas of a node have the same speed, and one place
        self._sorted: list[float] = []

    def note(self, children: Iterable[Child]) -> None:
        """These are all children now."""
        self._of = {}
        for child in children:
            claim = self._claim(child)
            if claim > 0.0 and child.left_at is None:
                self._of[child.group or child.name] = claim
        self._sorted = sorted(self._of.values())

    def _claim(self, child: Child) -> float:
        if self._slots:
            return child.claimed_slots
        if child.declared or child.status.speed == 0.0:
            return child.status.speed
        return child.claimed

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
