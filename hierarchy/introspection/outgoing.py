"""What a node says to its parents: never more than a parent accepts from one child, whatever the children list.

A parent refuses a report that is too long, and with it the whole node. So what does not fit is left out here, where it
is known whose it is: first that of the children that say the most. A child that says less than its fair share loses
nothing, however much another one says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import msgspec

from hierarchy.introspection.tree import TreeView
from hierarchy.labels import MAX_SETS, REST
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.registry.child_labels import Row
from hierarchy.runtime.steps import Steps
from hierarchy.wire.limits import ENTRY_VALUES, MODEL_BYTES, NAMED, ROW_VALUES, ChildLimits, text_bytes
from hierarchy.wire.offer import NOTHING, Offer, weight_of_offers
from hierarchy.wire.status import ModelKey, NodeStatus

LABELS_S = 1.0  # a child that falls silent, or whose models are taken in, changes them without an event
LONGEST_TEXT = 3 + 4 * 256  # bytes of a name
LEFT_OUT = (
    "what is below it is not shown here: it is too much for the messages of the node above; raise `max_body_bytes`"
)
T = TypeVar("T")
log = logging.getLogger("hierarchy.uplink")


class Outgoing:
    """The parts of a node's message to a parent that its children decide."""

    def __init__(self, registry: Registry, view: TreeView) -> None:
        self._registry = registry
        self._view = view
        self._models: tuple[int, frozenset[ModelKey] | None] = -1, None  # generation, those that fit; None: all
        self._is_logged = False
        self._labels: tuple[int, float, list[Offer]] = -1, 0.0, []  # generation, time until which it holds, offers

    @property
    def _limits(self) -> ChildLimits:
        return self._registry.limits

    def status(self) -> NodeStatus:
        """This node's status, without the models that do not fit."""
        registry = self._registry
        status = registry.status()
        if len(status.models) * (NAMED * LONGEST_TEXT + MODEL_BYTES) <= self._limits.model_bytes:  # nearly always
            return status
        if self._models[0] != registry.generation:
            self._models = registry.generation, self._fitting_models(status)
        fitting = self._models[1]
        if fitting is None:
            return status
        models = tuple([model for model in status.models if model.key in fitting])
        return msgspec.structs.replace(status, models=models)

    def _fitting_models(self, status: NodeStatus) -> frozenset[ModelKey] | None:
        if _weight([model.key for model in status.models]) <= self._limits.model_bytes:
            self._is_logged = False
            return None
        listed = {child: sorted(child.shares) for child in self._registry}
        level = fair_level([_weight(keys) for keys in listed.values()], self._limits.model_bytes)
        if not self._is_logged:
            self._is_logged = True
            most = max(listed, key=lambda child: len(listed[child]))
            log.warning(
                "the children list more models than fit into one message to a parent, which gets a part of those of "
                "the largest ones, such as %s; raise max_body_bytes here and there",
                most.name,
            )
        return frozenset(key for keys in listed.values() for key in _first(keys, _weight, level))

    def path(self) -> list[str]:
        """The instances of this node and of the nodes below it, as many as fit."""
        registry, limits = self._registry, self._limits
        path = registry.path()
        if len(path) <= limits.instances and (
            len(path) * LONGEST_TEXT <= limits.path_bytes or text_bytes(path) <= limits.path_bytes
        ):
            return path
        own = registry.identity.instance
        paths = [sorted(child.path) for child in registry]
        most = fair_level(list(map(len, paths)), limits.instances - 1)
        longest = fair_level([text_bytes(one[:most]) for one in paths], limits.path_bytes - text_bytes([own]))
        return sorted({own}.union(*(_first(one[:most], text_bytes, longest) for one in paths)))

    def labels(self) -> list[Offer]:
        """Which labels can be required of what serves each model; [] where nothing below says anything of them."""
        generation, now = self._registry.generation, self._registry.now()
        known, until, offers = self._labels
        if known != generation or now >= until:
            offers = self._offers()
            if weight_of_offers(offers) > self._limits.model_bytes:
                offers = [NOTHING]
            self._labels = generation, now + LABELS_S, offers
        return offers

    def _offers(self) -> list[Offer]:
        labels = [child.labels for child in self._registry]
        if not any(one.is_used for one in labels):  # nearly always
            is_closed = bool(labels) and all(REST in one.bound for one in labels)
            return [NOTHING] if is_closed else []
        offers: dict[tuple[Row, ...], Offer] = {}
        for name, found in self._label_rows().items():
            rows = tuple(sorted(found)) if len(found) <= MAX_SETS else ()
            if rows != ((),):
                offer = offers.setdefault(rows, Offer([dict(row) for row in rows], []))
                assert offer.models is not None
                offer.models.append(name)
        return list(offers.values())

    def _label_rows(self) -> dict[str, set[Row]]:
        """Of each model the labels of the children that serve it now, or of what is below them."""
        registry = self._registry
        now, found = registry.now(), dict[str, set[Row]]()
        for key in registry.index.order:
            rows = found.setdefault(key[0], set())
            for child in registry.index.shares(key):
                if child.serves_now(now):
                    rows.update(child.labels.rows(key[0]))
        return found

    def children_steps(self) -> Steps[dict[str, Any]]:
        """The subtree for `/tree`, without what is below the largest children if all of it does not fit."""
        entries = yield from self._view.children_steps()
        known = [child for child in (*self._registry, *self._registry.departed.values()) if child.name in entries]
        for child, rows_too in self._left_out(known).items():
            entry = entries[child.name]
            entries[child.name] = {**entry, "children": {}, "warnings": [*entry.get("warnings", []), LEFT_OUT]}
            if rows_too:
                entries[child.name]["models"] = []
        return entries

    def _left_out(self, children: Collection[Child]) -> dict[Child, bool]:
        """The children whose subtree does not fit, and whether their lists of models do not either."""
        limits = self._limits
        rows = sum(len(child.shares) for child in children)
        if (
            sum(child.below.bytes for child in children) + len(children) * 1024 + rows * (MODEL_BYTES + LONGEST_TEXT)
            <= limits.subtree_bytes
            and sum(child.below.values for child in children) + len(children) * ENTRY_VALUES + rows * ROW_VALUES
            <= limits.subtree_values
        ):
            return {}  # nearly always
        sizes = [child.below.bytes + _row_bytes(child) for child in children]
        values = [child.below.values + _row_values(child) for child in children]
        if sum(sizes) <= limits.subtree_bytes and sum(values) <= limits.subtree_values:
            return {}
        most_bytes = fair_level(sizes, limits.subtree_bytes)
        most_values = fair_level(values, limits.subtree_values)
        return {
            child: _row_bytes(child) > most_bytes or _row_values(child) > most_values
            for child, size, count in zip(children, sizes, values, strict=True)
            if size > most_bytes or count > most_values
        }


def fair_level(weights: Iterable[int], limit: int) -> int:
    """The largest share that all can have so that what they take of it is within `limit` together."""
    left, ordered = limit, sorted(weights)
    for number, weight in enumerate(ordered):
        share = max(0, left) // (len(ordered) - number)
        if weight > share:
            return share
        left -= weight
    return limit


def _weight(keys: Collection[ModelKey]) -> int:
    """As `checks.models_steps` counts it."""
    return NAMED * text_bytes([name for name, _ in keys]) + MODEL_BYTES * len(keys)


def _first(items: list[T], weigh: Callable[[list[T]], int], level: int) -> list[T]:
    """As many of the first ones as are within the level together. weigh: of some of them."""
    used = 0
    for number, item in enumerate(items):
        used += weigh([item])
        if used > level:
            return items[:number]
    return items


def _row_bytes(child: Child) -> int:
    """Of the child's own entry, about."""
    return 1024 + MODEL_BYTES * len(child.shares) + text_bytes([name for name, _ in child.shares])


def _row_values(child: Child) -> int:
    return ENTRY_VALUES + ROW_VALUES * len(child.shares)
