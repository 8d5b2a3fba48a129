"""What a node shows of itself and of the tree below it, from memory: `/tree`, `/v1/models`, and its reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hierarchy.registry import Registry
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.drain import Drain
from hierarchy.runtime.slices import Steps, at_once
from hierarchy.wire.status import ModelStatus
from hierarchy.wire.subtree import all_gone

CUT = "what is below it is not shown here: it is larger than this node keeps of one child; raise `max_body_bytes`"


class TreeView:
    """Plain JSON objects made from a registry.

    clock: the registry's, in seconds. warnings: what is wrong with this node, for operators.
    """

    def __init__(
        self, registry: Registry, clock: Callable[[], float], warnings: Callable[[], list[str]] = list
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._warnings = warnings

    def children(self) -> dict[str, Any]:
        """The subtree: `{child name: entry}`."""
        return at_once(self.children_steps())

    def children_steps(self) -> Steps[dict[str, Any]]:
        """`children`, child by child."""
        entries = {key: _absent_entry(key, drain) for key, drain in self._registry.drained_absent().items()}
        for child in (*self._registry.departed.values(), *self._registry):
            entries.pop(child.name, None)  # so that the order is that of the children
            entries[child.name] = _entry(child, self._clock())
            yield
        return entries

    def entry(self, child: Child) -> dict[str, Any]:
        """One child and its subtree."""
        return _entry(child, self._clock())

    def tree(self) -> dict[str, Any]:
        """This node's own entry and its subtree."""
        return at_once(self.tree_steps())

    def tree_steps(self) -> Steps[dict[str, Any]]:
        """`tree`, child by child."""
        children = yield from self.children_steps()
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


def _entry(child: Child, now: float) -> dict[str, Any]:
    status = child.current(now)
    return {
        "name": child.name,
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
        "speed": status.speed,
        "queue_length": status.queue_length,
        "in_flight": child.in_flight,
        "models": [_share(share, now) for share in child.shares.values()],
        "children": child.subtree if child.left_at is None else all_gone(child.subtree),
        **({} if child.drain is None else {"drain": msgspec.structs.asdict(child.drain)}),
    }


def text_steps(entry: Mapping[str, Any]) -> Steps[bytes]:
    """An entry and its subtree as JSON, entry by entry."""
    pieces: list[bytes] = []
    yield from _write(entry, pieces)
    return b"".join(pieces)


def _write(entry: Mapping[str, Any], pieces: list[bytes]) -> Steps[None]:
    children = entry.get("children")
    yield
    if not isinstance(children, Mapping):
        pieces.append(_json(entry))
        return
    own = _json({field: value for field, value in entry.items() if field != "children"})[:-1]
    pieces.append(own + (b', "children": {' if len(own) > 1 else b'"children": {'))
    for number, (key, child) in enumerate(children.items()):
        pieces.append((b", " if number else b"") + _json(key) + b": ")
        if isinstance(child, Mapping):
            yield from _write(child, pieces)
        else:
            pieces.append(_json(child))
    pieces.append(b"}}")


def _json(value: Any) -> bytes:
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
    return [*child.warnings, CUT] if child.below_is_cut else child.warnings


def _model(model: ModelStatus) -> dict[str, Any]:
    row = msgspec.structs.asdict(model)
    if not model.avoid:
        del row["avoid"]
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
    if share.penalty:
        row["penalty"] = share.penalty
    return row
