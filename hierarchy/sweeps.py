"""What a node does twice a second: it looks at deadlines, and forgets what has gone.

Whatever has a name or an address comes and goes, and something may be kept for it. `Forgetting` takes it away after
`remember_s`; docs/explanation/soft-state.md lists what there is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from hierarchy.balancing.dispatch import Dispatch
from hierarchy.engines.manager import EngineManager
from hierarchy.gossip import Board
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.relay.downstream.clients import Clients
from hierarchy.relay.evidence import LOST_S, Finding
from hierarchy.relay.lane import Lane
from hierarchy.runtime.metrics import Metrics
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.runtime.tcp_keepalive import UNREACHABLE_S

FORGET_S = 10.0  # between two looks at what is kept for children and models that are gone; late by this much at most
SWEEP_S = 0.5  # how often deadlines are looked at; they are late by this much at most
SWEPT_AT_ONCE = 128  # children
log = logging.getLogger("hierarchy.node")


class Sweeps:
    """The steps of one node. Each may fail without the others.

    further: steps of other owners, by name. clock: monotonic seconds.
    """

    def __init__(
        self,
        lane: Lane,
        clients: Clients,
        engines: EngineManager,
        tasks: BackgroundTasks,
        further: Mapping[str, Callable[[], object]],
        clock: Callable[[], float],
    ) -> None:
        self._registry = lane.registry
        self._access = lane.access
        self._lane = lane
        self._clients = clients
        self._engines = engines
        self._tasks = tasks
        self._clock = clock
        self._sweep: Iterator[list[Child]] = iter(())  # of the children, in progress
        self.steps: dict[str, Callable[[], object]] = {
            "the sweep of connections": self._sweep_connections,
            "applying what was revoked or has expired": self._apply_access,
            **further,
        }

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """All steps, once."""
        for name, step in self.steps.items():
            self._tasks.guard(step, name)

    # -- children and connections ----------------------------------------------------------------------------

    async def sweep_children_forever(self) -> None:
        """In parts, spread over the time of a sweep: requests wait for no more than one of them."""
        while True:
            await asyncio.sleep(SWEEP_S / max(1, math.ceil(len(self._registry) / SWEPT_AT_ONCE)))
            self._tasks.guard(self.sweep_some_children, "the sweep of children")

    def sweep_some_children(self) -> None:
        """The next part; after the last one the first."""
        dropped = next(self._sweep, None)
        if dropped is None:
            for child in self._registry.newly_silent():
                self._clients.rescue(child, "it is silent")
            self._sweep = self._registry.sweep_in_parts(SWEPT_AT_ONCE)
            dropped = next(self._sweep, [])
        for child in dropped:
            log.warning("dropped %s: it sent no report", child.name)

    def _sweep_connections(self) -> None:
        now = self._clock()
        for finding in self._clients.silent_connections(self._registry, now):
            self.judge(finding)
        self._lane.sweep()
        self._clients.relieve(self._registry)
        self._clients.sweep(now)

    def judge(self, finding: Finding) -> None:
        """The kernel of a child, or the path to it, is silent on a connection with a request."""
        attempt, child = finding.attempt, finding.attempt.child
        if finding.is_alone or self._is_heard(child):
            if finding.silent_s >= LOST_S:
                attempt.connection_lost("lost its connection: nothing was acknowledged on it")
            return
        reason = "cannot be reached: its machine acknowledges nothing"
        if not self._engines.mark_down_by_kernel(child, f"{child.url} {reason}"):
            self._registry.failed(attempt.lease.share, "unreachable", reason)
            self._clients.rescue(child, reason)

    def _is_heard(self, child: Child) -> bool:
        """Has a child reported, or has a probe had an answer, while a connection was silent? Then it can be reached."""
        return child.last_seen is not None and self._clock() - child.last_seen < UNREACHABLE_S

    # -- who may be here -------------------------------------------------------------------------------------

    def _apply_access(self) -> None:
        """Apply what has expired, and what was read from files or another instance has learned. Without a disk."""
        policy = self._access.registration_policy
        if self._access.expire():
            self._clients.heads.forget()
        if policy.records is not None:
            policy.records.report_problem()
            if policy.records.changed():
                self.disconnect_revoked()

    def disconnect_revoked(self) -> list[str]:
        """Disconnect the children whose credentials were revoked. Returns their names."""
        registry, policy = self._registry, self._access.registration_policy
        revoked = policy.revoked(present(registry))
        for child in [child for child in registry.departed.values() if (child.group or child.name) in revoked]:
            registry.forget_departed(child.name)
        for child in [child for child in registry if (child.group or child.name) in revoked]:
            registry.remove(child.name)
            log.warning("%s was disconnected: its credential was revoked", child.name)
            self._clients.drop_child(child)
            self._lane.close_pool(child)
        return revoked


class Forgetting:
    """Takes away what is kept for children, models, names and clients that have gone.

    views: what lets each of the node's views forget. hosts: returns the host names that the configuration has.
    remember_s: how long it is kept. clock: monotonic seconds.
    """

    def __init__(
        self,
        lane: Lane,
        clients: Clients,
        board: Board,
        views: Iterable[Callable[[], None]],
        tasks: BackgroundTasks,
        hosts: Callable[[], Iterable[str]],
        remember_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.remember_s = remember_s
        self._lane = lane
        self._clients = clients
        self._board = board
        self._views = tuple(views)
        self._tasks = tasks
        self._hosts = hosts
        self._clock = clock
        self._at = 0.0
        self._heads_at = clock() + remember_s

    def sweep(self) -> None:
        """Call it twice a second."""
        now = self._clock()
        if now >= self._at:
            self._at = now + min(FORGET_S, self.remember_s / 4)
            self._forget(now)
        if now >= self._heads_at:
            self._heads_at = now + self.remember_s
            self._clients.heads.forget_old()
            self._lane.forget_heads()

    def _forget(self, now: float) -> None:
        lane, keep_s = self._lane, self.remember_s
        registry, dispatch, access, metrics = lane.registry, lane.dispatch, lane.access, lane.metrics
        self._forget_choices(registry, dispatch)
        self._forget_series(registry, metrics, now)
        hosts = {child.host for child in registry}
        access.resolver.sweep(hosts.union(self._hosts()), keep_s)
        access.registration_policy.forget(present(registry))
        self._board.forget()
        self._tasks.forget(keep_s)

    def _forget_choices(self, registry: Registry, dispatch: Dispatch) -> None:
        registry.forget_candidates()
        dispatch.forget_candidates()
        for forget in self._views:
            forget()

    def _forget_series(self, registry: Registry, metrics: Metrics, now: float) -> None:
        busy = self._lane.busy()
        metrics.forget(lambda *pair: pair in busy or registry.serves(*pair), now, self.remember_s)


def present(registry: Registry) -> list[str]:
    """The names for which the credentials of the children were issued, those included that left lately."""
    return [child.group or child.name for child in (*registry, *registry.departed.values())]
