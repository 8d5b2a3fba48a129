"""The status of a child, and the sum of several statuses.

Source: FastChat's worker status is `{model_names, speed, queue_length}` over all models together. A site with ten GPUs
for one model and one for another would look ten times too fast for the second, so a node's status is also per model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

Api = Literal["fastchat", "openai"]  #: API family
ModelKey = tuple[str, Api]
OTHER_API: dict[Api, Api] = {"openai": "fastchat", "fastchat": "openai"}
USUAL_LOAD_S: Final = 10.0  # for a model to be loaded by an engine, until that was measured
AVOIDED: Final = 2  # a rank
NOT_SERVED: Final = 4  # a rank that no row has
MAX_RATE = 1e12  # tokens/s of a whole tree; more cannot be real
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
    #: seconds that a request waits there until the model is loaded, since no engine has it in memory; 0: one has
    load_s: float = 0.0
    #: tokens/s of prompts that it reads, as measured, summed over engines; 0: not measured
    prefill: float = 0.0
    #: tokens/s that it writes for one stream, summed over engines; 0: not measured
    decode: float = 0.0

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
    #: it is asleep, and this node can wake it up
    wakes: bool = False
    #: of an engine's queue, the requests that do not run yet; -1: unknown; not part of a message
    waiting: int = -1
    #: prompt tokens that an engine had in its cache, and all of them, since its start, by model; "": of all its models;
    #: not part of a message
    prompt_tokens: dict[str, tuple[float, float]] = {}

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
        msgspec.structs.replace(
            model,
            speed=model.speed / parts,
            queue_length=-(-model.queue_length // parts),
            slots=-(-model.slots // parts),
            prefill=model.prefill / parts,
            decode=model.decode / parts,
        )
        for model in status.models
    )
    return NodeStatus(models, status.speed / parts, -(-status.queue_length // parts))


def shorter(status: NodeStatus, ended: int) -> NodeStatus:
    """The status of an engine without so many requests that have ended. Its models share one queue."""
    if not ended:
        return status
    replace = msgspec.structs.replace
    models = tuple(replace(model, queue_length=max(0, model.queue_length - ended)) for model in status.models)
    return replace(status, models=models, queue_length=max(0, status.queue_length - ended))


def aggregate(statuses: Iterable[NodeStatus]) -> NodeStatus:
    """The status of a node, from those of its children: totals over all, and per model and API family.

    A model counts without those that are to be avoided, unless there are no others, and without those that would have
    to load it, unless none has it loaded. Its slots are known if those of all are. Counts are limited to `MAX_QUEUE`,
    so that a parent accepts this node's report whatever its children claim.
    """
    sums: dict[ModelKey, list[ModelStatus]] = {}
    speed, queue_length = 0.0, 0
    for status in statuses:
        speed += status.speed
        queue_length += status.queue_length
        for model in status.models:
            sums.setdefault(model.key, []).append(model)
    models = tuple(_sum(key, rows) for key, rows in sorted(sums.items()))
    return NodeStatus(models, speed, min(queue_length, MAX_QUEUE))


def rank(avoid: bool, load_s: float) -> int:
    """Of several rows of a model, those of the lowest rank count: below `AVOIDED` unless all are to be avoided."""
    return (AVOIDED if avoid else 0) + (1 if load_s > 0.0 else 0)


def _sum(key: ModelKey, rows: list[ModelStatus]) -> ModelStatus:
    best = min([rank(row.avoid, row.load_s) for row in rows])
    counted = [row for row in rows if rank(row.avoid, row.load_s) == best]
    speed, queue, slots = 0.0, 0, 0
    prefill = decode = 0.0
    for row in counted:
        prefill += row.prefill
        decode += row.decode
        speed += row.speed
        queue += row.queue_length
        slots += row.slots
    if any(row.slots == 0 for row in counted):
        slots = 0
    load_s = min([row.load_s for row in counted])
    queue, slots, avoid = min(queue, MAX_QUEUE), min(slots, MAX_QUEUE), counted[0].avoid
    return ModelStatus(*key, speed, queue, slots, avoid, load_s, min(prefill, MAX_RATE), min(decode, MAX_RATE))
