"""This node's status: the sum over its children, kept up to date model by model.

Each parent's uplink reads it ten times a second, and there may be 10,000 models. So what is computed again is only the
models of the children that have changed since.
"""

from __future__ import annotations

from collections.abc import Iterable

from hierarchy.registry.child import Child
from hierarchy.registry.model_index import ModelIndex
from hierarchy.wire.status import MAX_QUEUE, ModelKey, ModelStatus, NodeStatus
from hierarchy.wire.tree_entry import SERVING

Counts = tuple[int, int, int, int, int]


class _Counted:
    """A child as it was when it was counted. Whatever changes its load changes one of the numbers."""

    __slots__ = ("counts", "shares", "status", "suspect")

    def __init__(self, child: Child) -> None:
        self.status = child.status
        self.shares = child.shares
        self.suspect = child.suspect
        self.counts = _counts(child)

    def is_current(self, child: Child) -> bool:
        """Has nothing changed?"""
        return (
            self.status is child.status
            and self.shares is child.shares
            and self.suspect == child.suspect
            and self.counts == _counts(child)
        )


def _counts(child: Child) -> Counts:
    total = child.total
    return child.sent, total.open, total.reported, total.ended, total.uncounted


class Totals:
    """The sum over the children of one registry that serve."""

    def __init__(self) -> None:
        self._counted: dict[Child, _Counted] = {}
        self._ailing: set[Child] = set()  # those whose ejections may have begun or ended since they were counted
        self._rows: dict[ModelKey, ModelStatus] = {}
        self._status = NodeStatus()
        self.summed = 0  # models, ever: what keeping it up to date has cost

    def update(self, children: Iterable[Child], index: ModelIndex, now: float, *, ejections: bool) -> NodeStatus:
        """The status now; the same object as before if nothing has changed.

        index: of these children, up to date. ejections: may any be ejected, or a model of one?
        """
        serving = [child for child in children if child.state(now) in SERVING]
        touched = self._forget(serving)
        before, self._ailing = self._ailing, {child for child in serving if _is_ailing(child)} if ejections else set()
        speed, queue = 0.0, 0
        for child in serving:
            speed += child.status.speed
            queue += child.total.value
            counted = self._counted.get(child)
            if counted is None or not counted.is_current(child) or child in self._ailing or child in before:
                touched.update(child.shares)
                if counted is not None and counted.shares is not child.shares:
                    touched.update(counted.shares)
                self._counted[child] = _Counted(child)
        changed = False
        self.summed += len(touched)
        for key in touched:
            changed |= self._sum(key, index, now)
        queue = min(queue, MAX_QUEUE)
        status = self._status
        if changed or (status.speed, status.queue_length) != (speed, queue):
            models = tuple([self._rows[key] for key in sorted(self._rows)]) if changed else status.models
            self._status = status = NodeStatus(models, speed, queue)
        return status

    def keeps_others(self, children: Iterable[Child]) -> bool:
        """Does it keep children that are none of these? They go with the next `update`."""
        return not self._counted.keys() <= set(children)

    def _forget(self, serving: list[Child]) -> set[ModelKey]:
        """Forget the children that do not serve any more. Returns their models."""
        gone = self._counted.keys() - serving
        return {key for child in gone for key in self._counted.pop(child).shares}

    def _sum(self, key: ModelKey, index: ModelIndex, now: float) -> bool:
        """Sum one model up again. Returns whether something has changed.

        It counts without those that are to be avoided, unless there are no others.
        """
        speed, queue, slots = 0.0, 0, 0
        avoid, found = True, False
        for child, share in index.shares(key).items():
            if child not in self._counted:
                continue
            is_avoided = share.is_avoided(now)
            if not found or (avoid and not is_avoided):
                speed, queue, slots, avoid, found = share.speed, share.value, share.slots, is_avoided, True
            elif is_avoided is avoid:
                speed += share.speed
                queue += share.value
                slots += share.slots
        if not found:
            return self._rows.pop(key, None) is not None
        row = ModelStatus(key[0], key[1], speed, min(queue, MAX_QUEUE), min(slots, MAX_QUEUE), avoid)
        if self._rows.get(key) == row:
            return False
        self._rows[key] = row
        return True

    def __repr__(self) -> str:
        return f"<Totals of {len(self._counted)} children, {len(self._rows)} models>"


def _is_ailing(child: Child) -> bool:
    return child.failures is not None or any(share.failures is not None for share in child.shares.values())
