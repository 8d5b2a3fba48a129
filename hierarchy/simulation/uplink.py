"""The reports of a node to one parent. Production code decides when and what; only the network is missing."""

from __future__ import annotations

import math
from random import Random
from typing import Any, Protocol

from hierarchy.config.models import Settings
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.simulation.events import Events
from hierarchy.uplink.thinning import TICK_S, is_urgent, next_due, other_load
from hierarchy.wire.messages import HeartBeat, Registration, WorkerStatus
from hierarchy.wire.status import EMPTY, NodeStatus


class Reporter(Protocol):
    """A node, as far as reports need it."""

    dead: bool
    settings: Settings
    registry: Registry

    def heart_beat(self, message: HeartBeat) -> None:
        """A child's report arrives."""


class Uplink:
    """What `hierarchy.uplink.registration.Uplink` is in a running node.

    delay_s: of a message to the parent.
    """

    def __init__(self, node: Reporter, parent: Reporter, delay_s: float, events: Events, rng: Random) -> None:
        self.node = node
        self.parent = parent
        self.delay_s = delay_s
        self.open = 0  # requests of this parent that have a lease on a child here
        self.seen = 0  # the highest number of a request of this parent
        self.reports = 0
        self._events = events
        self._rng = rng
        self._interval_s = node.settings.report_interval_s
        self._reported: NodeStatus = EMPTY
        self._reported_other = 0
        self._due = 0.0  # the next report without a reason
        self._look_at = math.inf  # the next look at the load
        self._began_at = rng.random() * TICK_S  # nodes do not look in step

    def register(self) -> Child:
        """The first message. Returns the child that the parent has now."""
        identity, status = self.node.registry.identity, self.node.registry.status()
        message = Registration(
            worker_name=identity.url,
            check_heart_beat=True,
            worker_status=WorkerStatus(status.model_names, status.speed, status.queue_length),
            replica=identity.replica,
            **self._fields(status),
        )
        self._reported = status
        self._plan()
        return self.parent.registry.register(message)

    def changed(self) -> None:
        """The load of the node has changed: look at it at the next tick."""
        now = self._events.now
        soon = self._began_at + math.floor((now - self._began_at) / TICK_S + 1) * TICK_S
        if soon < self._look_at:
            self._look_at = soon
            self._events.at(soon, self._look, soon)

    def _plan(self) -> None:
        self._due = next_due(self._events.now, self._interval_s, self._rng)
        self._look_at = self._due
        self._events.at(self._due, self._look, self._due)

    def _look(self, planned: float) -> None:
        if planned != self._look_at or self.node.dead:
            return  # there was an earlier look
        self._look_at = math.inf
        status = self.node.registry.status()
        other = other_load(status, self.open)
        if planned < self._due and not is_urgent(status, other, self._reported, self._reported_other):
            self._look_at = self._due  # which is planned already
            return
        self._reported, self._reported_other = status, other
        self.reports += 1
        message = HeartBeat(
            worker_name=self.node.registry.identity.url,
            queue_length=status.queue_length,
            speed=status.speed,
            **self._fields(status),
        )
        self._events.after(self.delay_s, self.parent.heart_beat, message)
        self._plan()

    def _fields(self, status: NodeStatus) -> dict[str, Any]:
        registry = self.node.registry
        return {
            "node": registry.identity.name,
            "instance": registry.identity.instance,
            "seq": self.reports,
            "seen": self.seen,
            "path": registry.path(),
            "models": list(status.models),
            "interval_s": self._interval_s,
        }

    def __repr__(self) -> str:
        return f"<Uplink of {self.node.registry.identity.name} open={self.open} reports={self.reports}>"
