"""Judging children: which are dead, which may be, and which answer badly. Synchronous, no I/O.

    up ──probe late, no sign of life──▶ suspect ──several signals──▶ down     (the whole child; see `engines.prober`)
    up ──connection cannot be made────▶ ejected                               (the whole child)
    up ──bad responses────────────────▶ ejected                               (one model at the child)

What is suspect or ejected is still used where nothing else serves a model: it is better than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from hierarchy.registry.child import Child, Share
from hierarchy.registry.ejection import (
    FAILURE_RATE,
    REQUEST_VOLUME,
    WINDOW_S,
    Failure,
    FailureRecord,
    is_outlier,
)
from hierarchy.wire.status import OTHER_API, ModelKey

REFUSED_S: Final = 2.0  # how long a child that refused a connection is taken for dead
FLOWING_S: Final = 5.0  # a child from which bytes came in this time is not to blame for a request without an answer
PENALTY: Final = 4  # requests by which each bad response in a row raises the load that policies see
PENALTY_S: Final = 10.0  # after the last bad response; then it is tried again, however little there is to do
USABLE: Final = ("up", "suspect")  # the states of `SERVING` in which a child is no last resort


class Change(NamedTuple):
    """A child's state, or one of its models', is another one than before."""

    child: Child
    model: str  # "" for the whole child
    before: str
    state: str
    reason: str  # of the state, one line; "" for `up`
    api: str = ""  # of the model, if the child serves it through both families


@mypyc_attr(allow_interpreted_subclasses=True)
class Health:
    """The health of a registry's children.

    on_change: is called once for each change of a state. clock: monotonic seconds, injected.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.children: dict[str, Child] = {}  # by name
        self.generation = 0  # grows whenever the candidates for a request may have changed
        self.on_change: Callable[[Change], None] | None = None
        self._clock = clock
        self._ejected: set[Child] = set()  # whose ejections may still last: nearly always none
        self._window_at = clock()
        self._turns_windows = False  # the present sweep begins new windows

    # -- the whole child -----------------------------------------------------------------------------------------

    def mark_down(self, child: Child, reason: str) -> None:
        """An engine cannot be used."""
        if child.down is None:
            self.generation += 1
        child.process_number += 1
        child.down = reason
        self._limit_ejections(child)
        self._note(child)

    def suspect(self, child: Child, reason: str) -> None:
        """The child may be dead: it gets no new requests while another one can take them."""
        if child.suspect is None:
            child.suspect = reason
            self.generation += 1
            self._note(child)

    def trust(self, child: Child) -> None:
        """A suspect gave a sign of life."""
        if child.suspect is not None:
            child.suspect = None
            self.generation += 1
            self._note(child)

    def set_asleep(self, child: Child, asleep: bool, *, wakes: bool = False) -> None:
        """An engine has put its model away, or has it back. wakes: a request can wake it up."""
        if child.asleep is not asleep or child.wakes is not wakes:
            if asleep and not child.asleep:
                child.process_number += 1  # with its model, its cache went, too
            child.asleep, child.wakes = asleep, wakes
            child.wake_failed, child.wake_again_at = "", math.inf
            self.generation += 1
            self._note(child)

    def wake_failed(self, child: Child, reason: str, again_s: float) -> None:
        """A child could not be woken up. It is not tried again for so many seconds."""
        child.wake_failed, child.wake_again_at = reason, self._clock() + again_s
        self.generation += 1

    def _may_wake_again(self, child: Child) -> None:
        child.wake_failed, child.wake_again_at = "", math.inf
        self.generation += 1

    # -- models that were not loaded -----------------------------------------------------------------------------

    def begin_load(self, share: Share) -> None:
        """A request is sent to a child that has to load its model. Call it where the share has a load time."""
        share.begin_load(self._clock())

    def loaded(self, share: Share) -> None:
        """A response began, so the model is loaded. Call it where the share has a load time."""
        share.note_loaded(self._clock())
        self.generation += 1

    # -- requests that failed, and those that did not ------------------------------------------------------------

    def failed(self, share: Share, failure: Failure, reason: str, *, elsewhere: bool = False) -> None:
        """A request failed, and the child is to blame. Enough failures eject it, each time for twice as long.

        At most half of the children of a model are ejected, unless `elsewhere`: the parent said with the request that
        others can serve it.
        """
        if failure == "unreachable":
            self._unreachable(share.child, reason, elsewhere=elsewhere)
        else:
            self._responded_badly(share, failure, reason, elsewhere=elsewhere)

    def _unreachable(self, child: Child, reason: str, *, elsewhere: bool) -> None:
        now = self._clock()
        child.refused_until = now + REFUSED_S
        record = child.failures = child.failures or FailureRecord()
        if not record.failed("unreachable", now) or child.state(now) not in USABLE:
            return
        if not elsewhere and any(self._too_many_ejected(key, now) for key in child.shares):
            record.clear_strikes()
            return
        record.eject(now, child.in_flight, reason)
        self._begin_ejection(child)

    def _responded_badly(self, share: Share, failure: Failure, reason: str, *, elsewhere: bool) -> None:
        now, child = self._clock(), share.child
        if failure == "timeout" and now - child.heard_at < FLOWING_S:
            failure = "error"  # it serves others, so this request may be the reason
        share.responses.bad += 1
        record = share.failures = share.failures or FailureRecord()
        is_due = record.failed(failure, now) or _fails_often(share)
        share.penalty = PENALTY * record.strikes
        share.rescore()
        if not is_due or child.state(now) not in USABLE or share.is_ejected(now):
            return
        if failure in ("error", "cut") and not self._is_outlier(share, now):
            record.clear_strikes()
            self._end_ejections(share.key, now)  # those that fail as well are no worse
        elif not elsewhere and self._too_many_ejected(share.key, now):
            record.clear_strikes()
        else:
            record.eject(now, share.open, reason)
            self._begin_ejection(child)
        share.penalty = 0
        share.rescore()

    def first_byte(self, share: Share) -> None:
        """A response that is no failure began. Call it where the share or its child has failures."""
        now, whole = self._clock(), share.child.failures
        if share.failures is not None:
            share.failures.first_byte(now)
        if whole is not None:
            whole.first_byte(now)
            whole.completed()  # it can be reached

    def completed(self, share: Share) -> None:
        """A whole, good response ended. Call it where the share has failures."""
        if share.failures is not None:
            share.failures.completed()
            share.penalty = 0
            share.rescore()

    def _is_outlier(self, share: Share, now: float) -> bool:
        siblings = [one for one in self._serving(share.key, now) if one is not share]
        failing = sum(_is_failing(one, now) for one in siblings)
        return is_outlier(share.responses, [one.responses for one in siblings], failing_siblings=failing)

    # -- how many are ejected ------------------------------------------------------------------------------------

    def _serving(self, key: ModelKey, now: float) -> list[Share]:
        """The shares that would be available for a model if none was ejected."""
        shares = [child.shares[key] for child in self.children.values() if key in child.shares]
        return [share for share in shares if share.child.serves_now(now)]

    def _ejected_of(self, key: ModelKey, now: float) -> list[Share]:
        return [share for share in self._serving(key, now) if share.is_ejected(now)]

    def _too_many_ejected(self, key: ModelKey, now: float) -> bool:
        """Would more than half be ejected with one more? A fault of all is no single child's fault."""
        return 2 * (len(self._ejected_of(key, now)) + 1) > len(self._serving(key, now))

    def _limit_ejections(self, lost: Child) -> None:
        """A child was lost; end ejections until at most half of the rest are ejected, the oldest first."""
        if not self._ejected:  # a thousand children may leave at once
            return
        now = self._clock()
        for key in lost.shares:
            ejected = sorted(self._ejected_of(key, now), key=_ejected_until)
            for share in ejected[: max(0, len(ejected) - len(self._serving(key, now)) // 2)]:
                self._readmit(share.child, now)

    def _end_ejections(self, key: ModelKey, now: float) -> None:
        """End those of a model for bad responses: another child fails in the same way."""
        for share in self._ejected_of(key, now):
            if share.failures is not None:
                share.failures.end_ejection(now)
            self.generation += 1
            self._note(share.child)

    def _begin_ejection(self, child: Child) -> None:
        self._ejected.add(child)
        self.generation += 1
        self._note(child)

    def _readmit(self, child: Child, now: float) -> None:
        """End the ejections of a child and of its models; they still return slowly."""
        child.refused_until = min(child.refused_until, now)
        if child.failures is not None:
            child.failures.end_ejection(now)
        for share in child.shares.values():
            if share.failures is not None:
                share.failures.end_ejection(now)
        self.generation += 1
        self._note(child)

    # -- changes of state ----------------------------------------------------------------------------------------

    def _note(self, child: Child) -> None:
        """Tell `on_change` what changed at a child."""
        now = self._clock()
        for change in _changes(child, now):
            if self.on_change is not None:
                self.on_change(change)

    def _forgive(self, share: Share, record: FailureRecord, now: float) -> None:
        if share.penalty and now - record.last_at >= PENALTY_S:
            share.penalty = 0
            share.rescore()
        if record.is_over(now):
            share.failures = None

    def _begin_windows(self) -> None:
        """A sweep begins: it may begin new windows of the error rates."""
        now = self._clock()
        self._turns_windows = now - self._window_at >= WINDOW_S
        if self._turns_windows:
            self._window_at = now

    def sweep_health(self, children: list[Child]) -> None:
        """A part of a sweep: signs of life, the ends of ejections, error rates."""
        now = self._clock()
        for child in children:
            if child.received != child.heard:
                was_silent = now >= child.fresh_until
                child.heard, child.heard_at = child.received, now
                if was_silent:
                    self.generation += 1
            if now >= child.wake_again_at:
                self._may_wake_again(child)
            if child.failures is not None and child.failures.is_over(now):
                child.failures = None
            for share in child.shares.values():
                if share.failures is not None:
                    self._forgive(share, share.failures, now)
                if self._turns_windows:
                    share.responses.turn()
            self._note(child)

    def _sweep_ejections(self) -> None:
        """A sweep ends: forget those that are not ejected any more, or have gone."""
        now, children = self._clock(), self.children
        for child in list(self._ejected):
            if children.get(child.name) is not child or not _is_ejected(child, now):
                self._ejected.discard(child)


def _is_failing(share: Share, now: float) -> bool:
    """Was its last response bad?"""
    return share.failures is not None and (share.failures.strikes > 0 or share.is_ejected(now))


def _fails_often(share: Share) -> bool:
    """Is the error rate of the last windows too high?"""
    responses = share.responses
    return responses.volume >= REQUEST_VOLUME and responses.error_rate >= FAILURE_RATE


def _ejected_until(share: Share) -> float:
    """When the last of the ejections of a share and its child ends or ended."""
    return max([record.until for record in share.records], default=0.0)


def _is_ejected(child: Child, now: float) -> bool:
    """Is it ejected, or one of its models?"""
    whole = child.failures is not None and child.failures.ejects(now)
    return whole or any(share.is_ejected(now) for share in child.shares.values())


def _changes(child: Child, now: float) -> Iterator[Change]:
    """What changed since the last call, the child first."""
    state = child.state(now)
    if state != child.noted:
        before, child.noted = child.noted, state
        yield Change(child, "", before, state, child.detail(now))
    for share in child.shares.values():
        own = share.failures
        ejected = own is not None and own.ejects(now)
        if own is not None and ejected is not share.was_ejected:
            share.was_ejected = ejected
            states = ("up", "ejected") if ejected else ("ejected", "up")
            name, api = share.key
            both = (name, OTHER_API[api]) in child.shares
            yield Change(child, name, *states, own.reason if ejected else "", api if both else "")
