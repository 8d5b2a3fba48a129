"""What a node shows of itself and of the tree below it, from memory: `/tree`, `/v1/models`, and its reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hierarchy.balancing.tiers import Tiers
from hierarchy.registry import Registry
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.drain import Drain
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.status import ModelStatus
from hierarchy.wire.subtree import all_gone_steps

SLOWED = "it reports speed {:g}, which counts as {:g}, ten times the median of its siblings; see `max_speed`"
SLOW = "requests to it take more than four times as long as those to its siblings: of its speed {:g} counts {:g}"
WIDE = (
    "it reports {:g} slots for each unit of speed, which do not count: more than ten times the median of its siblings"
)
CUT = "what is below it is not shown here: it is larger than this node keeps of one child; raise `max_body_bytes`"


MODELS_AT_ONCE = 200  # of one child


class TreeView:
    """Plain JSON objects made from a registry.

    What is made in steps changes meanwhile: each child is shown as it was at some moment since the first step. The
    children themselves are those of the last moment.

    clock: the registry's, in seconds. warnings: what is wrong with this node, for operators. tiers: those of its
    children, if it prefers some.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Callable[[], float],
        warnings: Callable[[], list[str]] = list,
        tiers: Callable[[], Tiers | None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._warnings = warnings
        self._tiers = tiers
        self._gone: dict[Child, dict[str, Any]] = {}  # what is below the children that left, which does not change

    def children(self) -> dict[str, Any]:
        """The subtree: `{child name: entry}`."""
        return at_once(self.children_steps())

    def children_steps(self) -> Steps[dict[str, Any]]:
        """`children`, child by child."""
        made: dict[Child, dict[str, Any]] = {}
        left: set[Child] = set()  # of those, the ones that had left
        while missing := [child for child in self._children() if child not in made or self._has_left(child, left)]:
            for child in missing:  # at first all of them, then those that have come or left meanwhile
                if child.left_at is not None:
                    left.add(child)
                made[child] = yield from self._entry(child)
                yield
        entries = {key: _absent_entry(key, drain) for key, drain in self._registry.drained_absent().items()}
        for child in self._children():
            entries.pop(child.name, None)  # so that the order is that of the children
            entries[child.name] = made[child]
        return entries

    def forget(self) -> None:
        """Keep nothing of children that are not remembered any more."""
        departed = self._registry.departed
        self._gone = {child: below for child, below in self._gone.items() if departed.get(child.name) is child}

    def _children(self) -> list[Child]:
        return [*self._registry.departed.values(), *self._registry]

    @staticmethod
    def _has_left(child: Child, known: set[Child]) -> bool:
        return child.left_at is not None and child not in known

    def entry(self, child: Child) -> dict[str, Any]:
        """One child and its subtree."""
        return at_once(self._entry(child))

    def tree(self) -> dict[str, Any]:
        """This node's own entry and its subtree."""
        return at_once(self.tree_steps())

    def tree_steps(self) -> Steps[dict[str, Any]]:
        """`tree`, child by child."""
        children = yield from self.children_steps()
        yield from self._registry.status_steps()
        return {**self.own(), "children": children}

    def own(self) -> dict[str, Any]:
        """This node's own entry, without its subtree."""
        identity, status = self._registry.identity, self._registry.status()
        return {
            "name": identity.name,
            "kind": NODE,
            "url": identity.url,
            "state": "up",
            "detail": "",
            **_shown(self._warnings()),
            "instance": identity.instance,
            "version": identity.version,
            "build": identity.build,
            "dispatch": identity.dispatch,
            "speed": status.speed,
            "queue_length": status.queue_length,
            "in_flight": sum(child.in_flight for child in self._registry),
            "models": [_model(model) for model in status.models],
        }

    def _entry(self, child: Child) -> Steps[dict[str, Any]]:
        models: list[dict[str, Any]] = []
        shares = list(child.shares.values())
        tiers = self._tiers()
        for start in range(0, len(shares), MODELS_AT_ONCE):
            now = self._clock()
            models += [_share(share, now) | _wait(tiers, share) for share in shares[start : start + MODELS_AT_ONCE]]
            yield
        below = child.subtree if child.left_at is None else (yield from self._below_gone(child))
        uses_labels = any(self._registry.declared_labels.values())
        return _entry(child, self._clock(), models, below, uses_labels=uses_labels) | _tier(tiers, child)

    def _below_gone(self, child: Child) -> Steps[dict[str, Any]]:
        below = self._gone.get(child)
        if below is None:
            below = self._gone[child] = yield from all_gone_steps(child.subtree)
        return below


def _labels(child: Child, *, uses_labels: bool) -> dict[str, Any]:
    """What is known of the child. uses_labels: this node declares some, so that it matters if this child has none."""
    return {"labels": dict(child.labels.bound)} if child.labels.bound and (uses_labels or child.labels.is_used) else {}


def _entry(
    child: Child, now: float, models: list[dict[str, Any]], below: Mapping[str, Any], *, uses_labels: bool
) -> dict[str, Any]:
    return {
        "name": child.name,
        **({} if child.label == child.name else {"label": child.label}),
        "kind": child.kind,
        "url": child.url,
        "link": "reverse" if child.reverse else "direct",
        "state": child.state(now),
        "detail": child.detail(now),
        **_shown(_warnings(child)),
        "instance": child.instance,
        "version": child.version,
        "build": child.build,
        "dispatch": child.dispatch,
        **_labels(child, uses_labels=uses_labels),
        "speed": child.status.speed,
        "queue_length": child.total.value,
        "in_flight": child.in_flight,
        **_round_trip(child),
        "models": models,
        "children": below,
        **({} if child.drain is None else {"drain": msgspec.structs.asdict(child.drain)}),
        **({"wakes": True} if child.can_wake(now) else {}),
    }


def text_steps(entry: Mapping[str, Any]) -> Steps[bytes]:
    """An entry and its subtree as JSON, entry by entry."""
    pieces: list[bytes] = []
    yield from _write(entry, pieces)
    return b"".join(pieces)


def children_text_steps(children: Mapping[str, Any]) -> Steps[bytes]:
    """The entries of a node's children, or a merge patch of them, as JSON, entry by entry."""
    pieces: list[bytes] = []
    yield from _write_children(children, pieces)
    return b"".join(pieces)


def _write(entry: Mapping[str, Any], pieces: list[bytes]) -> Steps[None]:
    children = entry.get("children")
    yield
    if not isinstance(children, Mapping):
        pieces.append(json_of(entry))
        return
    own = json_of({field: value for field, value in entry.items() if field != "children"})[:-1]
    pieces.append(own + (b', "children": ' if len(own) > 1 else b'"children": '))
    yield from _write_children(children, pieces)
    pieces.append(b"}")


def _write_children(children: Mapping[str, Any], pieces: list[bytes]) -> Steps[None]:
    pieces.append(b"{")
    for number, (key, child) in enumerate(children.items()):
        pieces.append((b", " if number else b"") + json_of(key) + b": ")
        if isinstance(child, Mapping):
            yield from _write(child, pieces)
        else:
            pieces.append(json_of(child))
    pieces.append(b"}")


def json_of(value: Any) -> bytes:
    """The JSON of a value, whatever text is in it."""
    try:
        return msgspec.json.encode(value)
    except UnicodeError:  # half of a surrogate pair, in an error of the system
        return json.dumps(value).encode()


def _absent_entry(key: str, drain: Drain) -> dict[str, Any]:
    """A drain that waits for a child with this name, so that an operator finds it."""
    return {
        "name": key,
        "kind": "?",
        "url": "",
        "state": "gone",
        "detail": f"drained {drain}",
        "speed": 0.0,
        "queue_length": 0,
        "in_flight": 0,
        "models": [],
        "children": {},
        "drain": msgspec.structs.asdict(drain),
    }


def _shown(warnings: list[str]) -> dict[str, Any]:
    return {"warnings": warnings} if warnings else {}


def _warnings(child: Child) -> list[str]:
    warnings = [*child.warnings, CUT] if child.below_is_cut else child.warnings
    if child.is_slowed:
        warnings = [*warnings, SLOWED.format(child.claimed, child.speed_limit)]
    if child.part < 1.0:
        warnings = [*warnings, SLOW.format(child.claimed, child.part * child.claimed)]
    if child.is_wide:
        warnings = [*warnings, WIDE.format(child.claimed_slots)]
    return warnings


def _round_trip(child: Child) -> dict[str, Any]:
    return {"round_trip_s": round(child.round_trip.shown, 4)} if child.round_trip.is_known else {}


def _tier(tiers: Tiers | None, child: Child) -> dict[str, Any]:
    return {} if tiers is None else {"tier": tiers.number(child), "spill_after_s": tiers.spill_after_s}


def _wait(tiers: Tiers | None, share: Share) -> dict[str, Any]:
    wait_s = 0.0 if tiers is None else tiers.expected_wait_s(share)
    return {"wait_s": float(f"{wait_s:.2g}")} if wait_s else {}


def _model(model: ModelStatus) -> dict[str, Any]:
    row = msgspec.structs.asdict(model)
    if not model.avoid:
        del row["avoid"]
    for field in ("load_s", "prefill", "decode"):
        if not row[field]:
            del row[field]
    return row


def _share(share: Share, now: float) -> dict[str, Any]:
    """One model at one child. What is well says nothing of its health, so that a report has nothing to add."""
    row, responses = _model(share.status(now)), share.responses
    if responses.failures:
        row |= {"error_rate": round(responses.error_rate, 2), "responses": responses.volume}
    if share.failures is not None and share.failures.ejects(now):
        row["detail"] = share.failures.reason
    if share.pending:
        row["pending"] = share.pending
    for name, hits in (("hit_rate", share.hits), ("engine_hit_rate", share.engine_hits)):
        if hits is not None and hits.value is not None:
            row[name] = round(hits.value, 2)
    if share.penalty:
        row["penalty"] = share.penalty
    return row
