"""This node's status: the sum over its children, kept up to date model by model.

Each parent's uplink reads it ten times a second, and there may be 5,000 children and 10,000 models. So what is looked
at again is only what has changed since: all children where the candidates for requests may be others (`generation`),
else those whose load has changed (`Tally`); and of a child only the models whose load has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from hierarchy.registry.child import Child, Tally
from hierarchy.registry.model_index import ModelIndex
from hierarchy.runtime.steps import Steps
from hierarchy.wire.status import AVOIDED, MAX_QUEUE, MAX_RATE, NOT_SERVED, ModelKey, ModelStatus, NodeStatus, rank

AT_ONCE: Final = 500  # models that are summed up in one step


class _Counted:
    """A child as it was when it was counted."""

    __slots__ = ("queue", "shares", "speed", "suspect")

    def __init__(self, child: Child) -> None:
        self.queue = child.total.value
        self.speed = child.status.speed
        self.shares = child.shares
        self.suspect = child.suspect


class Totals:
    """The sum over the children of one registry that serve."""

    def __init__(self) -> None:
        self._counted: dict[Child, _Counted] = {}
        self._ailing: set[Child] = set()  # those whose ejections may have begun or ended since they were counted
        self._rows: dict[ModelKey, ModelStatus] = {}
        self._status = NodeStatus()
        self._speed, self._queue = 0.0, 0
        self._stale: set[ModelKey] = set()  # models to sum up again
        self._differs = False  # a row has changed since `_status`
        self._is_asked = False  # since the last call of `forget`
        self._generation = -1  # of the registry when all children were counted
        self._until = -math.inf  # when the first child falls silent that was counted
        self.summed = 0  # models, ever: what keeping it up to date has cost

    def steps(
        self,
        children: Iterable[Child],
        index: ModelIndex,
        tally: Tally,
        now: float,
        generation: int,
        *,
        ejections: bool,
    ) -> Steps[NodeStatus]:
        """The status now; the same object as before if nothing has changed. In steps, at whose end it is another one.

        index, tally: of these children, up to date. generation: of the registry. ejections: may any child be ejected,
        or a model of one?
        """
        self._is_asked = True
        changed = tally.take()
        if generation != self._generation or now >= self._until or ejections or self._ailing:
            self._stale |= self._count_all(children, now, ejections=ejections)
            self._generation = generation
        else:
            self._count_some(changed)
        for child in changed:
            self._stale.update([share.key for share in child.take_changes()])
        while self._stale:
            self._sum_some(index, now)
            if self._stale:
                yield
        return self._renewed(index)

    def _sum_some(self, index: ModelIndex, now: float) -> None:
        stale = self._stale
        count = min(len(stale), AT_ONCE)
        self.summed += count
        for _ in range(count):
            self._differs |= self._sum(stale.pop(), index, now)

    def _renewed(self, index: ModelIndex) -> NodeStatus:
        queue, status = min(self._queue, MAX_QUEUE), self._status
        if self._differs or status.speed != self._speed or status.queue_length != queue:
            rows = self._rows
            models = tuple([rows[key] for key in index.order if key in rows]) if self._differs else status.models
            self._status = status = NodeStatus(models, self._speed, queue)
            self._differs = False
        return status

    def touch(self, keys: Iterable[ModelKey]) -> None:
        """Other children serve these models than when they were summed up."""
        self._stale.update(keys)

    def forget(self, tally: Tally) -> None:
        """Keep nothing if nobody has asked since the last call, as at a node without parents: children have gone."""
        if not self._is_asked:
            for child in tally.take():
                child.take_changes()
            self._counted, self._rows, self._status = {}, {}, NodeStatus()
            self._stale, self._ailing, self._generation = set(), set(), -1
        self._is_asked = False

    def _count_all(self, children: Iterable[Child], now: float, *, ejections: bool) -> set[ModelKey]:
        """Count all children again. Returns the models to sum up."""
        serving = [child for child in children if child.serves_now(now)]
        touched = self._forget(serving)
        before, self._ailing = self._ailing, {child for child in serving if _is_ailing(child)} if ejections else set()
        self._speed, self._queue, self._until = 0.0, 0, math.inf
        for child in serving:
            counted = self._counted.get(child)
            if (
                counted is None
                or counted.shares is not child.shares
                or counted.suspect != child.suspect
                or child in self._ailing
                or child in before
            ):
                touched.update(child.shares)
                if counted is not None and counted.shares is not child.shares:
                    touched.update(counted.shares)
            counted = self._counted[child] = _Counted(child)
            self._speed += counted.speed
            self._queue += counted.queue
            self._until = min(self._until, child.fresh_until)
        return touched

    def _count_some(self, changed: list[Child]) -> None:
        """Count these children again, where none has come or gone, and only loads and speeds may be others."""
        speed_differs = False
        for child in changed:
            counted = self._counted.get(child)
            if counted is not None:  # else it does not serve
                queue = child.total.value
                self._queue += queue - counted.queue
                counted.queue = queue
                if counted.speed != child.status.speed:
                    counted.speed, speed_differs = child.status.speed, True
        if speed_differs:  # not by the difference, which is not exact
            self._speed = 0.0
            for counted in self._counted.values():
                self._speed += counted.speed

    def _forget(self, serving: list[Child]) -> set[ModelKey]:
        """Forget the children that do not serve any more. Returns their models."""
        gone = self._counted.keys() - serving
        return {key for child in gone for key in self._counted.pop(child).shares}

    def _sum(self, key: ModelKey, index: ModelIndex, now: float) -> bool:
        """Sum one model up again. Returns whether something has changed.

        It counts without those that are to be avoided, unless there are no others, and without those that would have
        to load it, unless none has it loaded. Slots that are not known of one of them are not known of all.
        """
        speed, queue, slots = 0.0, 0, 0
        best, load_s, all_known = NOT_SERVED, 0.0, True
        prefill = decode = 0.0
        for child, share in index.shares(key).items():
            if child not in self._counted:
                continue
            one = rank(share.is_avoided(now), share.load_s)
            if one < best:
                speed, queue, slots, best, load_s = share.speed, share.value, share.slots, one, share.load_s
                all_known, prefill, decode = share.slots > 0, share.prefill, share.decode
            elif one == best:
                speed += share.speed
                queue += share.value
                slots += share.slots
                load_s = min(load_s, share.load_s)
                all_known &= share.slots > 0
                prefill += share.prefill
                decode += share.decode
        if best == NOT_SERVED:
            return self._rows.pop(key, None) is not None
        slots = min(slots, MAX_QUEUE) if all_known else 0
        queue, avoid = min(queue, MAX_QUEUE), best >= AVOIDED
        prefill, decode = min(prefill, MAX_RATE), min(decode, MAX_RATE)
        row = ModelStatus(key[0], key[1], speed, queue, slots, avoid, load_s, prefill, decode)
        if self._rows.get(key) == row:
            return False
        self._rows[key] = row
        return True

    def __repr__(self) -> str:
        return f"<Totals of {len(self._counted)} children, {len(self._rows)} models>"


def _is_ailing(child: Child) -> bool:
    return child.failures is not None or any(share.failures is not None for share in child.shares.values())
