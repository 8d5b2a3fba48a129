"""The candidates for a request, and which models can be requested at all. Synchronous, no I/O.

Whether a child has fallen silent is computed when it is read (`Child.available(now)`). What is computed is kept until
something happens, or the first child would fall silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.labels import Requirement
from hierarchy.registry.child import Child, Share
from hierarchy.registry.health import USABLE
from hierarchy.registry.known_models import PATIENCE_S, Absence
from hierarchy.registry.membership import Membership
from hierarchy.registry.public_name import said_of
from hierarchy.registry.totals import Totals
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.status import ModelKey, NodeStatus

AT_ONCE: Final = 200  # models
MAX_CACHED: Final = 1024  # models whose candidates are kept
RETURN_CHECK_S: Final = 0.5  # between two looks for a child that may return
MAX_LOOKED_AT: Final = 100  # models, to name some that are available


@mypyc_attr(allow_interpreted_subclasses=True)
class CandidateViews(Membership):
    """What the children can be chosen for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._totals = Totals()
        self._names: tuple[int, float, list[str]] = -1, 0.0, []  # generation, time until which it holds, names
        #: model -> (generation, time until which it holds, candidates)
        self._available: dict[ModelKey, tuple[int, float, list[Share]]] = {}
        #: the same, of those that have the labels which some requests require
        self._allowed: dict[tuple[ModelKey, Requirement], tuple[int, float, list[Share]]] = {}
        self._returning: dict[tuple[str, Requirement], tuple[float, float]] = {}  # see `may_return`: when, and what

    # -- for a request ---------------------------------------------------------------------------------------

    def available(self, key: ModelKey) -> list[Share]:
        """The shares of the children that may get a request for this model now (do not change the list).

        Those to be avoided only if there are no others: then all of the list are (`is_avoided`). Cached until
        something happens or the first of them would fall silent, and the same object until then.
        """
        now = self._clock()
        cached = self._available.get(key)
        if cached is not None and cached[0] == self.generation and now < cached[1]:
            return cached[2]
        sorted_out = self._sort(key, now)
        if sorted_out is None:  # names that clients make up, of any length, must not pile up
            self._available.pop(key, None)
            return []
        if len(self._available) > MAX_CACHED:
            self._available.clear()  # mostly models that are gone
        shares, until = sorted_out
        self._available[key] = self.generation, until, shares
        return shares

    def allowed(self, key: ModelKey, require: Requirement | None) -> list[Share]:
        """The same, of those that have the labels which a request requires; None: of all."""
        if require is None:
            return self.available(key)
        if not self.may_be_met(require):
            return []
        now = self._clock()
        cached = self._allowed.get((key, require))
        if cached is not None and cached[0] == self.generation and now < cached[1]:
            return cached[2]
        sorted_out = self._sort(key, now, require)
        if sorted_out is None:
            if not self.index.shares(key):
                return []
            sorted_out = [], math.inf  # else each such request would look at all children of the model
        if len(self._allowed) > MAX_CACHED:
            self._allowed.clear()
        shares, until = sorted_out
        self._allowed[key, require] = self.generation, until, shares
        return shares

    def _sort(self, key: ModelKey, now: float, require: Requirement | None = None) -> tuple[list[Share], float] | None:
        """The best shares for a model that there are, and until when they are; None if no child serves it."""
        preferred: list[Share] = []
        full: list[Share] = []  # of children that return from an ejection and have as many requests as they may
        avoided: list[Share] = []
        until = math.inf
        served = False
        self._take_in()
        for child, share in self.index.shares(key).items():
            if require is not None and not child.labels.can(key[0], require):
                continue
            served = True
            if share.is_ejected(now):
                until = min(until, _ejection_end(share, now))
            elif child.state(now) in USABLE or child.can_wake(now):
                if _is_returning(share):
                    until = now  # each request changes what it admits, so nothing can be cached
                    if not _admits(share):
                        full.append(share)
                        continue
                (avoided if share.avoid or child.suspect is not None else preferred).append(share)
                until = min(until, child.fresh_until)
        return (preferred or full or avoided, until) if served else None

    def last_resort(self, key: ModelKey, require: Requirement | None = None) -> list[Share]:
        """The ejected shares, which are better than none."""
        shares = self._ejected_of(key, self._clock())
        if require is None:
            return shares
        return [share for share in shares if share.child.labels.can(key[0], require)]

    def may_return(self, model: str, require: Requirement) -> float:
        """For how long a request may be held for a child with these labels, none of which is available; 0 for not.

        As long as this node does not know its children yet; or if such a child was here lately.
        """
        now = self._clock()
        if now < self.known.settled_at:
            return self.known.settled_at - now
        if not self.may_be_met(require):
            return 0.0
        looked_at, found = self._returning.get((model, require), (-math.inf, 0.0))
        if now - looked_at < RETURN_CHECK_S:  # else each such request would look at all children of the model
            return found
        if len(self._returning) > MAX_CACHED:
            self._returning.clear()
        found = math.inf if self._was_here_lately(model, require, now) else 0.0
        self._returning[model, require] = now, found
        return found

    def _was_here_lately(self, model: str, require: Requirement, now: float) -> bool:
        for key in ((model, "openai"), (model, "fastchat")):
            for child in (*self.index.shares(key), *self._former.shares(key)):
                if child.drain is not None or child.asleep or not child.labels.can(model, require):
                    continue
                seen = child.left_at if child.left_at is not None else child.last_seen
                if seen is not None and now - seen < PATIENCE_S:
                    return True
        return False

    def serves_with(self, model: str, require: Requirement) -> bool:
        """Does a child with these labels serve the model now, through any API?"""
        return bool(self.allowed((model, "openai"), require) or self.allowed((model, "fastchat"), require))

    def _serving(self, key: ModelKey, now: float) -> list[Share]:
        self._take_in()
        return [share for child, share in self.index.shares(key).items() if child.serves_now(now)]

    def are_current(self, key: ModelKey, shares: list[Share], require: Requirement | None = None) -> bool:
        """Is this the list that `available` returns as long as nothing happens?"""
        cached = self._available.get(key) if require is None else self._allowed.get((key, require))
        return cached is not None and cached[2] is shares

    # -- models ----------------------------------------------------------------------------------------------

    def absence(self, key: ModelKey) -> Absence | None:
        """Why a model that exists, or may exist, cannot be requested now; None if it does not exist.

        Call it where no child is available for the model.
        """
        now, (name, api) = self._clock(), key
        if self.listed(name, api):
            self._note_serving(key, now)
            return self._not_woken(key, now) or self.known.lost(key, now)
        known = self.known.known(key, now)
        if known is not None:
            return known
        if not self.listed(name) and self.known.is_declared(name):
            return self.known.declared(name)
        return self.known.possible(name, now)

    def _not_woken(self, key: ModelKey, now: float) -> Absence | None:
        """The absence of a model whose engine was to be woken up, which failed."""
        failed = [child for child in self.index.shares(key) if child.wake_failed and child.wakes]
        if not failed:
            return None
        first = min(failed, key=_wake_again_at)
        why = f"is not loaded, and {said_of(first, first.wake_failed)}"
        return Absence(why, f"model {key[0]!r} {why}", now, first.wake_again_at, holds=False)

    def _note_serving(self, key: ModelKey, now: float) -> None:
        """Note when a model was available, as far as the last sweep did not."""
        for child in self.index.shares(key):
            if child.serves_now(now):
                self._served_at[child] = now
            if child in self._served_at:
                self.known.available((key,), self._served_at[child])

    def status(self) -> NodeStatus:
        """This node's status: the sum over the available children."""
        self._take_in()
        return at_once(self._sum_steps())

    def status_steps(self) -> Steps[NodeStatus]:
        """`status` in steps: perhaps thousands of models have come."""
        yield from self.take_in_steps()
        status = yield from self._sum_steps()
        return status

    def _sum_steps(self) -> Steps[NodeStatus]:
        ejections = bool(self._ejected)
        return self._totals.steps(self, self.index, self.tally, self._clock(), self.generation, ejections=ejections)

    def _took_in(self, child: Child, dropped: list[ModelKey]) -> None:
        super()._took_in(child, dropped)
        self._totals.touch(child.shares)
        self._totals.touch(dropped)

    def model_names(self) -> list[str]:
        """Sorted names of the available models; do not change the list, which is kept until something happens."""
        return at_once(self.model_names_steps())

    def model_names_steps(self) -> Steps[list[str]]:
        """`model_names` in steps."""
        self._take_in()
        now, generation = self._clock(), self.generation
        known, until, names = self._names
        if known == generation and now < until:
            return names
        until, names = math.inf, []
        order = list(self.index.order)
        for begin in range(0, len(order), AT_ONCE):
            for key in order[begin : begin + AT_ONCE]:
                if names and names[-1] == key[0]:  # through another API family
                    continue
                for child in self.index.shares(key):
                    if child.serves_now(now):
                        names.append(key[0])
                        until = min(until, child.fresh_until)
                        break
            yield
        self._names = generation, until, names  # of no use if something has happened meanwhile
        return names

    def has_available(self, name: str) -> bool:
        """Is a model of that name available, through any API family?"""
        self._take_in()
        now = self._clock()
        keys: list[ModelKey] = [(name, "openai"), (name, "fastchat")]
        return any(child.serves_now(now) for key in keys for child in self.index.shares(key))

    def some_names(self, count: int) -> list[str]:
        """The first of the names of the available models, perhaps fewer, but never after a long search."""
        self._take_in()
        now, names = self._clock(), dict[str, None]()
        for key in self.index.order[:MAX_LOOKED_AT]:
            if any(child.serves_now(now) for child in self.index.shares(key)):
                names[key[0]] = None
                if len(names) == count:
                    break
        return list(names)

    def names_by_mode(self, *, multimodal: bool) -> list[str]:
        """Sorted names of the models of FastChat workers that registered as multimodal, or of all other children."""
        return at_once(self.names_by_mode_steps(multimodal=multimodal))

    def names_by_mode_steps(self, *, multimodal: bool) -> Steps[list[str]]:
        """`names_by_mode`, child by child."""
        now, found = self._clock(), set[str]()
        for child in list(self):
            if child.multimodal is multimodal and child.serves_now(now):
                found.update([key[0] for key in child.shares])
            yield
        return sorted(found)

    def forget_candidates(self) -> None:
        """Forget candidates and sums that have changed since: they keep children and models in memory that are gone."""
        generation = self.generation
        if self._names[0] != generation:
            self._names = -1, 0.0, []
        self._available = {key: cached for key, cached in self._available.items() if cached[0] == generation}
        self._allowed = {key: cached for key, cached in self._allowed.items() if cached[0] == generation}
        self._returning.clear()
        self._totals.forget(self.tally)


def is_avoided(shares: list[Share]) -> bool:
    """Are the shares that `Registry.available` returned to be used only where nobody else serves the model?"""
    if not shares:
        return True
    first = shares[0]  # all of them are, or none is
    return first.avoid or first.child.suspect is not None


def _wake_again_at(child: Child) -> float:
    return child.wake_again_at


def _is_returning(share: Share) -> bool:
    """Is it not fully back yet from an ejection?"""
    return any(record.returning for record in share.records)


def _admits(share: Share) -> bool:
    """May a share that returns get one more request?"""
    own, whole = share.failures, share.child.failures
    return (own is None or own.admits(share.open)) and (whole is None or whole.admits(share.child.in_flight))


def _ejection_end(share: Share, now: float) -> float:
    """When the first of the ejections of a share or its child that last ends."""
    return min([record.until for record in share.records if record.ejects(now)], default=now)
