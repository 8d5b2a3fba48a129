"""What a child says of itself, and how a node adds up its children.

Source: FastChat's worker status is `{model_names, speed, queue_length}` over all models at once. A site with ten GPUs
for one model and one for another then looks ten times too fast for the second, so ours keeps both per model as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Api = Literal["fastchat", "openai"]  # in the order in which an address is looked for
ModelKey = tuple[str, Api]
OTHER_API: dict[Api, Api] = {"openai": "fastchat", "fastchat": "openai"}
MAX_QUEUE = 10**9  # a longer queue is a lie, and would overflow the arithmetic behind it


class ModelStatus(msgspec.Struct, frozen=True):
    """One model at one child, or summed over a subtree.

    `speed` is a capacity weight (1.0 = one declared unit), `queue_length` counts requests running plus waiting,
    `slots` how many can run at once (0 = not known).
    """

    name: str
    api: Api = "openai"
    speed: float = 1.0
    queue_length: int = 0
    slots: int = 0

    @property
    def key(self) -> ModelKey:
        return self.name, self.api


class NodeStatus(msgspec.Struct, frozen=True):
    """A child's or a node's whole status.

    The totals are not the sums over `models`: an engine that serves two models has one GPU and one queue.
    """

    models: tuple[ModelStatus, ...] = ()
    speed: float = 0.0
    queue_length: int = 0

    @property
    def model_names(self) -> list[str]:
        """Sorted, each name once, whatever API families serve it."""
        return sorted({model.name for model in self.models})

    def fastchat(self) -> dict[str, Any]:
        """FastChat's `worker_status` object."""
        return {"model_names": self.model_names, "speed": self.speed, "queue_length": self.queue_length}


EMPTY = NodeStatus()


def part(status: NodeStatus, parts: int) -> NodeStatus:
    """What one of `parts` equal instances stands for, where each has reported the whole."""
    if parts == 1:
        return status
    models = tuple(
        ModelStatus(m.name, m.api, m.speed / parts, -(-m.queue_length // parts), -(-m.slots // parts))
        for m in status.models
    )
    return NodeStatus(models, status.speed / parts, -(-status.queue_length // parts))


def aggregate(statuses: Iterable[NodeStatus]) -> NodeStatus:
    """Add up children into their parent's status: totals over all, and per (model, api family).

    Queues end at `MAX_QUEUE`: one child's absurd number must not make our own reports unacceptable.
    """
    speed, queue_length = 0.0, 0
    models: dict[ModelKey, ModelStatus] = {}
    for status in statuses:
        speed += status.speed
        queue_length = min(queue_length + status.queue_length, MAX_QUEUE)
        for model in status.models:
            models[model.key] = _add(models.get(model.key) or ModelStatus(model.name, model.api, 0.0), model)
    return NodeStatus(tuple(models[key] for key in sorted(models)), speed, queue_length)


def _add(a: ModelStatus, b: ModelStatus) -> ModelStatus:
    queue_length, slots = (min(n, MAX_QUEUE) for n in (a.queue_length + b.queue_length, a.slots + b.slots))
    return ModelStatus(a.name, a.api, a.speed + b.speed, queue_length, slots)
