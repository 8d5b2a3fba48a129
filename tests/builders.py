"""Builders of statuses, of messages from workers and nodes, and of random JSON."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import msgspec
from hypothesis import strategies as st

from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.registry.ejection import FailureRecord
from hierarchy.wire.messages import HeartBeat, Identity, Registration, decode
from hierarchy.wire.status import ModelKey, ModelStatus, NodeStatus
from tests.clocks import Clock

WORKER = "http://w1:21002"
SITE = "http://site-a:21001"
OPENAI: ModelKey = ("m", "openai")
FASTCHAT: ModelKey = ("m", "fastchat")


def model(name: str = "m", speed: float = 1.0, queue_length: int = 0, **fields: Any) -> ModelStatus:
    """The status of one model. speed: relative to one engine."""
    return ModelStatus(name, speed=speed, queue_length=queue_length, **fields)


def status_of(*models: ModelStatus) -> NodeStatus:
    """The status of one GPU that serves all these models, each with a queue of its own."""
    return NodeStatus(models, max((m.speed for m in models), default=0.0), sum(m.queue_length for m in models))


def worker(
    url: str = WORKER, models: Collection[str] = ("m",), speed: float = 1, queue_length: int = 0, **fields: Any
) -> dict[str, Any]:
    """A FastChat worker's registration."""
    status = {"model_names": list(models), "speed": speed, "queue_length": queue_length}
    return {"worker_name": url, "check_heart_beat": True, "worker_status": status, **fields}


def site(name: str = "site-a", *models: ModelStatus, url: str = "", **fields: Any) -> dict[str, Any]:
    """A node's registration; it has one model `m` if none is given."""
    status = status_of(*(models or (model(),)))
    own = {"node": name, "instance": f"{name}-1", "seq": 1, "path": [f"{name}-1"], "models": rows(status)}
    return {**worker(url or f"http://{name}:21001"), "worker_status": status.fastchat(), **own, **fields}


def report(name: str = "site-a", *models: ModelStatus, url: str = "", **fields: Any) -> dict[str, Any]:
    """A node's report."""
    message = site(name, *models, url=url, **{"seq": 2, **fields})
    status = message.pop("worker_status")
    return {**message, "speed": status["speed"], "queue_length": status["queue_length"], **fields}


def rows(status: NodeStatus) -> list[dict[str, Any]]:
    """The field `models` of a node's registration or report."""
    return [msgspec.structs.asdict(model) for model in status.models]


def registration(message: dict[str, Any]) -> Registration:
    """The message as the registry receives it."""
    return decode(json.dumps(message).encode(), Registration)


def heart_beat(message: dict[str, Any]) -> HeartBeat:
    """The message as the registry receives it."""
    return decode(json.dumps(message).encode(), HeartBeat)


class Table(Registry):
    """The registry of a node `root`: it has a clock that the test moves, and accepts messages as plain dictionaries."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(Identity("root", "http://root:21001", "root-1"), self.clock)

    def add(self, message: dict[str, Any]) -> Child:
        """Register a child."""
        return self.register(registration(message))

    def receive(self, message: dict[str, Any] | None = None, **fields: Any) -> bool:
        """Receive a report or heartbeat; a worker's, with these fields, if no message is given."""
        return self.heart_beat(heart_beat(message or {"worker_name": WORKER, "queue_length": 0, **fields}))

    def available_names(self, key: ModelKey = OPENAI) -> set[str]:
        """The names of the children that are available for a model."""
        return {share.child.name for share in self.available(key)}


def eject(registry: Registry, child: Child, seconds: float, reason: str) -> None:
    """Let a whole child be ejected for a while."""
    record = child.failures = child.failures or FailureRecord()
    record.until, record.reason = registry.now() + seconds, reason
    registry._begin_ejection(child)


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nested JSON arrays and objects with these leaves."""
    keys = st.sampled_from(["a", "b", "c", "children", "models"])
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


scalars = st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "up", "down"])
#: without null, which means "remove" in a merge patch
subtrees = st.dictionaries(st.sampled_from(["a", "b", "children"]), nested(scalars), max_size=4)
