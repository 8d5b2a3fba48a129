"""What a node shows of itself and of the tree below it, from memory: `/tree`, `/v1/models`, and its reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from hierarchy.balancing.aliases import Aliases
from hierarchy.registry import Registry
from hierarchy.registry.child import NODE, Child, Share
from hierarchy.registry.drain import Drain
from hierarchy.wire.status import ModelStatus
from hierarchy.wire.subtree import all_gone
from hierarchy.wire.tree_entry import decode

_INSTANCE_NUMBER = re.compile(r"~\d+(?=/)")  # of a replicated node in a path: "site~2/gpu-1"


class TreeView:
    """Plain JSON objects made from a registry.

    clock: the registry's, in seconds. created: Unix seconds, for OpenAI's model list.
    """

    def __init__(
        self, registry: Registry, clock: Callable[[], float], created: int, aliases: Aliases | None = None
    ) -> None:
        self._registry = registry
        self._aliases = aliases
        self._clock = clock
        self._created = created

    def children(self) -> dict[str, Any]:
        """The subtree: `{child name: entry}`."""
        now = self._clock()
        departed = self._registry.departed.values()
        known = {child.name: _entry(child, now) for child in (*departed, *self._registry)}
        absent = {key: _absent_entry(key, drain) for key, drain in self._registry.drained_absent().items()}
        return absent | known

    def entry(self, child: Child) -> dict[str, Any]:
        """One child and its subtree."""
        return _entry(child, self._clock())

    def tree(self) -> dict[str, Any]:
        """This node's own entry and its subtree."""
        identity, status = self._registry.identity, self._registry.status()
        return {
            "name": identity.name,
            "kind": NODE,
            "url": identity.url,
            "state": "up",
            "detail": "",
            "instance": identity.instance,
            "version": identity.version,
            "dispatch": identity.dispatch,
            "speed": status.speed,
            "queue_length": status.queue_length,
            "in_flight": sum(child.in_flight for child in self._registry),
            "models": [_model(model) for model in status.models],
            "children": self.children(),
        }

    def models(self) -> dict[str, Any]:
        """OpenAI's `GET /v1/models`: the models that are available now, each with the engines that serve it.

        An alias is listed, with `alias_of`, while one of its models is available.
        """
        status = self._registry.status()
        engines = [(_without_instance(path), engine) for path, engine in decode(self.tree()).engines(up=True)]
        rows = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "hierarchy",
                "apis": [model.api for model in status.models if model.name == name],
                "served_by": list(dict.fromkeys(path for path, engine in engines if engine.serves(name))),
            }
            for name in status.model_names
        ]
        return {"object": "list", "data": [*rows, *self._alias_rows({row["id"]: row for row in rows})]}

    def _alias_rows(self, served: Mapping[Any, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        if self._aliases is None:
            return
        for name in self._aliases:
            models = [served[model] for model in self._aliases.models(name) if model in served]
            if not models or name in served:
                continue
            merged: dict[str, Any] = {
                key: sorted({item for row in models for item in row[key]}) for key in ("apis", "served_by")
            }
            yield {**models[0], "id": name, **merged, "alias_of": [row["id"] for row in models]}


def _without_instance(path: str) -> str:
    """An engine's path, the same through each instance of a replicated node."""
    return _INSTANCE_NUMBER.sub("", path)


def _entry(child: Child, now: float) -> dict[str, Any]:
    status = child.current(now)
    return {
        "name": child.name,
        "kind": child.kind,
        "url": child.url,
        "link": "reverse" if child.reverse else "direct",
        "state": child.state(now),
        "detail": child.detail(now),
        "instance": child.instance,
        "version": child.version,
        "dispatch": child.dispatch,
        "speed": status.speed,
        "queue_length": status.queue_length,
        "in_flight": child.in_flight,
        "models": [_share(share, now) for share in child.shares.values()],
        "children": child.subtree if child.left_at is None else all_gone(child.subtree),
        **({} if child.drain is None else {"drain": msgspec.structs.asdict(child.drain)}),
    }


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
    if share.failures is not None and now < share.failures.until:
        row["detail"] = share.failures.reason
    if share.penalty:
        row["penalty"] = share.penalty
    return row
