"""Who is here: the children of a node, those that left lately, and what they list. Synchronous, no I/O.

There is one dict of children by name, and every other view is computed from it. A child that was declared is an engine
of the configuration; all others registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from mypy_extensions import mypyc_attr

from hierarchy.labels import OPEN, LabelSet, Requirement
from hierarchy.registry.child import Child, Tally
from hierarchy.registry.directory import Directory
from hierarchy.registry.drain import Drain
from hierarchy.registry.health import USABLE, Health
from hierarchy.registry.known_models import KnownModels
from hierarchy.registry.model_index import ModelIndex
from hierarchy.registry.speed_limit import limited
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.status import Api, ModelKey, part

REMEMBERED_S: Final = 600.0  # how long a child that left is still shown, unless the configuration says otherwise
# Children that left and are still shown; beyond it, the first that left are forgotten. Not Final: tests replace it.
MAX_DEPARTED = 4096
LARGE: Final = 1000  # models that one child lists: more are taken in in steps


@mypyc_attr(allow_interpreted_subclasses=True)
class Membership(Health):
    """The children, as they come and go.

    clock: monotonic seconds, injected.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.departed: dict[str, Child] = {}  # children that left lately: their models are unavailable, not unknown
        self.drained: dict[str, Drain] = {}  # by `drain_key`: whichever child has it gets no new requests
        self.remember_s = REMEMBERED_S
        self.known = KnownModels()  # models that may exist although no child lists them
        self.index = ModelIndex()  # what the children list
        self.tally = Tally()  # over all children
        self.directory = Directory()  # of those that are here, and those that left lately
        self._former = ModelIndex()  # what those list that left lately
        self.declared_labels: Mapping[str, LabelSet] = {}  # of the children that the configuration has, by name
        #: labels that some child is known by: with others, which clients make up, no child is looked at
        self.known_labels: set[tuple[str, str]] = set()
        self.labels_ignored = 0  # in reports, of labels that the child is not bound to
        self._listeners: list[Callable[[Child], None]] = []
        #: called where a child lists so much that `take_in_steps` shall take it in; None: all are taken in at once
        self.take_in_later: Callable[[], None] | None = None
        self._large: dict[Child, float] = {}  # such children, and when they were touched, until they are taken in
        self._waiting: list[Child] = []  # of those, the ones that no `take_in_steps` has begun with
        self._served_at: dict[Child, float] = {}  # when a child was seen to serve, of those that did at the last sweep

    def __iter__(self) -> Iterator[Child]:
        return iter(self.children.values())

    def __len__(self) -> int:
        return len(self.children)

    def now(self) -> float:
        """Seconds of this registry's clock."""
        return self._clock()

    def find(self, name_or_url: str) -> Child | None:
        """By name, else by URL."""
        child = self.children.get(name_or_url)
        if child is not None:
            return child
        url = name_or_url.rstrip("/")
        return next((child for child in self.directory.at_url(url) if child.left_at is None), None)

    def serves(self, name: str, model: str) -> bool:
        """Is there a child of that name, and does it list the model through any API? model: "" for whatever it has."""
        child = self.children.get(name)
        return child is not None and (
            not model or (model, "openai") in child.shares or (model, "fastchat") in child.shares
        )

    def remember(self, seconds: float) -> None:
        """How long what is gone is remembered."""
        self.remember_s = self.known.known_s = seconds

    # -- coming ----------------------------------------------------------------------------------------------

    def declare(self, name: str, url: str, kind: str) -> Child:
        """Add an engine from this node's configuration; a prober will report for it."""
        child = self.children[name] = Child(name, url, kind, declared=True)
        child.tally = self.tally
        child.drain = self._drain_of(child)
        self.bind_labels(child)
        self.directory.note(child)
        self.generation += 1
        self.index.touch(child, self._clock())
        return child

    def declare_labels(self, labels: Mapping[str, LabelSet]) -> None:
        """What the configuration says of this node's children from now on.

        labels: of each node that it has, and of the engines that have some.
        """
        self.declared_labels = labels
        self.known_labels.clear()
        for child in (*self, *self.departed.values()):
            self.bind_labels(child)

    def bind_labels(self, child: Child) -> None:
        """The labels of a child: those of the configuration, and of the token with which it joined."""
        declared = self.declared_labels.get(child.group or child.name, OPEN if child.declared else None)
        if child.labels.bind(declared, child.token_labels):
            self.generation += 1
        for label, value in child.labels.bound.items():
            self.known_labels.update([(label, one) for one in value.split("/")])

    def may_be_met(self, require: Requirement) -> bool:
        """Is any child known by each of these labels, as far as this node has to know it?"""
        known = self.known_labels
        return all(pair in known or pair[0] in require.vouched for pair in require.pairs)

    def subscribe(self, listener: Callable[[Child], None]) -> None:
        """Call `listener` with each child that may take requests which it could not take before."""
        self._listeners.append(listener)

    def _may_serve(self, child: Child) -> None:
        """What the child can be chosen for may have changed."""
        self.generation += 1
        now = self._clock()
        self.index.touch(child, now)
        if child.serves_now(now):
            self._served_at[child] = now
        for listener in self._listeners:
            listener(child)

    # -- leaving ---------------------------------------------------------------------------------------------

    def remove(self, name: str, instance: str | None = None) -> Child | None:
        """Forget a child; returns it. instance: only if it is this one, so that a late deregistration does no harm."""
        child = self.children.get(name)
        if child is None or (instance is not None and child.instance != instance):
            return None
        self._take_in()  # what it listed since the last time is known, too
        self.generation += 1
        del self.children[name]
        child.left_at = self._clock()
        self.directory.forget(child)
        self.index.touch(child, self._clock())
        self._limit_ejections(child)
        if child.group:
            self._divide_capacity(child.group)
        return child

    def depart(self, name: str, instance: str | None = None) -> Child | None:
        """`remove` a child, and remember it for a while: it is shown as gone, and its models get 503, not 404."""
        child = self.remove(name, instance)
        if child is not None and (child.shares or child.subtree):
            self.forget_departed(name)  # so that they are in the order in which they left
            self.departed[name] = child
            self.directory.note(child)
            if len(self.departed) > MAX_DEPARTED:
                self.forget_departed(next(iter(self.departed)))
        return child

    def forget_departed(self, name: str) -> None:
        """Remember no longer that a child was here."""
        child = self.departed.pop(name, None)
        if child is not None:
            self.directory.forget(child)
            self.index.touch(child, self._clock())

    # -- replicas --------------------------------------------------------------------------------------------

    def _divide_capacity(self, group: str) -> None:
        """Give each available instance of a replicated node an equal part of its status.

        All instances have the same children, so their speed must count once.
        """
        now = self._clock()
        self._divide([child for child in self.directory.instances(group) if child.state(now) in USABLE])

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
                counted = limited(status, child.speed_limit, child.slots_limit)
                child.report(part(counted, child.parts), child.last_seen, seen)
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
        children = self._with_drain_key(key)
        for child in children:
            child.drain = self._drain_of(child)
        self.generation += 1
        return [child for child in children if self.children.get(child.name) is child]

    def drained_absent(self) -> dict[str, Drain]:
        """Drains of children that are not here, nor were lately."""
        if not self.drained:  # nearly always, and each report asks
            return {}
        return {key: drain for key, drain in self.drained.items() if not self._with_drain_key(key)}

    def _with_drain_key(self, key: str) -> list[Child]:
        """The children with this `drain_key` or group, those included that left lately."""
        named = [child for child in (self.children.get(key), self.departed.get(key)) if child and not child.group]
        group, _, url = key.partition("@")
        instance = [child for child in self.directory.all_instances(group) if url and child.url == url]
        return [*named, *(self.directory.all_instances(key) if key else []), *instance]

    def _drain_of(self, child: Child) -> Drain | None:
        return self.drained.get(drain_key(child)) or self.drained.get(child.group)

    # -- what they list --------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Bring the index up to date with the children that were touched; with those that list much a moment later."""
        for child, now in self.index.touched():
            if child in self._large:
                self._large[child] = now
            elif self.take_in_later is not None and self._size(child) > LARGE:
                self._large[child] = now
                self._waiting.append(child)
                if len(self._waiting) == 1:
                    self.take_in_later()
            else:
                at_once(self._child_steps(child, now))

    def take_in_steps(self) -> Steps[None]:
        """Bring the index up to date. Until then a model that a child has just listed looks as before."""
        self._take_in()
        while self._waiting:
            child = self._waiting.pop(0)
            now = self._large[child]
            try:
                models = yield from self._child_steps(child, now)
            finally:
                again = self._large.pop(child)
            if again != now or self._size(child):  # it has changed meanwhile
                self.index.touch(child, again)
            self._took_in(child, models)
            self._take_in()

    def _size(self, child: Child) -> int:
        here, left = self.children.get(child.name) is child, self.departed.get(child.name) is child
        return self.index.size(child, here=here) + self._former.size(child, here=left)

    def _child_steps(self, child: Child, now: float) -> Steps[list[ModelKey]]:
        """Take in one child. Returns the models that it does not list any more."""
        here = self.children.get(child.name) is child
        dropped: list[ModelKey] = []
        for moved in self.index.changes(child, here=here):
            served_at = self._served_at.get(child)
            if served_at is not None:
                self.known.available(moved.dropped, served_at)
            self.known.vanished([key for key in moved.vanished if not self.index.lists(*key)], now)
            self.known.appeared([key for key in moved.appeared if self.index.lists(*key)], now)
            dropped += moved.dropped
            yield
        self.known.note_child(child, now, here=here)
        for _ in self._former.changes(child, here=self.departed.get(child.name) is child):
            yield
        return dropped

    def _took_in(self, child: Child, dropped: list[ModelKey]) -> None:
        """A child that lists much was taken in. dropped: models that it does not list any more."""
        self.generation += 1
        if self.children.get(child.name) is child:
            for listener in self._listeners:
                listener(child)

    def listed(self, model: str, api: Api | None = None) -> bool:
        """Does any engine below serve this model, available or not?

        A node reports only the models that are available; those that are not are in its subtree.
        """
        self._take_in()
        return self.index.lists(model, api) or self._former.lists(model, api)

    def is_incomplete(self) -> bool:
        """May there be models below this node that it does not know yet?"""
        self._take_in()
        return self.known.incomplete(self._clock())


def drain_key(child: Child) -> str:
    """Its name; of one instance of a replicated node GROUP@URL, since its number differs from parent to parent."""
    return f"{child.group}@{child.url}" if child.group else child.name
