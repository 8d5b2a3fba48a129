"""The status of a child, and the sum of several statuses.

Source: FastChat's worker status is `{model_names, speed, queue_length}` over all models together. A site with ten GPUs
for one model and one for another would look ten times too fast for the second, so a node's status is also per model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Api = Literal["fastchat", "openai"]  #: API family
ModelKey = tuple[str, Api]
OTHER_API: dict[Api, Api] = {"openai": "fastchat", "fastchat": "openai"}
MAX_QUEUE = 10**9  # a longer queue cannot be real, and sums of them could overflow


class ModelStatus(msgspec.Struct, frozen=True):
    """One model through one API family, at one child or summed over a subtree."""

    name: str
    api: Api = "openai"
    #: capacity weight; 1.0 is one declared unit
    speed: float = 1.0
    #: requests running plus waiting
    queue_length: int = 0
    #: requests that can run at once; 0: unknown
    slots: int = 0
    #: use it only where nothing else serves the model: all that serve it there are suspect or ejected
    avoid: bool = False

    @property
    def key(self) -> ModelKey:
        """(model, API family)"""
        return self.name, self.api


class NodeStatus(msgspec.Struct, frozen=True):
    """The whole status of a child or of this node.

    The totals are not sums over `models`: an engine that serves two models has one GPU and one queue.
    """

    models: tuple[ModelStatus, ...] = ()
    #: capacity weight
    speed: float = 0.0
    #: requests running plus waiting
    queue_length: int = 0
    #: an engine has put its model away, and serves nothing until it is woken up; not part of a message
    asleep: bool = False

    @property
    def model_names(self) -> list[str]:
        """Sorted, each name once, also if both API families serve it."""
        return sorted({model.name for model in self.models})

    def fastchat(self) -> dict[str, Any]:
        """FastChat's `worker_status` object."""
        return {"model_names": self.model_names, "speed": self.speed, "queue_length": self.queue_length}


EMPTY = NodeStatus()


def part(status: NodeStatus, parts: int) -> NodeStatus:
    """The part of one of `parts` equal instances, each of which reported the whole status. Counts are rounded up."""
    if parts == 1:
        return status
    models = tuple(
        ModelStatus(m.name, m.api, m.speed / parts, -(-m.queue_length // parts), -(-m.slots // parts), m.avoid)
        for m in status.models
    )
    return NodeStatus(models, status.speed / parts, -(-status.queue_length // parts))


def shorter(status: NodeStatus, ended: int) -> NodeStatus:
    """The status of an engine without so many requests that have ended. Its models share one queue."""
    if not ended:
        return status
    models = tuple(
        ModelStatus(m.name, m.api, m.speed, max(0, m.queue_length - ended), m.slots, m.avoid) for m in status.models
    )
    return NodeStatus(models, status.speed, max(0, status.queue_length - ended), status.asleep)


def aggregate(statuses: Iterable[NodeStatus]) -> NodeStatus:
    """The status of a node, from those of its children: totals over all, and per model and API family.

    A model counts without those that are to be avoided, unless there are no others. Its slots are known if those of all
    are. Counts are limited to `MAX_QUEUE`, so that a parent accepts this node's report whatever its children claim.
    """
    speed, queue_length = 0.0, 0
    # One list for each model, since there may be 10,000: speed, queue_length, slots, avoid
    sums: dict[ModelKey, list[Any]] = {}
    for status in statuses:
        speed += status.speed
        queue_length += status.queue_length
        for model in status.models:
            key = model.name, model.api
            known = sums.get(key)
            if known is None or (known[3] and not model.avoid):
                sums[key] = [model.speed, model.queue_length, model.slots, model.avoid]
            elif known[3] == model.avoid:
                known[0] += model.speed
                known[1] += model.queue_length
                known[2] = known[2] + model.slots if known[2] and model.slots else 0
    models = tuple(
        ModelStatus(key[0], key[1], own, min(queue, MAX_QUEUE), min(slots, MAX_QUEUE), avoid)
        for key, (own, queue, slots, avoid) in sorted(sums.items())
    )
    return NodeStatus(models, speed, min(queue_length, MAX_QUEUE))
