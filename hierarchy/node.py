"""One node, put together: start → run → stop. Nothing else in the package builds these objects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from importlib.metadata import version
from random import Random
from typing import Any

import httpx

from hierarchy import logs
from hierarchy.child import Child
from hierarchy.config import EngineConfig, NodeConfig
from hierarchy.dispatch import Dispatch
from hierarchy.engines import ADAPTERS
from hierarchy.engines.launch import engine_argv
from hierarchy.health import Prober
from hierarchy.metrics import Metrics, Sample
from hierarchy.processes import Supervised
from hierarchy.registry import Registry
from hierarchy.relay.lane import SWEEP_S, Lane
from hierarchy.status import NodeStatus
from hierarchy.uplink import Uplink
from hierarchy.view import View
from hierarchy.wire import Identity

WARM_S = 8.0  # for the children to find a replica that just started; more than their longest wait
TOLD_S = 1.0  # for the parents to hear that nothing new shall come
ENGINE_GRACE_S = 5.0  # for an engine that we started, to end
STATUS_PATIENCE_S = 30.0  # FastChat's workers register before they listen; their status is asked for until it comes
log = logging.getLogger("hierarchy.node")


class Node:
    """A running controller. `start` once it listens, `leave` before it stops listening, `stop` at the end.

    clock: monotonic seconds. connections: the server's open connections, whose deadlines the node looks after.
    """

    def __init__(
        self, config: NodeConfig, *, clock: Callable[[], float] = time.monotonic, rng: Random | None = None
    ) -> None:
        settings = config.settings
        rng = rng or Random()
        self.config = config
        self.settings = settings
        self.identity = Identity(
            config.replica_of or config.name,
            config.advertise,
            secrets.token_hex(8),
            version("hierarchy"),
            replica=config.replica_of is not None,
        )
        self.registry = Registry(self.identity, clock, settings.max_speed)
        self.dispatch = Dispatch(self.registry, settings.dispatch, rng)
        self.metrics = Metrics(self.gauges)
        self.view = View(self.registry, clock, int(time.time()))
        self.lane = Lane(self.registry, self.dispatch, self.metrics, settings, self._believes, clock)
        self.connections: set[Any] = set()
        self.uplinks: list[Uplink] = []
        self._clock = clock
        self._rng = rng
        self._http: httpx.AsyncClient | None = None
        self.engines: list[Supervised] = []  # the processes that this node started itself
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: set[str] = set()
        self._probers: dict[str, Prober] = {}
        self.draining = False  # nothing new is taken, running streams finish

    @property
    def ready(self) -> bool:
        """Is there a model that can be asked for?"""
        return bool(self.registry.model_names())

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start engines, probes, uplinks. Must be called when the node already listens: parents dial back at once."""
        # trust_env: a proxy from the environment is for the internet, not for the machines of one's own tree.
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        if self.identity.replica:  # others served until now, and clients come here at once
            self.lane.warm_until = self._clock() + WARM_S
        for engine in self.config.engines:
            self._start_engine(engine)
        for parent in self.config.parents:
            self._start_uplink(parent, self._http)
        self._spawn(self._sweep_for_ever(), "sweep")

    def apply(self, config: NodeConfig) -> list[str]:
        """Go on by another configuration of the same name and addresses; running streams notice nothing.

        Returns what changed, in words.
        """
        done = []
        old, self.config = (
            self.config,
            config.model_copy(update={"listen": self.config.listen, "advertise": self.config.advertise}),
        )
        if config.settings != old.settings:
            self._renew_settings(config)
            done.append("settings")
        before, after = ({engine.name: engine for engine in one.engines} for one in (old, config))
        for name in before:
            if before[name] != after.get(name):
                self._stop_engine(name)
                done.append(f"engine {name} {'changed' if name in after else 'removed'}")
        for name, engine in after.items():
            if engine != before.get(name):
                self._start_engine(engine)
                if name not in before:
                    done.append(f"engine {name} added")
        assert self._http is not None
        for parent in old.parents:
            if parent not in config.parents:
                self._stop_uplink(parent)
                done.append(f"parent {parent} removed")
        for parent in config.parents:
            if parent not in old.parents:
                self._start_uplink(parent, self._http)
                done.append(f"parent {parent} added")
        return done

    def _renew_settings(self, config: NodeConfig) -> None:
        settings = self.settings = config.settings
        self.dispatch.follow(settings.dispatch)
        self.registry.max_speed = settings.max_speed
        self.lane.renew(settings)
        for prober in self._probers.values():
            prober.pace(settings.probe_interval_s)
        for uplink in self.uplinks:
            uplink.pace(settings.report_interval_s)

    def _start_uplink(self, parent: str, http: httpx.AsyncClient) -> None:
        uplink = Uplink(
            parent,
            self.identity,
            _Source(self),
            http,
            self.settings.report_interval_s,
            clock=self._clock,
            rng=self._rng,
        )
        self.uplinks.append(uplink)
        self._spawn(uplink.run(), f"uplink to {parent}")

    def _stop_uplink(self, parent: str) -> None:
        self._cancel(f"uplink to {parent}")
        for uplink in [uplink for uplink in self.uplinks if uplink.parent == parent]:
            self._spawn(self._part(uplink), f"farewell to {parent}")

    async def _part(self, uplink: Uplink) -> None:
        """Its requests that still run are believed until they have ended."""
        await uplink.farewell()
        await asyncio.sleep(self.settings.grace_s)
        self.uplinks.remove(uplink)

    async def leave(self) -> None:
        """Tell the parents that no new request shall come; returns when they know, or cannot be told.

        The uplinks go on, so that running streams do not look like those of a node that fell silent.
        """
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(uplink.until_told() for uplink in self.uplinks)), TOLD_S)
        self.lane.drain()

    async def stop(self) -> None:
        """End everything that `start` began."""
        for task in [task for task in self._tasks if task.get_name().startswith("uplink")]:
            task.cancel()
        await asyncio.gather(*(uplink.farewell() for uplink in self.uplinks))
        for task in self._tasks:
            if not task.get_name().startswith("engine "):  # those end in good order, by `stop`
                task.cancel()
        self.lane.close()
        ended = await asyncio.gather(*(engine.stop(ENGINE_GRACE_S) for engine in self.engines))
        for engine, gone in zip(self.engines, ended, strict=True):
            if not gone:
                log.error("engine process %s (pid %s) could not be ended", engine.name, engine.pid)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()

    # -- engines ---------------------------------------------------------------------------------------------

    def _launch(self, engine: EngineConfig) -> EngineConfig:
        """Start an engine that has no URL on a free port of this machine."""
        port = _free_port()
        argv = [sys.executable, "-m", "hierarchy", *engine_argv(engine, port)]
        process = Supervised(engine.name, argv, _log_line)
        self.engines.append(process)
        self._spawn(_discard(process.run()), f"engine {engine.name}")
        return engine.model_copy(update={"url": f"http://127.0.0.1:{port}"})

    def _start_engine(self, engine: EngineConfig) -> None:
        if engine.url is None:
            engine = self._launch(engine)
        assert engine.url is not None
        assert self._http is not None
        child = self.registry.declare(engine.name, engine.url, engine.kind)
        prober = self._probers[engine.name] = Prober(
            engine,
            ADAPTERS[engine.kind],
            self._http,
            lambda status: self.registry.report(child, status),
            lambda why: self._engine_down(child, why),
            self.settings.probe_interval_s,
        )
        self._spawn(prober.run(), f"probe {engine.name}")

    def _stop_engine(self, name: str) -> None:
        """No new requests; a process that we started ends when those that it has are done."""
        self._cancel(f"probe {name}")
        self._probers.pop(name, None)
        child = self.registry.remove(name)
        for process in [process for process in self.engines if process.name == name]:
            self.engines.remove(process)
            if child is not None:
                self._spawn(self._retire(process, child), f"retire {name}")

    async def _retire(self, process: Supervised, child: Child) -> None:
        try:
            for _ in range(round(self.settings.grace_s / SWEEP_S)):
                if not child.in_flight:
                    break
                await asyncio.sleep(SWEEP_S)
        finally:
            await process.stop(ENGINE_GRACE_S)

    def _cancel(self, name: str) -> None:
        for task in self._tasks:
            if task.get_name() == name:
                task.cancel()

    def _engine_down(self, child: Child, why: str) -> None:
        """Its connections may still be open, as those of a process that hangs are."""
        known = child.down is not None
        self.registry.mark_down(child, why)
        if not known:
            self.lane.rescue(child, self.connections, why)

    def ask_status(self, child: Child) -> None:
        """Ask a FastChat worker for its status, as soon as it listens: it alone knows all its models."""
        if child.is_node or child.declared or child.name in self._asking or self._http is None:
            return
        self._asking.add(child.name)
        self._spawn(self._ask_status(child, self._http), f"status of {child.name}")

    async def _ask_status(self, child: Child, http: httpx.AsyncClient) -> None:
        engine = EngineConfig.model_construct(name=child.name, kind="fastchat", url=child.url, speed=1.0)
        prober = Prober(
            engine,
            ADAPTERS["fastchat"],
            http,
            lambda status: self._take_status(child, status),
            lambda why: None,  # it is listed with what it registered; its beats say whether it lives
            interval_s=2.0,
        )
        deadline = self._clock() + STATUS_PATIENCE_S
        try:
            while self.registry.children.get(child.name) is child and self._clock() < deadline:
                if await prober.probe_once() is not None:
                    return
                await asyncio.sleep(prober.delay_s())
        finally:
            self._asking.discard(child.name)

    def _take_status(self, child: Child, status: NodeStatus) -> None:
        if self.registry.children.get(child.name) is child:
            self.registry.report(child, status)

    # -- background ------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical(
                "%s ended by a defect; this node is no longer whole", task.get_name(), exc_info=task.exception()
            )

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for child in self.registry.sweep():
                log.warning("dropped %s: nothing heard of it", child.name)
            for child in self.registry.newly_silent():
                self.lane.rescue(child, self.connections, "it is silent")
            self.lane.sweep(self.connections)

    def _believes(self, secret: bytes, seq: int) -> bool:
        return any(uplink.believes(secret, seq) for uplink in self.uplinks)

    def gauges(self) -> Iterable[Sample]:
        """What `/metrics` shows beside the counters."""
        now = self._clock()
        for child in self.registry:
            status, name = child.current(), (child.name,)
            state = child.state(now)
            yield "hierarchy_child_up", (child.name, child.kind, state), float(state == "up")
            yield "hierarchy_child_speed", name, status.speed
            yield "hierarchy_child_queue_length", name, float(status.queue_length)
            yield "hierarchy_requests_in_flight", name, float(child.in_flight)
        for uplink in self.uplinks:
            yield "hierarchy_uplink_up", (uplink.parent,), float(uplink.registered)
        yield "hierarchy_connections", (), float(len(self.connections))

    def __repr__(self) -> str:
        return f"<Node {self.identity.name} children={len(self.registry)} uplinks={self.uplinks}>"


class _Source:
    """What an uplink tells of: this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.path = node.registry.path
        self.children = node.view.children

    def status(self) -> NodeStatus:
        status = self._node.registry.status()
        # With its queue, which those who count it until it is gone want to know.
        return NodeStatus((), 0.0, status.queue_length) if self._node.draining else status

    def draining(self) -> bool:
        return self._node.draining


def _log_line(name: str, line: str) -> None:
    """What an engine that we started logged, as a line of our own."""
    level, message = logs.parse(line, name)
    log.log(level, "%s: %s", name, message)


async def _discard(work: Coroutine[Any, Any, int | None]) -> None:
    await work


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
