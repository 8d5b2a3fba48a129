"""The children of one node: registration, reports, expiry, and the candidates for a request. Synchronous, no I/O.

There is one dict of children by name, and every other view is computed from it. Whether a child has expired is
computed when it is read (`Child.available(now)`); `sweep` only drops those that have been silent for long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.registry.admission import (
    NO_CLAIM,
    Claim,
    add_models,
    check_loop,
    child_name,
    confirm_models,
    find_registered,
    without_unconfirmed,
)
from hierarchy.registry.below import Prepared, patch_below, replace_below
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.drain import Drain
from hierarchy.registry.health import USABLE, Health
from hierarchy.registry.known_models import Absence, KnownModels
from hierarchy.registry.model_index import ModelIndex
from hierarchy.registry.totals import Totals
from hierarchy.wire.checks import check_status
from hierarchy.wire.limits import DEFAULT
from hierarchy.wire.messages import Deregistration, HeartBeat, Identity, Registration
from hierarchy.wire.status import Api, ModelKey, NodeStatus, part
from hierarchy.wire.tree_entry import SERVING

REMEMBERED_S: Final = 600.0  # how long a child that left is still shown, unless the configuration says otherwise
# Children that left and are still shown; beyond it, the first that left are forgotten. Not Final: tests replace it.
MAX_DEPARTED = 4096
MAX_CACHED: Final = 1024  # models whose candidates are kept
MAX_LOOKED_AT: Final = 100  # models, to name some that are available


@mypyc_attr(allow_interpreted_subclasses=True)
class Registry(Health):
    """All state about children.

    identity: this node's own, to detect loops. clock: monotonic seconds, injected.
    max_speed: the highest speed that a child may declare.
    """

    def __init__(self, identity: Identity, clock: Callable[[], float], max_speed: float = 1e6) -> None:
        super().__init__(clock)
        self.identity = identity
        self.max_speed = max_speed
        self.limits = DEFAULT  # how much one child may report
        self.departed: dict[str, Child] = {}  # children that left lately: their models are unavailable, not unknown
        self.drained: dict[str, Drain] = {}  # by `drain_key`: whichever child has it gets no new requests
        self.subtree_changes = 0  # grows whenever what is below a child has changed
        self.remember_s = REMEMBERED_S
        self.known = KnownModels()  # models that may exist although no child lists them
        self.index = ModelIndex()  # what the children list
        self._totals = Totals()
        self._former = ModelIndex()  # what those list that left lately
        self._listeners: list[Callable[[Child], None]] = []
        self._served_at: dict[Child, float] = {}  # when a child was seen to serve, of those that did at the last sweep
        self._names: tuple[int, float, list[str]] = -1, 0.0, []  # generation, time until which it holds, names
        self._silent: set[str] = set()  # names of nodes that `newly_silent` has returned
        #: model -> (generation, time until which it holds, candidates)
        self._available: dict[ModelKey, tuple[int, float, list[Share]]] = {}

    def __iter__(self) -> Iterator[Child]:
        return iter(self.children.values())

    def __len__(self) -> int:
        return len(self.children)

    # -- registrations and reports ---------------------------------------------------------------------------

    def declare(self, name: str, url: str, kind: str) -> Child:
        """Add an engine from this node's configuration; a prober will report for it."""
        child = self.children[name] = Child(name, url, kind, declared=True)
        child.drain = self._drain_of(child)
        self.generation += 1
        self.index.touch(child, self._clock())
        return child

    def register(
        self, message: Registration, identity: str = "", claim: Claim = NO_CLAIM, *, below: Prepared | None = None
    ) -> Child:
        """Accept a child, new or known.

        A FastChat worker whose status is null has no models until the prober has requested its status.

        Args:
            identity: of the token or credential in the request; "" for none.
            claim: what is known of its URL.
            below: what is below it, if that is large.

        Raises:
            InvalidField: a value is not allowed; nothing was registered.
            LoopDetected: it is this node, or has this node below it.
            NameTaken: another live child has that name or that address.
        """
        status = message.check(self.max_speed, self.limits, below=below is None)
        check_loop(message, self.identity, claim)
        name = child_name(message, self.children)
        now = self._clock()
        child = find_registered(self.children, self.departed, name, message, identity, now, claim)
        if child is not None and child.is_node != bool(message.node):
            self.remove(name)
            child = None
        if child is not None and child.is_node and child.instance == message.instance and message.seq < child.seq:
            return child  # a later message of the same process arrived first
        if child is None:
            child = self._add(name, message)
        self._update(child, message, identity, now, claim, below)
        if status is not None:
            self._apply_registered_status(child, message, status, now)
        elif not message.node:
            confirm_models(child, (), now)
        child.seq = message.seq
        if child.group:
            self._divide_capacity(child.group)
        self._may_serve(child)
        return child

    def _add(self, name: str, message: Registration) -> Child:
        child = self.children[name] = Child(name, message.worker_name, NODE if message.node else "fastchat")
        child.group = message.node if message.replica else ""
        child.drain = self._drain_of(child)
        return child

    def _update(
        self, child: Child, message: Registration, identity: str, now: float, claim: Claim, below: Prepared | None
    ) -> None:
        if child.url != message.worker_name.rstrip("/"):
            child.move_to(message.worker_name)
        child.addresses, child.proof = claim.addresses or child.addresses, claim.proof
        self.forget_departed(child.name)
        child.check_heart_beat = message.check_heart_beat
        child.multimodal = message.multimodal
        child.last_seen = now
        if message.node:
            _update_node_fields(self, child, message, below)
            if child.instance != message.instance:
                _forget_failures(child)
            child.instance, child.identity = message.instance, identity
            child.interval_s = message.interval_s
            child.secret = message.secret.encode()
            child.reverse, child.reads_prefix = claim.reverse, message.reads_prefix
            child.told = 0

    def _apply_registered_status(self, child: Child, message: Registration, status: NodeStatus, now: float) -> None:
        if message.node:
            _apply_report(child, status, now, message.seen)
            return
        child.process_number += 1  # the worker may have been restarted with other settings
        confirm_models(child, {model.key for model in status.models}, now)
        _apply_report(child, add_models(child, status), now, None)

    def sender(self, message: HeartBeat | Deregistration) -> Child | None:
        """The child that sent a message; of a replicated node, the right instance."""
        child = self.children.get(message.node or message.worker_name)
        if message.node and (child is None or (child.group and child.instance != message.instance)):
            child = next((one for one in self if one.group == message.node and one.instance == message.instance), None)
        return child

    def heart_beat(self, message: HeartBeat, below: Prepared | None = None) -> bool:
        """A worker's heartbeat or a node's report. False: the child is not known and must register again.

        below: what changes below the child, if that is large.

        Raises:
            InvalidField: a value is not allowed; the child keeps its former status.
        """
        child = self.sender(message)
        names = child.names if child is not None else None
        status = message.check(self.max_speed, self.limits, names, below=below is None)
        if child is None or child.declared or child.is_node != bool(message.node):
            return False
        if child.instance != message.instance and child.is_node:
            return False
        if self.identity.instance in message.path:  # a loop that has closed since its registration
            self.remove(child.name)
            return False
        now = self._clock()
        was_available = child.available(now)
        if status is None or not child.is_node:
            child.heart_beat(message.queue_length, now)
        elif message.seq <= child.seq:
            return True  # a later report arrived first
        else:
            child.seq = message.seq
            _update_node_fields(self, child, message, below)
            was_available &= not _apply_report(child, status, now, message.seen)
            self.index.touch(child, now)
        if not was_available:
            if child.group:
                self._divide_capacity(child.group)
            self._may_serve(child)
        return True

    def report(self, child: Child, status: NodeStatus) -> None:
        """Apply what a prober read from an engine.

        Raises:
            InvalidField: a value is not allowed, as in a registration; the child keeps its former status.
        """
        check_status(status, self.max_speed, limits=self.limits)
        now = self._clock()
        was_available = child.available(now)
        if child.down is not None:
            self._readmit(child, now)
        child.unconfirmed = {}
        changed = child.report(status, now) or not was_available
        self.set_asleep(child, status.asleep)
        if changed:
            self._may_serve(child)
        self._note(child)

    def subscribe(self, listener: Callable[[Child], None]) -> None:
        """Call `listener` with each child that may take requests which it could not take before."""
        self._listeners.append(listener)

    def _may_serve(self, child: Child) -> None:
        """What the child can be chosen for may have changed."""
        self.generation += 1
        now = self._clock()
        self.index.touch(child, now)
        if child.state(now) in SERVING:
            self._served_at[child] = now
        for listener in self._listeners:
            listener(child)

    def _divide_capacity(self, group: str) -> None:
        """Give each available instance of a replicated node an equal part of its status.

        All instances have the same children, so their speed must count once.
        """
        now = self._clock()
        self._divide([child for child in self if child.group == group and child.state(now) in USABLE])

    def _divide_all_capacities(self, now: float) -> None:
        groups: dict[str, list[Child]] = {}
        for child in self:
            if child.group and child.state(now) in USABLE:
                groups.setdefault(child.group, []).append(child)
        for instances in groups.values():
            self._divide(instances)

    def _divide(self, instances: list[Child]) -> None:
        for child in instances:
            if child.parts != len(instances) and child.last_seen is not None:
                child.parts = len(instances)
                status, seen = child.last_report
                child.report(part(status, child.parts), child.last_seen, seen)
                self.generation += 1

    # -- draining --------------------------------------------------------------------------------------------

    def set_drain(self, key: str, drain: Drain | None) -> list[Child]:
        """Send no new requests to the children with this `drain_key` or group, now or later (None: end that).

        Returns those that are here now.
        """
        if drain is None:
            self.drained.pop(key, None)
        else:
            self.drained[key] = drain
        for child in (*self, *self.departed.values()):
            child.drain = self._drain_of(child)
        self.generation += 1
        return [child for child in self if key in (child.group, drain_key(child))]

    def drained_absent(self) -> dict[str, Drain]:
        """Drains of children that are not here, nor were lately."""
        if not self.drained:  # nearly always, and each report asks
            return {}
        known = [*self, *self.departed.values()]
        here = {key for child in known for key in (drain_key(child), child.group)}
        return {key: drain for key, drain in self.drained.items() if key not in here}

    def _drain_of(self, child: Child) -> Drain | None:
        return self.drained.get(drain_key(child)) or self.drained.get(child.group)

    # -- leaving ---------------------------------------------------------------------------------------------

    def remove(self, name: str, instance: str | None = None) -> Child | None:
        """Forget a child; returns it. instance: only if it is this one, so that a late deregistration does no harm."""
        child = self.children.get(name)
        if child is None or (instance is not None and child.instance != instance):
            return None
        self._take_in()  # what it listed since the last time is known, too
        self.generation += 1
        del self.children[name]
        self.index.touch(child, self._clock())
        self._limit_ejections(child)
        if child.group:
            self._divide_capacity(child.group)
        return child

    def depart(self, name: str, instance: str | None = None) -> Child | None:
        """`remove` a child, and remember it for a while: it is shown as gone, and its models get 503, not 404."""
        child = self.remove(name, instance)
        if child is not None and (child.shares or child.subtree):
            child.left_at = self._clock()
            self.forget_departed(name)  # so that they are in the order in which they left
            self.departed[name] = child
            if len(self.departed) > MAX_DEPARTED:
                self.forget_departed(next(iter(self.departed)))
        return child

    def forget_departed(self, name: str) -> None:
        """Remember no longer that a child was here."""
        child = self.departed.pop(name, None)
        if child is not None:
            self.index.touch(child, self._clock())

    def sweep(self) -> list[Child]:
        """Drop the children that have been silent for too long; returns them. Call it twice a second."""
        return [child for dropped in self.sweep_in_parts(max(1, len(self))) for child in dropped]

    def sweep_in_parts(self, size: int) -> Iterator[list[Child]]:
        """`sweep`, but so many children at a time, since requests wait meanwhile. Yields those that each part dropped.

        All views are right between two parts.
        """
        self._begin_windows()
        children = list(self)
        for start in range(0, len(children), size):
            part = [child for child in children[start : start + size] if self.children.get(child.name) is child]
            yield self._sweep_part(part)
        self._sweep_rest()

    def _sweep_part(self, children: list[Child]) -> list[Child]:
        now = self._clock()
        self.sweep_health(children)
        dropped = [child for child in children if now >= child.gone_at]
        for child in dropped:
            self.depart(child.name)
            child.fell_silent = True
            child.left_at = child.last_seen
        for child in children:
            if child.unconfirmed:
                self._drop_unconfirmed(child, now)
            if child.left_at is None and self.index.differs(child):
                self.generation += 1
                self.index.touch(child, now)
        self._take_in()
        for child in children:
            self._note_whether_serving(child, now)
        return dropped

    def _note_whether_serving(self, child: Child, now: float) -> None:
        if child.state(now) in SERVING:
            self._served_at[child] = now
        elif child in self._served_at:
            self.known.available(child.shares, self._served_at.pop(child))

    def _sweep_rest(self) -> None:
        """What is not of one child."""
        now = self._clock()
        self._sweep_ejections()
        self._divide_all_capacities(now)  # an instance may have fallen silent
        for child in list(self.departed.values()):
            if child.left_at is not None and now >= child.left_at + self.remember_s:
                self.forget_departed(child.name)
        self._take_in()
        for child in [child for child in self._served_at if self.children.get(child.name) is not child]:
            self.known.available(child.shares, self._served_at.pop(child))
        self.known.forget(now)

    def remember(self, seconds: float) -> None:
        """How long what is gone is remembered."""
        self.remember_s = self.known.known_s = seconds

    def forget_candidates(self) -> None:
        """Forget candidates that have changed since: they keep children and models in memory that are gone."""
        generation = self.generation
        if self._names[0] != generation:
            self._names = -1, 0.0, []
        self._available = {key: cached for key, cached in self._available.items() if cached[0] == generation}

    def are_current(self, key: ModelKey, shares: list[Share]) -> bool:
        """Is this the list that `available` returns as long as nothing happens?"""
        cached = self._available.get(key)
        return cached is not None and cached[2] is shares

    def _drop_unconfirmed(self, child: Child, now: float) -> None:
        """A FastChat worker registered again without some of its models, and never listed them since."""
        status = without_unconfirmed(child, now - self.remember_s)
        if status is not None and child.last_seen is not None:
            _apply_report(child, status, child.last_seen, None)
            self.generation += 1
            self.index.touch(child, now)

    def _take_in(self) -> None:
        """Bring the index up to date with the children that were touched."""
        for child, now in self.index.touched():
            here = self.children.get(child.name) is child
            moved = self.index.update(child, here=here)
            served_at = self._served_at.get(child)
            if served_at is not None:
                self.known.available(moved.dropped, served_at)
            self.known.vanished([key for key in moved.vanished if not self.index.lists(*key)], now)
            self.known.appeared([key for key in moved.appeared if self.index.lists(*key)], now)
            self.known.note_child(child, now, here=here)
            self._former.update(child, here=self.departed.get(child.name) is child)

    def newly_silent(self) -> list[Child]:
        """The nodes that have fallen silent since the last call."""
        now = self._clock()
        silent = {child.name for child in self if child.is_node and now >= child.fresh_until}
        new = [self.children[name] for name in silent - self._silent]
        self._silent = silent
        return new

    def _serving(self, key: ModelKey, now: float) -> list[Share]:
        self._take_in()
        return [share for child, share in self.index.shares(key).items() if child.state(now) in SERVING]

    # -- views -----------------------------------------------------------------------------------------------

    def find(self, name_or_url: str) -> Child | None:
        """By name, else by URL."""
        child = self.children.get(name_or_url)
        if child is not None:
            return child
        url = name_or_url.rstrip("/")
        return next((child for child in self if child.url == url), None)

    def serves(self, name: str, model: str) -> bool:
        """Is there a child of that name, and does it list the model through any API? model: "" for whatever it has."""
        child = self.children.get(name)
        return child is not None and (
            not model or (model, "openai") in child.shares or (model, "fastchat") in child.shares
        )

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

    def _sort(self, key: ModelKey, now: float) -> tuple[list[Share], float] | None:
        """The best shares for a model that there are, and until when they are; None if no child serves it."""
        preferred: list[Share] = []
        full: list[Share] = []  # of children that return from an ejection and have as many requests as they may
        avoided: list[Share] = []
        until = math.inf
        served = False
        self._take_in()
        for child, share in self.index.shares(key).items():
            served = True
            if share.is_ejected(now):
                until = min(until, _ejection_end(share, now))
            elif child.state(now) in USABLE:
                if _is_returning(share):
                    until = now  # each request changes what it admits, so nothing can be cached
                    if not _admits(share):
                        full.append(share)
                        continue
                (avoided if share.avoid or child.suspect is not None else preferred).append(share)
                until = min(until, child.fresh_until)
        return (preferred or full or avoided, until) if served else None

    def last_resort(self, key: ModelKey) -> list[Share]:
        """The ejected shares, which are better than none."""
        return self._ejected_of(key, self._clock())

    def listed(self, model: str, api: Api | None = None) -> bool:
        """Does any engine below serve this model, available or not?

        A node reports only the models that are available; those that are not are in its subtree.
        """
        self._take_in()
        return self.index.lists(model, api) or self._former.lists(model, api)

    def absence(self, key: ModelKey) -> Absence | None:
        """Why a model that exists, or may exist, cannot be requested now; None if it does not exist.

        Call it where no child is available for the model.
        """
        now, (name, api) = self._clock(), key
        if self.listed(name, api):
            self._note_serving(key, now)
            return self.known.lost(key, now)
        known = self.known.known(key, now)
        if known is not None:
            return known
        if not self.listed(name) and self.known.is_declared(name):
            return self.known.declared(name)
        return self.known.possible(name, now)

    def _note_serving(self, key: ModelKey, now: float) -> None:
        """Note when a model was available, as far as the last sweep did not."""
        for child in self.index.shares(key):
            if child.state(now) in SERVING:
                self._served_at[child] = now
            if child in self._served_at:
                self.known.available((key,), self._served_at[child])

    def is_incomplete(self) -> bool:
        """May there be models below this node that it does not know yet?"""
        self._take_in()
        return self.known.incomplete(self._clock())

    def now(self) -> float:
        """Seconds of this registry's clock."""
        return self._clock()

    def status(self) -> NodeStatus:
        """This node's status: the sum over the available children."""
        self._take_in()
        return self._totals.update(self, self.index, self._clock(), ejections=self._ejections > 0)

    def model_names(self) -> list[str]:
        """Sorted names of the available models; do not change the list, which is kept until something happens."""
        self._take_in()
        now = self._clock()
        generation, until, names = self._names
        if generation != self.generation or now >= until:
            serving = {child: child.fresh_until for child in self if child.state(now) in SERVING}
            found = {key[0] for key in self.index.order if not serving.keys().isdisjoint(self.index.shares(key))}
            until, names = min(serving.values(), default=math.inf), sorted(found)
            self._names = self.generation, until, names
        return names

    def some_names(self, count: int) -> list[str]:
        """The first of the names of the available models, perhaps fewer, but never after a long search."""
        self._take_in()
        now, names = self._clock(), dict[str, None]()
        for key in self.index.order[:MAX_LOOKED_AT]:
            if any(child.state(now) in SERVING for child in self.index.shares(key)):
                names[key[0]] = None
                if len(names) == count:
                    break
        return list(names)

    def names_by_mode(self, *, multimodal: bool) -> list[str]:
        """Sorted names of the models of FastChat workers that registered as multimodal, or of all other children."""
        now = self._clock()
        chosen = (child for child in self if child.multimodal is multimodal and child.state(now) in SERVING)
        return sorted({key[0] for child in chosen for key in child.shares})

    def engine_count(self) -> int:
        """How many engines are below this node, available or not."""
        self._take_in()
        listings = [self.index.listing_of(child) if child.is_node else None for child in self]
        return sum([1 if listing is None else listing.engines for listing in listings])

    def path(self) -> list[str]:
        """Instances of this node and of all nodes below, sorted."""
        instances: set[str] = {self.identity.instance}
        for child in self:
            instances |= child.path
        return sorted(instances)


def drain_key(child: Child) -> str:
    """Its name; of one instance of a replicated node GROUP@URL, since its number differs from parent to parent."""
    return f"{child.group}@{child.url}" if child.group else child.name


def is_avoided(shares: list[Share]) -> bool:
    """Are the shares that `Registry.available` returned to be used only where nobody else serves the model?"""
    if not shares:
        return True
    first = shares[0]  # all of them are, or none is
    return first.avoid or first.child.suspect is not None


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


def _apply_report(child: Child, status: NodeStatus, now: float, seen: int | None) -> bool:
    """Returns whether models or speeds changed. seen: see `Child.report`."""
    child.last_report = status, seen
    return child.report(part(status, child.parts), now, seen)


def _update_node_fields(
    registry: Registry, child: Child, message: Registration | HeartBeat, below: Prepared | None
) -> None:
    child.leaving, child.incomplete = message.draining, message.incomplete
    child.warnings = message.warnings
    names = message.names
    if names != child.names:
        child.names = names
        child.version, child.build, child.dispatch = message.version, message.build, message.dispatch
        child.path = frozenset(message.path)
    if isinstance(message, Registration):
        replace_below(child, message.children, registry.limits, below)
        registry.subtree_changes += 1
    elif message.children:
        patch_below(child, message.children, registry.limits, below)
        registry.subtree_changes += 1


def _forget_failures(child: Child) -> None:
    """A new process has this name; what is known of the former one does not count."""
    child.process_number += 1
    child.failures = child.suspect = None
    child.refused_until = -math.inf
    for share in child.shares.values():
        share.failures, share.penalty = None, 0
