"""The children of one node: register, report, expire, list, and offer candidates. Synchronous, no I/O.

One dict of children keyed by name; every other view is derived from it. Expiry is a question asked at reading time
(`Child.available(now)`); `sweep` only forgets those that have been gone for long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.registry.admission import merge, place_of, refuse_loop, refuse_taken
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.ejection import Failure, Trouble
from hierarchy.wire import subtree
from hierarchy.wire.messages import Deregistration, HeartBeat, Identity, Registration, check_status
from hierarchy.wire.status import Api, ModelKey, NodeStatus, aggregate, part

REMEMBERED_S: Final = 600.0  # how long a child that left is still shown
REFUSED_S: Final = 2.0  # how long a child that refused a connection is taken for dead


@mypyc_attr(allow_interpreted_subclasses=True)
class Registry:
    """All state about children.

    identity: this node's own, against self-registration and loops.
    clock: monotonic seconds, injected.
    """

    def __init__(self, identity: Identity, clock: Callable[[], float], max_speed: float = 1e6) -> None:
        self.identity = identity
        self.max_speed = max_speed
        self.children: dict[str, Child] = {}
        self.departed: dict[str, Child] = {}  # children that left lately, so that they are missed and not just unknown
        self.drained: set[str] = set()  # names that shall get nothing new, whoever comes and goes under them
        self._silent: set[str] = set()
        self._out: set[Child] = set()  # who was ejected, and may be still
        self.generation = 0  # grows whenever the answer to "who may be chosen" may have changed
        self._clock = clock
        self._available: dict[ModelKey, tuple[int, float, list[Share]]] = {}

    def __iter__(self) -> Iterator[Child]:
        return iter(self.children.values())

    def __len__(self) -> int:
        return len(self.children)

    # -- what children tell us -------------------------------------------------------------------------------

    def declare(self, name: str, url: str, kind: str) -> Child:
        """An engine from our own configuration; a prober will report for it."""
        child = self.children[name] = Child(name, url, kind, declared=True)
        child.draining = name in self.drained
        self.generation += 1
        return child

    def register(self, message: Registration, identity: str = "", *, reverse: bool = False) -> Child:
        """Take in a child, or one that comes again.

        identity: what it showed stands for; "" for nothing. reverse: it dials, so that its URL need not lead to it.

        A FastChat worker whose status is null is listed without models until its status has been asked for.

        Raises:
            InvalidField: a value is not allowed; nothing was registered.
            LoopDetected: it is this node, or has this node below it.
            NameTaken: another live child holds that name or that address.
        """
        status = message.check(self.max_speed)
        refuse_loop(message, self.identity, reverse=reverse)
        name = place_of(message, self.children)
        now = self._clock()
        child = refuse_taken(self.children, name, message, identity, now, reverse=reverse)
        if child is not None and child.is_node != bool(message.node):
            self.remove(name)
            child = None
        if child is not None and child.is_node and child.instance == message.instance and message.seq < child.seq:
            return child  # overtaken by a later message of the same process
        if child is None:
            child = self.children[name] = Child(name, message.worker_name, NODE if message.node else "fastchat")
            child.group = message.node if message.replica else ""
            child.draining = bool({name, child.group} & self.drained)
        if child.url != message.worker_name.rstrip("/"):
            child.move_to(message.worker_name)
        self.departed.pop(name, None)
        child.check_heart_beat = message.check_heart_beat
        child.multimodal = message.multimodal
        child.last_seen = now
        if message.node:
            self._take_node_fields(child, message)
            if child.instance != message.instance:
                self._begin_anew(child)
            child.instance, child.identity = message.instance, identity
            child.interval_s = message.interval_s
            child.secret = message.secret.encode()
            child.reverse = reverse
        if status is not None:
            if not message.node:
                status = merge(child, status)
                for share in child.shares.values():
                    share.profile = None  # it may have been started anew, in another way
            self._take_report(child, status, now, message.seen if message.node else None)
        child.seq = message.seq
        self.generation += 1
        if child.group:
            self._share_out(child.group)
        return child

    def sender(self, message: HeartBeat | Deregistration) -> Child | None:
        """The child that a message names, and of several instances of one node the one that sent it."""
        child = self.children.get(message.node or message.worker_name)
        if message.node and (child is None or (child.group and child.instance != message.instance)):
            child = next((one for one in self if one.group == message.node and one.instance == message.instance), None)
        return child

    def heart_beat(self, message: HeartBeat) -> bool:
        """A worker's beat or a node's report. False: not known here, register again.

        Raises:
            InvalidField: a value is not allowed; the child's former status stands.
        """
        child = self.sender(message)
        status = message.check(self.max_speed, child.names if child is not None else None)
        if child is None or child.declared or child.is_node != bool(message.node):
            return False
        if child.instance != message.instance and child.is_node:
            return False
        if self.identity.instance in message.path:
            self.remove(child.name)
            return False
        now = self._clock()
        if status is None or not child.is_node:
            was_available = child.available(now)
            child.heart_beat(message.queue_length, now)
        else:
            if message.seq <= child.seq:
                return True  # overtaken by a later one
            was_available = child.available(now)
            child.seq = message.seq
            self._take_node_fields(child, message)
            was_available &= not self._take_report(child, status, now, message.seen)
        if not was_available:
            self.generation += 1
            if child.group:
                self._share_out(child.group)
        return True

    def report(self, child: Child, status: NodeStatus) -> None:
        """What a prober read from an engine.

        Raises:
            InvalidField: a value is not allowed, as in a registration; the child's former status stands.
        """
        check_status("", (), status.speed, status.queue_length, list(status.models), self.max_speed)
        now = self._clock()
        was_available = child.available(now)
        if child.down is not None:
            self._readmit(child, now)
        if child.report(status, now) or not was_available:
            self.generation += 1

    def mark_down(self, child: Child, why: str) -> None:
        """A prober found that an engine cannot be used."""
        if child.down is None:
            self.generation += 1
        for share in child.shares.values():
            share.profile = None
        child.down = why
        self._bring_back(child)

    def eject(self, child: Child, seconds: float, why: str) -> None:
        """Do not choose the child for a while."""
        child.ejected_until = self._clock() + seconds
        self._out.add(child)
        child.ejected_why = why
        self.generation += 1

    def failed(self, child: Child, failure: Failure, why: str) -> None:
        """A request failed by the child's fault. Enough of that ejects it, for a time that doubles.

        A child without which half of some model's children would be away stays: a fault that hits all of them is
        not the fault of any.
        """
        now = self._clock()
        if failure == "unreachable":
            child.refused_until = now + REFUSED_S
        trouble = child.trouble
        if trouble is None:
            trouble = child.trouble = Trouble()
        if not trouble.failed(failure, now) or child.state(now) != "up":
            return
        if any(2 * (len(self._ejected(key, now)) + 1) > len(self._serving(key, now)) for key in child.shares):
            trouble.spare()
            return
        self.eject(child, trouble.eject(now, child.in_flight) - now, why)

    def succeeded(self, child: Child) -> None:
        """A child with `trouble` sent a first byte."""
        if child.trouble is not None:
            child.trouble.succeeded(self._clock())

    def _serving(self, key: ModelKey, now: float) -> list[Child]:
        """Those that would get requests for a model, were it not for ejections."""
        return [child for child in self if key in child.shares and child.state(now) in ("up", "ejected")]

    def _ejected(self, key: ModelKey, now: float) -> list[Child]:
        return [child for child in self._serving(key, now) if child.state(now) == "ejected"]

    def _bring_back(self, lost: Child) -> None:
        """A child can be used no longer: then no more than half of those that are left may be ejected."""
        now = self._clock()
        self._out = {child for child in self._out if child.ejected_until > now}
        if not self._out:  # nearly always; and a thousand may leave at once
            return
        for key in lost.shares:
            ejected = sorted(self._ejected(key, now), key=lambda child: child.ejected_until)
            for child in ejected[: max(0, len(ejected) - len(self._serving(key, now)) // 2)]:
                self._readmit(child, now)

    def _begin_anew(self, child: Child) -> None:
        """A new process stands under this name: nothing that is known of the one before it holds."""
        for share in child.shares.values():
            share.profile = None
        child.trouble = None
        child.ejected_until = child.refused_until = -math.inf

    def _readmit(self, child: Child, now: float) -> None:
        child.ejected_until = min(child.ejected_until, now)
        child.refused_until = min(child.refused_until, now)
        if child.trouble is not None:
            child.trouble.end(now)
        self.generation += 1

    def drain(self, child: Child, draining: bool = True) -> None:
        """No new requests (or again new ones)."""
        child.draining = draining
        self.generation += 1

    def drain_name(self, name: str, draining: bool = True) -> bool:
        """`drain` whoever has this name now or takes it later. Returns whether there is anybody."""
        (self.drained.add if draining else self.drained.discard)(name)
        known = [child for child in self if name in (child.name, child.group)]
        for child in known:
            self.drain(child, draining)
        return bool(known)

    def remove(self, name: str, instance: str | None = None) -> Child | None:
        """Forget a child. With `instance`: only if that is the one we know, so that a late farewell does no harm."""
        child = self.children.get(name)
        if child is None or (instance is not None and child.instance != instance):
            return None
        self.generation += 1
        gone = self.children.pop(name)
        self._bring_back(gone)
        if gone.group:
            self._share_out(gone.group)
        return gone

    def depart(self, name: str, instance: str | None = None) -> Child | None:
        """`remove` a child that left, and remember it for a while: it shows as gone, its models get 503, not 404."""
        child = self.remove(name, instance)
        if child is not None and (child.shares or child.subtree):
            child.left_at = self._clock()
            self.departed[name] = child
        return child

    def sweep(self) -> list[Child]:
        """Forget the children that have been silent for too long; returns them."""
        now = self._clock()
        for child in self:
            if child.trouble is not None and child.trouble.forgotten(now):
                child.trouble = None
        for group in {child.group for child in self if child.group}:
            self._share_out(group)  # one may have fallen silent
        gone = [child for child in self if now >= child.gone_at]
        for child in gone:
            self.depart(child.name)
        for child in list(self.departed.values()):
            if child.left_at is not None and now >= child.left_at + REMEMBERED_S:
                del self.departed[child.name]
        return gone

    def newly_silent(self) -> list[Child]:
        """The nodes that have fallen silent since this was asked last."""
        now = self._clock()
        silent = {child.name for child in self if child.is_node and now >= child.fresh_until}
        news = [self.children[name] for name in silent - self._silent]
        self._silent = silent
        return news

    def find(self, name_or_url: str) -> Child | None:
        """By name, else by URL."""
        child = self.children.get(name_or_url)
        if child is not None:
            return child
        url = name_or_url.rstrip("/")
        return next((child for child in self if child.url == url), None)

    # -- what we tell others ---------------------------------------------------------------------------------

    def available(self, key: ModelKey) -> list[Share]:
        """The shares of the children that may take a request for this model now (do not change the list).

        Cached until something happens or the first of them would fall silent, and the same object until then.
        """
        now = self._clock()
        cached = self._available.get(key)
        if cached is not None and cached[0] == self.generation and now < cached[1]:
            return cached[2]
        shares: list[Share] = []
        full: list[Share] = []  # on their way back, with as many requests as they may have
        until = math.inf
        served = False
        for child in self:
            share = child.shares.get(key)
            if share is None:
                continue
            served = True
            if child.available(now):
                trouble = child.trouble
                if trouble is not None and trouble.returning:
                    until = now  # its place is counted, so nothing can be said in advance
                    if not trouble.admits(child.in_flight):
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
        if len(self._available) > 1024:
            self._available.clear()  # models long gone
        self._available[key] = self.generation, until, shares
        return shares

    def last_resort(self, key: ModelKey) -> list[Share]:
        """The shares of children that are ejected, which is better than nobody."""
        now = self._clock()
        return [child.shares[key] for child in self._ejected(key, now)]

    def listed(self, model: str, api: Api | None = None) -> bool:
        """Does anybody below serve this model, even one that is not available now?

        Nodes below report only what is available; what is not shows in their subtrees.
        """
        known = [*self, *self.departed.values()]
        return any(child.serves(model, api) or _lists(child, model, api) for child in known)

    def status(self) -> NodeStatus:
        """Our own status: the sum over the children that may be chosen."""
        now = self._clock()
        return aggregate(child.current() for child in self if child.available(now))

    def model_names(self) -> list[str]:
        """Sorted names of the models that can be asked for now."""
        return self.status().model_names

    def names_by_mode(self, *, multimodal: bool) -> list[str]:
        """Sorted names of the models of FastChat workers that registered as multimodal, or of all other children."""
        now = self._clock()
        chosen = (child for child in self if child.multimodal is multimodal and child.available(now))
        return sorted({key[0] for child in chosen for key in child.shares})

    def path(self) -> list[str]:
        """Instances of all nodes below, this one included."""
        below: set[str] = {self.identity.instance}
        for child in self:
            below |= child.path
        return sorted(below)

    # -- helpers ---------------------------------------------------------------------------------------------

    def _take_report(self, child: Child, status: NodeStatus, now: float, seen: int | None) -> bool:
        child.last_report = status, seen
        return child.report(part(status, child.parts), now, seen)

    def _share_out(self, group: str) -> None:
        """Instances of one node stand before the same children, so their speed counts once: each has its part of it."""
        now = self._clock()
        there = [child for child in self if child.group == group and child.available(now)]
        for child in there:
            if child.parts != len(there) and child.last_seen is not None:
                child.parts = len(there)
                status, seen = child.last_report
                child.report(part(status, child.parts), child.last_seen, seen)
                self.generation += 1

    def _take_node_fields(self, child: Child, message: Registration | HeartBeat) -> None:
        child.leaving = message.draining
        names = message.names
        if names != child.names:
            child.names = names
            child.version, child.dispatch, child.path = message.version, message.dispatch, frozenset(message.path)
        if isinstance(message, Registration):
            child.subtree, child.listed_below = subtree.merge({}, message.children or {}), None
        elif message.children:
            child.subtree, child.listed_below = subtree.merge(child.subtree, message.children), None


def _lists(child: Child, model: str, api: Api | None) -> bool:
    """Does an engine below a child list the model (in one API family, or in any)?

    A request for an unknown model leads here, so what was decoded is kept until the child reports a change.
    """
    if child.listed_below is None:
        child.listed_below = subtree.listed_models(child.subtree)
    if api is not None:
        return (model, api) in child.listed_below
    return any(name == model for name, _ in child.listed_below)
