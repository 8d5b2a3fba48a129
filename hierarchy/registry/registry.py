"""All state about the children of one node: registrations, reports, and the sweep of those that are silent.

Synchronous, no I/O. What children are here is in `membership`, what they can be chosen for in `candidates`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.labels import LabelSet
from hierarchy.registry.admission import (
    NO_CLAIM,
    Claim,
    add_models,
    check_instances,
    check_loop,
    child_name,
    confirm_models,
    find_registered,
    without_unconfirmed,
)
from hierarchy.registry.below import Merged, patch_below, replace_below
from hierarchy.registry.candidates import CandidateViews
from hierarchy.registry.child import NODE, Child
from hierarchy.registry.measured_speed import Doubts, measured, watch
from hierarchy.registry.prepared import Prepared
from hierarchy.registry.public_name import Labels
from hierarchy.registry.speed_limit import SpeedLimit, claimed, claimed_slots, limited
from hierarchy.runtime.steps import at_once
from hierarchy.wire.checks import check_status
from hierarchy.wire.limits import DEFAULT, NO_WEIGHT, Weight
from hierarchy.wire.messages import Deregistration, HeartBeat, Identity, Registration
from hierarchy.wire.offer import Offer
from hierarchy.wire.status import EMPTY, NodeStatus, part

MAX_SPEED: Final = 1e6  # for any child
MAX_NAMED: Final = 5  # labels in one log line
log = logging.getLogger("hierarchy.node")


@mypyc_attr(allow_interpreted_subclasses=True)
class Registry(CandidateViews):
    """All state about children.

    identity: this node's own, to detect loops. clock: monotonic seconds, injected.
    max_speed: the highest speed that a child may declare; None: none above its `SpeedLimit` counts.
    """

    def __init__(self, identity: Identity, clock: Callable[[], float], max_speed: float | None = None) -> None:
        super().__init__(clock)
        self.identity = identity
        self.set_max_speed(max_speed)
        self.speeds = SpeedLimit()
        self.slots = SpeedLimit(slots=True)
        self.doubts = Doubts()
        self._speeds_of = -1  # the generation that `speeds` saw
        self.labels = Labels()
        self.limits = DEFAULT  # how much one child may report
        self.subtree_changes = 0  # grows whenever what is below a child has changed
        self._silent: set[str] = set()  # names of nodes that `newly_silent` has returned

    def set_max_speed(self, max_speed: float | None) -> None:
        """See the class."""
        self.max_speed = MAX_SPEED if max_speed is None else max_speed
        self.compares_speeds = max_speed is None
        self.prefix_key = ""  # with which fingerprints of prompts are taken here; the children are told

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

    # -- registrations and reports ---------------------------------------------------------------------------

    def register(
        self,
        message: Registration,
        identity: str = "",
        claim: Claim = NO_CLAIM,
        *,
        ready: Prepared | None = None,
        labels: LabelSet | None = None,
    ) -> Child:
        """Accept a child, new or known.

        A FastChat worker whose status is null has no models until the prober has requested its status.

        Args:
            identity: of the token or credential in the request; "" for none.
            claim: what is known of its URL.
            ready: what a large message changes.
            labels: that the token or credential binds it to; None for none.

        Raises:
            InvalidField: a value is not allowed; nothing was registered.
            LoopDetected: it is this node, or has this node below it.
            NameTaken: another live child has that name or that address.
        """
        message.check_fields(self.limits, below=ready is None or ready.below is None)
        status = _checked_status(self, message, ready)
        check_loop(message, self.identity, claim)
        name = child_name(message, self.children, self.directory)
        now = self._clock()
        child = find_registered(self.children, self.directory, name, message, identity, now, claim)
        if child is not None and child.is_node != bool(message.node):
            self.remove(name)
            child = None
        if child is not None and child.is_node and child.instance == message.instance and message.seq < child.seq:
            return child  # a later message of the same process arrived first
        if message.replica:
            check_instances(others_of(self, message.node, child), status or EMPTY, message.path, self.limits)
        if child is None:
            child = self._add(name, message)
        child.token_labels = labels
        self.bind_labels(child)
        self._update(child, message, identity, now, claim, ready)
        if status is not None:
            self._apply_registered_status(child, message, status, now, ready)
        elif not message.node:
            confirm_models(child, (), now)
        child.seq = message.seq
        if child.group:
            self._divide_capacity(child.group)
        self._may_serve(child)
        return child

    def _add(self, name: str, message: Registration) -> Child:
        child = self.children[name] = Child(name, message.worker_name, NODE if message.node else "fastchat")
        child.label = self.labels.of(name)
        child.tally = self.tally
        child.group = message.node if message.replica else ""
        child.drain = self._drain_of(child)
        return child

    def _update(
        self, child: Child, message: Registration, identity: str, now: float, claim: Claim, ready: Prepared | None
    ) -> None:
        if child.url != message.worker_name.rstrip("/"):
            child.move_to(message.worker_name)
        child.addresses, child.proof = claim.addresses or child.addresses, claim.proof
        self.forget_departed(child.name)
        child.check_heart_beat = message.check_heart_beat
        child.multimodal = message.multimodal
        child.last_seen = now
        if message.node:
            _update_node_fields(self, child, message, None if ready is None else ready.below)
            if child.instance != message.instance:
                _forget_failures(child)
            child.instance, child.identity = message.instance, identity
            child.interval_s = message.interval_s
            child.secret = message.secret.encode()
            child.reverse, child.reads_prefix = claim.reverse, message.reads_prefix
            child.told = 0
        self.directory.note(child)

    def _apply_registered_status(
        self, child: Child, message: Registration, status: NodeStatus, now: float, ready: Prepared | None
    ) -> None:
        if message.node:
            self._apply_report(child, status, now, message.seen, ready)
            return
        child.process_number += 1  # the worker may have been restarted with other settings
        confirm_models(child, {model.key for model in status.models}, now)
        self._apply_report(child, add_models(child, status), now, None)

    def sender(self, message: HeartBeat | Deregistration) -> Child | None:
        """The child that sent a message; of a replicated node, the right instance."""
        child = self.children.get(message.node or message.worker_name)
        if message.node and (child is None or (child.group and child.instance != message.instance)):
            instances = self.directory.instances(message.node)
            child = next((one for one in instances if one.instance == message.instance), None)
        return child

    def heart_beat(self, message: HeartBeat, ready: Prepared | None = None) -> bool:
        """A worker's heartbeat or a node's report. False: the child is not known and must register again.

        ready: what a large message changes.

        Raises:
            InvalidField: a value is not allowed; the child keeps its former status.
        """
        child = self.sender(message)
        names = child.names if child is not None else None
        message.check_fields(self.limits, names, below=ready is None or ready.below is None)
        status = _checked_status(self, message, ready)
        if child is None or child.declared or child.is_node != bool(message.node):
            return False
        if child.instance != message.instance and child.is_node:
            return False
        if self.identity.instance in message.path:  # a loop that has closed since its registration
            self.remove(child.name)
            return False
        if child.group:
            check_instances(others_of(self, child.group, child), status or EMPTY, message.path, self.limits)
        now = self._clock()
        was_available, was_leaving = child.available(now), child.leaving
        if status is None or not child.is_node:
            child.heart_beat(message.queue_length, now)
        elif message.seq <= child.seq:
            return True  # a later report arrived first
        else:
            child.seq = message.seq
            _update_node_fields(self, child, message, None if ready is None else ready.below)
            was_available &= not self._apply_report(child, status, now, message.seen, ready)
            self.index.touch(child, now)
        if not was_available or child.leaving is not was_leaving:
            if child.group:
                self._divide_capacity(child.group)
            self._may_serve(child)
        return True

    def report(self, child: Child, status: NodeStatus) -> None:
        """Apply what a prober read from an engine.

        Raises:
            InvalidField: a value is not allowed, as in a registration; the child keeps its former status.
        """
        if child.start_speed:
            status = measured(child, status)
        check_status(status, self.max_speed, limits=self.limits)
        now = self._clock()
        was_available = child.available(now)
        if child.down is not None:
            self._readmit(child, now)
        child.unconfirmed = {}
        changed = self._apply_report(child, status, now, None) or not was_available
        child.note_hits(status.prompt_tokens, now)
        if child.start_speed:
            watch(child)
        self.set_asleep(child, status.asleep, wakes=status.wakes)
        if changed:
            self._may_serve(child)
        self._note(child)

    def _apply_report(
        self, child: Child, status: NodeStatus, now: float, seen: int | None, ready: Prepared | None = None
    ) -> bool:
        """Returns whether models or speeds changed. seen: see `Child.report`."""
        child.last_report, child.claimed = (status, seen), claimed(status)
        child.claimed_slots = claimed_slots(status)
        self._limit(child)
        shares = None if ready is None else ready.shares
        counted = part(limited(status, child.speed_limit, child.slots_limit), child.parts)
        return child.report(counted, now, seen, shares)

    def _limit(self, child: Child) -> bool:
        """Find out which speed and slots count for a child. Returns whether others do than before."""
        return self._limit_speed(child) | self._limit_slots(child)

    def _limit_slots(self, child: Child) -> bool:
        before, child.slots_limit = child.slots_limit, self.slots.of(child)
        was_wide, child.is_wide = child.is_wide, child.claimed_slots > child.slots_limit
        if child.is_wide and not was_wide:
            log.warning(
                "%s reports %d slots for each unit of speed: they count as unknown, more than ten times the median of "
                "the other children; set `speed` of its engines if they are right",
                child.name,
                child.claimed_slots,
            )
        return before != child.slots_limit and child.claimed_slots > min(before, child.slots_limit)

    def _doubt(self, child: Child) -> float:
        """The highest speed that counts, given how long requests to the child take."""
        before, child.part = child.part, self.doubts.part(child)
        if child.part == 1.0:
            return math.inf
        if before == 1.0:
            log.warning(
                "requests to %s take more than four times as long as those to its siblings: not all of the speed that "
                "it reports counts, %g, until they do not",
                child.name,
                child.claimed,
            )
        return child.part * child.claimed

    def _limit_speed(self, child: Child) -> bool:
        """Find out which speed counts for a child. Returns whether another one does than before."""
        before, limit = child.speed_limit, self.speeds.of(child)
        child.speed_limit = min(limit, self._doubt(child))
        was_slowed, child.is_slowed = child.is_slowed, child.claimed > limit
        if child.is_slowed and not was_slowed:
            log.warning(
                "%s reports speed %g: it counts as %g, ten times the median of the other children; set `max_speed` "
                "if it is right",
                child.name,
                child.claimed,
                child.speed_limit,
            )
        return min(child.claimed, child.speed_limit) != min(child.claimed, before)

    # -- sweeps ----------------------------------------------------------------------------------------------

    def sweep(self) -> list[Child]:
        """Drop the children that have been silent for too long; returns them. Call it twice a second."""
        return [child for dropped in self.sweep_in_parts(max(1, len(self))) for child in dropped]

    def sweep_in_parts(self, size: int) -> Iterator[list[Child]]:
        """`sweep`, but so many children at a time, since requests wait meanwhile. Yields those that each part dropped.

        All views are right between two parts.
        """
        self._begin_windows()
        children = list(self)
        self._note_speeds(children)
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
            if self._limit(child):
                counted = limited(child.last_report[0], child.speed_limit, child.slots_limit)
                child.set_speeds(part(counted, child.parts))
                self.generation += 1
            if child.unconfirmed:
                self._drop_unconfirmed(child, now)
            if child.left_at is None and self.index.differs(child):
                self.generation += 1
                self.index.touch(child, now)
        self._take_in()
        for child in children:
            self._note_whether_serving(child, now)
        return dropped

    def _note_speeds(self, children: list[Child]) -> None:
        if self._speeds_of != self.generation or not self.compares_speeds:
            self._speeds_of = self.generation
            self.speeds.note(children if self.compares_speeds else ())
            self.slots.note(children)
        self.doubts.note(children)

    def _note_whether_serving(self, child: Child, now: float) -> None:
        if child.serves_now(now):
            self._served_at[child] = now
        elif child in self._served_at:
            self.known.available(child.shares, self._served_at.pop(child))

    def _drop_unconfirmed(self, child: Child, now: float) -> None:
        """A FastChat worker registered again without some of its models, and never listed them since."""
        status = without_unconfirmed(child, now - self.remember_s)
        if status is not None and child.last_seen is not None:
            self._apply_report(child, status, child.last_seen, None)
            self.generation += 1
            self.index.touch(child, now)

    def _sweep_rest(self) -> None:
        """What is not of one child."""
        now = self._clock()
        self._sweep_ejections()
        if self._waiting and self.take_in_later is not None:  # else they have failed to be taken in
            self.take_in_later()
        self._divide_all_capacities(now)  # an instance may have fallen silent
        for child in list(self.departed.values()):
            if child.left_at is not None and now >= child.left_at + self.remember_s:
                self.forget_departed(child.name)
        self._take_in()
        for child in [child for child in self._served_at if self.children.get(child.name) is not child]:
            self.known.available(child.shares, self._served_at.pop(child))
        self.known.forget(now)

    def newly_silent(self) -> list[Child]:
        """The nodes that have fallen silent since the last call."""
        now = self._clock()
        silent = {child.name for child in self if child.is_node and now >= child.fresh_until}
        new = [self.children[name] for name in silent - self._silent]
        self._silent = silent
        return new


def _checked_status(registry: Registry, message: Registration | HeartBeat, ready: Prepared | None) -> NodeStatus | None:
    if ready is not None:
        return ready.status
    return at_once(message.status_steps(registry.max_speed, registry.limits))


def _update_node_fields(
    registry: Registry, child: Child, message: Registration | HeartBeat, below: Merged | None
) -> None:
    child.leaving, child.incomplete = message.draining, message.incomplete
    child.warnings = message.warnings
    if message.labels is not None or isinstance(message, Registration):
        _take_labels(registry, child, message.labels or [])
    names = message.names
    if names != child.names:
        child.names = names
        child.version, child.build, child.dispatch = message.version, message.build, message.dispatch
        child.path = frozenset(message.path)
    if isinstance(message, Registration):
        replace_below(child, message.children, registry.limits, below, others_below(registry, child))
        registry.subtree_changes += 1
    elif message.children:
        patch_below(child, message.children, registry.limits, below, others_below(registry, child))
        registry.subtree_changes += 1


def _take_labels(registry: Registry, child: Child, offers: list[Offer]) -> None:
    before = child.labels.ignored
    if child.labels.take(offers):
        registry.generation += 1
    ignored = child.labels.ignored
    registry.labels_ignored += len(ignored)
    if ignored and ignored != before:
        named = ", ".join(ignored[:MAX_NAMED]) + (", ..." if len(ignored) > MAX_NAMED else "")
        log.info("%s reports labels that this node does not know it by, and which do not count: %s", child.name, named)


def others_of(registry: Registry, group: str, child: Child | None) -> list[Child]:
    """The other instances of a replicated node, those included that left lately. group: "" for none."""
    return [other for other in registry.directory.all_instances(group) if other is not child]


def others_below(registry: Registry, child: Child) -> Weight:
    """What is below the other instances of a node: one credential is enough for all, which have one share of memory."""
    total = NO_WEIGHT
    for other in others_of(registry, child.group, child):
        total = total.plus(other.below)
    return total


def _forget_failures(child: Child) -> None:
    """A new process has this name; what is known of the former one does not count."""
    child.process_number += 1
    child.failures = child.suspect = None
    child.refused_until = -math.inf
    for share in child.shares.values():
        share.failures, share.penalty = None, 0
