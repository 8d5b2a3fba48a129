"""What a node shows of itself and of the tree below it, from memory: `/tree`, `/v1/models`, and what goes up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from hierarchy import subtree
from hierarchy.child import NODE, Child
from hierarchy.registry import Registry
from hierarchy.status import ModelStatus


class View:
    """Plain JSON objects made of a registry. clock: the registry's. created: Unix seconds, for OpenAI's model list."""

    def __init__(self, registry: Registry, clock: Callable[[], float], created: int) -> None:
        self._registry = registry
        self._clock = clock
        self._created = created

    def children(self) -> dict[str, Any]:
        """The subtree: `{child name: entry}`."""
        now = self._clock()
        departed = self._registry.departed.values()
        return {child.name: _entry(child, now) for child in (*departed, *self._registry)}

    def tree(self) -> dict[str, Any]:
        """This node's own entry, with everything below it."""
        identity, status = self._registry.identity, self._registry.status()
        return {
            "name": identity.name,
            "kind": NODE,
            "url": identity.url,
            "state": "up",
            "detail": "",
            "instance": identity.instance,
            "version": identity.version,
            "speed": status.speed,
            "queue_length": status.queue_length,
            "in_flight": sum(child.in_flight for child in self._registry),
            "models": [_model(model) for model in status.models],
            "children": self.children(),
        }

    def models(self) -> dict[str, Any]:
        """OpenAI's `GET /v1/models`: the models that can be asked for now, each with the engines that serve it."""
        below = list(subtree.leaves(self.children(), up=True))
        status = self._registry.status()
        rows = []
        for name in status.model_names:
            served_by = list(dict.fromkeys(_plain(path) for path, entry in below if subtree.serves(entry, name)))
            apis = [model.api for model in status.models if model.name == name]
            rows.append(
                {
                    "id": name,
                    "object": "model",
                    "created": self._created,
                    "owned_by": "hierarchy",
                    "apis": apis,
                    "served_by": served_by,
                }
            )
        return {"object": "list", "data": rows}


def _plain(path: str) -> str:
    """An engine's path, whichever instance of a node leads to it."""
    return re.sub(r"~\d+(?=/)", "", path)


def _entry(child: Child, now: float) -> dict[str, Any]:
    status = child.current()
    return {
        "name": child.name,
        "kind": child.kind,
        "url": child.url,
        "state": child.state(now),
        "detail": child.detail(now),
        "instance": child.instance,
        "version": child.version,
        "speed": status.speed,
        "queue_length": status.queue_length,
        "in_flight": child.in_flight,
        "models": [_model(model) for model in status.models],
        "children": child.subtree if child.left_at is None else subtree.all_gone(child.subtree),
    }


def _model(model: ModelStatus) -> dict[str, Any]:
    return msgspec.structs.asdict(model)
