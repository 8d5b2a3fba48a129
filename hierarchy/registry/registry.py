"""The children of one node: registration, reports, expiry, and the candidates for a request. Synchronous, no I/O.

There is one dict of children by name, and every other view is computed from it. Whether a child has expired is
computed when it is read (`Child.available(now)`); `sweep` only drops those that have been silent for long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.registry.admission import add_models, check_loop, child_name, find_registered
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.drain import Drain
from hierarchy.registry.ejection import Failure, FailureRecord
from hierarchy.wire import subtree
from hierarchy.wire.checks import check_status
from hierarchy.wire.messages import Deregistration, HeartBeat, Identity, Registration
from hierarchy.wire.status import Api, ModelKey, NodeStatus, aggregate, part

REMEMBERED_S: Final = 600.0  # how long a child that left is still shown
REFUSED_S: Final = 2.0  # how long a child that refused a connection is taken for dead
MAX_CACHED: Final = 1024  # models whose candidates are kept


@mypyc_attr(allow_interpreted_subclasses=True)
class Registry:
    """All state about children.

    identity: this node's own, to detect loops. clock: monotonic seconds, injected.
    max_speed: the highest speed that a child may declare.
    """

    def __init__(self, identity: Identity, clock: Callable[[], float], max_speed: float = 1e6) -> None:
        self.identity = identity
        self.max_speed = max_speed
        self.children: dict[str, Child] = {}  # by name
        self.departed: dict[str, Child] = {}  # children that left lately: their models are unavailable, not unknown
        self.drained: dict[str, Drain] = {}  # by `drain_key`: whichever child has it gets no new requests
        self.generation = 0  # grows whenever the candidates for a request may have changed
        self._silent: set[str] = set()  # names of nodes that `newly_silent` has returned
        self._ejected: set[Child] = set()  # children that were ejected, and may still be
        self._clock = clock
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
        return child

    def register(self, message: Registration, identity: str = "", *, reverse: bool = False) -> Child:
        """Accept a child, new or known.

        A FastChat worker whose status is null has no models until the prober has requested its status.

        Args:
            identity: of the token or credential in the request; "" for none.
            reverse: the child dials, so its URL need not lead to it.

        Raises:
            InvalidField: a value is not allowed; nothing was registered.
            LoopDetected: it is this node, or has this node below it.
            NameTaken: another live child has that name or that address.
        """
        status = message.check(self.max_speed)
        check_loop(message, self.identity, reverse=reverse)
        name = child_name(message, self.children)
        now = self._clock()
        child = find_registered(self.children, name, message, identity, now, reverse=reverse)
        if child is not None and child.is_node != bool(message.node):
            self.remove(name)
            child = None
        if child is not None and child.is_node and child.instance == message.instance and message.seq < child.seq:
            return child  # a later message of the same process arrived first
        if child is None:
            child = self._add(name, message)
        self._update(child, message, identity, now, reverse=reverse)
        if status is not None:
            self._apply_registered_status(child, message, status, now)
        child.seq = message.seq
        self.generation += 1
        if child.group:
            self._divide_capacity(child.group)
        return child

    def _add(self, name: str, message: Registration) -> Child:
        child = self.children[name] = Child(name, message.worker_name, NODE if message.node else "fastchat")
        child.group = message.node if message.replica else ""
        child.drain = self._drain_of(child)
        return child

    def _update(self, child: Child, message: Registration, identity: str, now: float, *, reverse: bool) -> None:
        if child.url != message.worker_name.rstrip("/"):
            child.move_to(message.worker_name)
        self.departed.pop(child.name, None)
        child.check_heart_beat = message.check_heart_beat
        child.multimodal = message.multimodal
        child.last_seen = now
        if message.node:
            _update_node_fields(child, message)
            if child.instance != message.instance:
                _forget_failures(child)
            child.instance, child.identity = message.instance, identity
            child.interval_s = message.interval_s
            child.secret = message.secret.encode()
            child.reverse = reverse

    def _apply_registered_status(self, child: Child, message: Registration, status: NodeStatus, now: float) -> None:
        if message.node:
            _apply_report(child, status, now, message.seen)
            return
        child.process_number += 1  # the worker may have been restarted with other settings
        _apply_report(child, add_models(child, status), now, None)

    def sender(self, message: HeartBeat | Deregistration) -> Child | None:
        """The child that sent a message; of a replicated node, the right instance."""
        child = self.children.get(message.node or message.worker_name)
        if message.node and (child is None or (child.group and child.instance != message.instance)):
            child = next((one for one in self if one.group == message.node and one.instance == message.instance), None)
        return child

    def heart_beat(self, message: HeartBeat) -> bool:
        """A worker's heartbeat or a node's report. False: the child is not known and must register again.

        Raises:
            InvalidField: a value is not allowed; the child keeps its former status.
        """
        child = self.sender(message)
        status = message.check(self.max_speed, child.names if child is not None else None)
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
            _update_node_fields(child, message)
            was_available &= not _apply_report(child, status, now, message.seen)
        if not was_available:
            self.generation += 1
            if child.group:
                self._divide_capacity(child.group)
        return True

    def report(self, child: Child, status: NodeStatus) -> None:
        """Apply what a prober read from an engine.

        Raises:
            InvalidField: a value is not allowed, as in a registration; the child keeps its former status.
        """
        check_status(status, self.max_speed)
        now = self._clock()
        was_available = child.available(now)
        if child.down is not None:
            self._readmit(child, now)
        if child.report(status, now) or not was_available:
            self.generation += 1

    def _divide_capacity(self, group: str) -> None:
        """Give each available instance of a replicated node an equal part of its status.

        All instances have the same children, so their speed must count once.
        """
        now = self._clock()
        instances = [child for child in self if child.group == group and child.available(now)]
        for child in instances:
            if child.parts != len(instances) and child.last_seen is not None:
                child.parts = len(instances)
                status, seen = child.last_report
                child.report(part(status, child.parts), child.last_seen, seen)
                self.generation += 1

    # -- health ----------------------------------------------------------------------------------------------

    def mark_down(self, child: Child, reason: str) -> None:
        """A prober found that an engine cannot be used."""
        if child.down is None:
            self.generation += 1
        child.process_number += 1
        child.down = reason
        self._limit_ejections(child)

    def eject(self, child: Child, seconds: float, reason: str) -> None:
        """Do not choose the child for a while."""
        child.ejected_until = self._clock() + seconds
        self._ejected.add(child)
        child.ejected_why = reason
        self.generation += 1

    def failed(self, child: Child, failure: Failure, reason: str) -> None:
        """A request failed, and the child is to blame. Enough failures eject it, each time for twice as long.

        It is not ejected if more than half of the children of one of its models would then be ejected: a fault of
        all children is no single child's fault.
        """
        now = self._clock()
        if failure == "unreachable":
            child.refused_until = now + REFUSED_S
        failures = child.failures
        if failures is None:
            failures = child.failures = FailureRecord()
        if not failures.failed(failure, now) or child.state(now) != "up":
            return
        if any(2 * (len(self._ejected_of(key, now)) + 1) > len(self._serving(key, now)) for key in child.shares):
            failures.clear_strikes()
            return
        self.eject(child, failures.eject(now, child.in_flight) - now, reason)

    def succeeded(self, child: Child) -> None:
        """A child that has failures sent a first byte."""
        if child.failures is not None:
            child.failures.succeeded(self._clock())

    def _serving(self, key: ModelKey, now: float) -> list[Child]:
        """The children that would be available for a model if none was ejected."""
        return [child for child in self if key in child.shares and child.state(now) in ("up", "ejected")]

    def _ejected_of(self, key: ModelKey, now: float) -> list[Child]:
        return [child for child in self._serving(key, now) if child.state(now) == "ejected"]

    def _limit_ejections(self, lost: Child) -> None:
        """A child was lost; end ejections until at most half of the rest are ejected, the oldest first."""
        now = self._clock()
        self._ejected = {child for child in self._ejected if child.ejected_until > now}
        if not self._ejected:  # nearly always, and a thousand children may leave at once
            return
        for key in lost.shares:
            ejected = sorted(self._ejected_of(key, now), key=lambda child: child.ejected_until)
            for child in ejected[: max(0, len(ejected) - len(self._serving(key, now)) // 2)]:
                self._readmit(child, now)

    def _readmit(self, child: Child, now: float) -> None:
        child.ejected_until = min(child.ejected_until, now)
        child.refused_until = min(child.refused_until, now)
        if child.failures is not None:
            child.failures.end_ejection(now)
        self.generation += 1

    def set_drain(self, key: str, drain: Drain | None) -> list[Child]:
        """Send no new requests to the children with this `drain_key` or group, now or later (None: end that).

        Returns those that are here now.
        """
        if drain is None:
            self.drained.pop(key, None)
        else:
            self.drained[key] = drain
        for child in self:
            child.drain = self._drain_of(child)
        self.generation += 1
        return [child for child in self if key in (child.group, drain_key(child))]

    def _drain_of(self, child: Child) -> Drain | None:
        return self.drained.get(drain_key(child)) or self.drained.get(child.group)

    # -- leaving ---------------------------------------------------------------------------------------------

    def remove(self, name: str, instance: str | None = None) -> Child | None:
        """Forget a child; returns it. instance: only if it is this one, so that a late deregistration does no harm."""
        child = self.children.get(name)
        if child is None or (instance is not None and child.instance != instance):
            return None
        self.generation += 1
        del self.children[name]
        self._limit_ejections(child)
        if child.group:
            self._divide_capacity(child.group)
        return child

    def depart(self, name: str, instance: str | None = None) -> Child | None:
        """`remove` a child, and remember it for a while: it is shown as gone, and its models get 503, not 404."""
        child = self.remove(name, instance)
        if child is not None and (child.shares or child.subtree):
            child.left_at = self._clock()
            self.departed[name] = child
        return child

    def sweep(self) -> list[Child]:
        """Drop the children that have been silent for too long; returns them."""
        now = self._clock()
        for child in self:
            if child.failures is not None and child.failures.is_over(now):
                child.failures = None
        for group in {child.group for child in self if child.group}:
            self._divide_capacity(group)  # an instance may have fallen silent
        dropped = [child for child in self if now >= child.gone_at]
        for child in dropped:
            self.depart(child.name)
        for child in list(self.departed.values()):
            if child.left_at is not None and now >= child.left_at + REMEMBERED_S:
                del self.departed[child.name]
        return dropped

    def newly_silent(self) -> list[Child]:
        """The nodes that have fallen silent since the last call."""
        now = self._clock()
        silent = {child.name for child in self if child.is_node and now >= child.fresh_until}
        new = [self.children[name] for name in silent - self._silent]
        self._silent = silent
        return new

    # -- views -----------------------------------------------------------------------------------------------

    def find(self, name_or_url: str) -> Child | None:
        """By name, else by URL."""
        child = self.children.get(name_or_url)
        if child is not None:
            return child
        url = name_or_url.rstrip("/")
        return next((child for child in self if child.url == url), None)

    def available(self, key: ModelKey) -> list[Share]:
        """The shares of the children that may get a request for this model now (do not change the list).

        Cached until something happens or the first of them would fall silent, and the same object until then.
        """
        now = self._clock()
        cached = self._available.get(key)
        if cached is not None and cached[0] == self.generation and now < cached[1]:
            return cached[2]
        shares: list[Share] = []
        full: list[Share] = []  # of children that return from an ejection and have as many requests as they may
        until = math.inf
        served = False
        for child in self:
            share = child.shares.get(key)
            if share is None:
                continue
            served = True
            if child.available(now):
                failures = child.failures
                if failures is not None and failures.returning:
                    until = now  # each request changes what it admits, so nothing can be cached
                    if not failures.admits(child.in_flight):
                        full.append(share)
                        continue
                shares.append(share)
                until = min(until, child.fresh_until)
            elif child.ejected_until > now:
                until = min(until, child.ejected_until)
        shares = shares or full
        if not served:  # names that clients make up, of any length, must not pile up
            self._available.pop(key, None)
            return shares
        if len(self._available) > MAX_CACHED:
            self._available.clear()  # mostly models that are gone
        self._available[key] = self.generation, until, shares
        return shares

    def last_resort(self, key: ModelKey) -> list[Share]:
        """The shares of ejected children, which are better than none."""
        now = self._clock()
        return [child.shares[key] for child in self._ejected_of(key, now)]

    def listed(self, model: str, api: Api | None = None) -> bool:
        """Does any engine below serve this model, available or not?

        A node reports only the models that are available; those that are not are in its subtree.
        """
        known = [*self, *self.departed.values()]
        return any(child.serves(model, api) or _lists(child, model, api) for child in known)

    def status(self) -> NodeStatus:
        """This node's status: the sum over the available children."""
        now = self._clock()
        return aggregate(child.current() for child in self if child.available(now))

    def model_names(self) -> list[str]:
        """Sorted names of the available models."""
        return self.status().model_names

    def names_by_mode(self, *, multimodal: bool) -> list[str]:
        """Sorted names of the models of FastChat workers that registered as multimodal, or of all other children."""
        now = self._clock()
        chosen = (child for child in self if child.multimodal is multimodal and child.available(now))
        return sorted({key[0] for child in chosen for key in child.shares})

    def path(self) -> list[str]:
        """Instances of this node and of all nodes below, sorted."""
        instances: set[str] = {self.identity.instance}
        for child in self:
            instances |= child.path
        return sorted(instances)


def drain_key(child: Child) -> str:
    """Its name; of one instance of a replicated node GROUP@URL, since its number differs from parent to parent."""
    return f"{child.group}@{child.url}" if child.group else child.name


def _apply_report(child: Child, status: NodeStatus, now: float, seen: int | None) -> bool:
    """Returns whether models or speeds changed. seen: see `Child.report`."""
    child.last_report = status, seen
    return child.report(part(status, child.parts), now, seen)


def _update_node_fields(child: Child, message: Registration | HeartBeat) -> None:
    child.leaving = message.draining
    names = message.names
    if names != child.names:
        child.names = names
        child.version, child.dispatch, child.path = message.version, message.dispatch, frozenset(message.path)
    if isinstance(message, Registration):
        child.subtree, child.listed_below = subtree.merge({}, message.children or {}), None
    elif message.children:
        child.subtree, child.listed_below = subtree.merge(child.subtree, message.children), None


def _forget_failures(child: Child) -> None:
    """A new process has this name; what is known of the former one does not count."""
    child.process_number += 1
    child.failures = None
    child.ejected_until = child.refused_until = -math.inf


def _lists(child: Child, model: str, api: Api | None) -> bool:
    """Does an engine below a child list the model (in one API family, or in any)?

    A request for an unknown model leads here, so what was decoded is kept until the child reports a change.
    """
    if child.listed_below is None:
        child.listed_below = subtree.listed_models(child.subtree)
    if api is not None:
        return (model, api) in child.listed_below
    return any(name == model for name, _ in child.listed_below)
