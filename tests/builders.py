"""What the tests of the core build again and again: a clock, statuses, and the messages that peers send."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from hypothesis import strategies as st

from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.wire.messages import HeartBeat, Identity, Registration, decode
from hierarchy.wire.status import ModelKey, ModelStatus, NodeStatus
from tests.clocks import Clock

WORKER = "http://w1:21002"
SITE = "http://site-a:21001"
OPENAI: ModelKey = ("m", "openai")
FASTCHAT: ModelKey = ("m", "fastchat")


def model(name: str = "m", speed: float = 1.0, queue_length: int = 0, **fields: Any) -> ModelStatus:
    return ModelStatus(name, speed=speed, queue_length=queue_length, **fields)


def status_of(*models: ModelStatus) -> NodeStatus:
    """As of one GPU that serves all of them from one queue each."""
    return NodeStatus(models, max((m.speed for m in models), default=0.0), sum(m.queue_length for m in models))


def worker(
    url: str = WORKER, models: Collection[str] = ("m",), speed: float = 1, queue_length: int = 0, **fields: Any
) -> dict[str, Any]:
    """A FastChat worker's registration."""
    status = {"model_names": list(models), "speed": speed, "queue_length": queue_length}
    return {"worker_name": url, "check_heart_beat": True, "worker_status": status, **fields}


def site(name: str = "site-a", *models: ModelStatus, url: str = "", **fields: Any) -> dict[str, Any]:
    """One of our nodes' registrations; one model `m` unless told otherwise."""
    status = status_of(*(models or (model(),)))
    ours = {"node": name, "instance": f"{name}-1", "seq": 1, "path": [f"{name}-1"], "models": rows(status)}
    return {**worker(url or f"http://{name}:21001"), "worker_status": status.fastchat(), **ours, **fields}


def report(name: str = "site-a", *models: ModelStatus, url: str = "", **fields: Any) -> dict[str, Any]:
    """One of our nodes' reports."""
    message = site(name, *models, url=url, **{"seq": 2, **fields})
    status = message.pop("worker_status")
    return {**message, "speed": status["speed"], "queue_length": status["queue_length"], **fields}


def rows(status: NodeStatus) -> list[dict[str, Any]]:
    return [
        {"name": m.name, "api": m.api, "speed": m.speed, "queue_length": m.queue_length, "slots": m.slots}
        for m in status.models
    ]


def registration(message: dict[str, Any]) -> Registration:
    return decode(json.dumps(message).encode(), Registration)


def heart_beat(message: dict[str, Any]) -> HeartBeat:
    return decode(json.dumps(message).encode(), HeartBeat)


class Table(Registry):
    """The registry of a node `root` with a clock of its own, which takes messages as plain objects."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(Identity("root", "http://root:21001", "root-1"), self.clock)

    def take(self, message: dict[str, Any]) -> Child:
        return self.register(registration(message))

    def beat(self, message: dict[str, Any] | None = None, **fields: Any) -> bool:
        return self.heart_beat(heart_beat(message or {"worker_name": WORKER, "queue_length": 0, **fields}))

    def who(self, key: ModelKey = OPENAI) -> set[str]:
        return {share.child.name for share in self.available(key)}


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON made of such leaves."""
    keys = st.sampled_from(["a", "b", "c", "children", "models"])
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


#: subtrees as a merge patch can carry them: without null
scalars = st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "up", "down"])
subtrees = st.dictionaries(st.sampled_from(["a", "b", "children"]), nested(scalars), max_size=4)
