"""The engines of one node: started where they have no URL, asked how they are, and ended with the node."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from hierarchy.config.model_names import renames
from hierarchy.config.models import EngineConfig, Settings
from hierarchy.engines import ADAPTERS
from hierarchy.engines.launch import engine_argv
from hierarchy.engines.prober import Prober
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.runtime import logs
from hierarchy.runtime.processes import Supervised
from hierarchy.runtime.tasks import Tasks
from hierarchy.security.access import Access
from hierarchy.security.dial_guard import GuardedTransport
from hierarchy.wire.status import NodeStatus

GRACE_S = 5.0  # for an engine that we started, to end
LOOK_S = 0.5  # between two looks at whether an engine's last request is done
STATUS_PATIENCE_S = 30.0  # FastChat's workers register before they listen; their status is asked for until it comes
log = logging.getLogger("hierarchy.node")


class Keeper:
    """Declares engines in the registry, and keeps it informed of them.

    on_down: called once when an engine that was up cannot be used any more, and why. strangers: sends what is asked of
    workers that registered by themselves; set before any does.
    """

    def __init__(
        self,
        registry: Registry,
        access: Access,
        tasks: Tasks,
        on_down: Callable[[Child, str], None],
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self.processes: list[Supervised] = []  # those that were started here
        self.strangers: httpx.AsyncHTTPTransport | None = None
        self._registry = registry
        self._access = access
        self._tasks = tasks
        self._on_down = on_down
        self._settings = settings
        self._clock = clock
        self._probers: dict[str, Prober] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}  # by the engines' own keys
        self._asking: set[str] = set()

    # -- of the configuration --------------------------------------------------------------------------------

    def start(self, engine: EngineConfig) -> None:
        """Declare an engine, start it if it has no URL, and probe it from now on."""
        if engine.url is None:
            engine = self._launch(engine)
        assert engine.url is not None
        child = self._registry.declare(engine.name, engine.url, engine.kind)
        child.renames = renames(engine.models)
        key = self._access.engine_keys.get(engine.name, "")
        if key:
            child.credential = f"authorization: Bearer {key}\r\n".encode()
        prober = self._probers[engine.name] = Prober(
            engine,
            ADAPTERS[engine.kind],
            self._client(key),
            lambda status: self._registry.report(child, status),
            lambda why: self.down(child, why),
            self._settings.probe_interval_s,
        )
        self._tasks.spawn(prober.run(), f"probe {engine.name}")

    def retire(self, name: str) -> None:
        """No new requests; a process that was started here ends when those that it has are done."""
        self._tasks.cancel(f"probe {name}")
        self._probers.pop(name, None)
        child = self._registry.remove(name)
        for process in [process for process in self.processes if process.name == name]:
            self.processes.remove(process)
            if child is not None:
                self._tasks.spawn(self._retire(process, child), f"retire {name}")

    def renew(self, settings: Settings) -> None:
        """Go on by other settings."""
        self._settings = settings
        for prober in self._probers.values():
            prober.pace(settings.probe_interval_s)

    def down(self, child: Child, why: str) -> None:
        """An engine's probe has failed."""
        known = child.down is not None
        self._registry.mark_down(child, why)
        if not known:
            self._on_down(child, why)

    async def stop(self) -> None:
        """End the processes that were started here."""
        ended = await asyncio.gather(*(process.stop(GRACE_S) for process in self.processes))
        for process, gone in zip(self.processes, ended, strict=True):
            if not gone:
                log.error("engine process %s (pid %s) could not be ended", process.name, process.pid)
        for client in self._clients.values():
            await client.aclose()

    def _launch(self, engine: EngineConfig) -> EngineConfig:
        """Start an engine that has no URL on a free port of this machine."""
        port = _free_port()
        argv = [sys.executable, "-m", "hierarchy", *engine_argv(engine, port)]
        process = Supervised(engine.name, argv, _log_line)
        self.processes.append(process)
        self._tasks.spawn(_discard(process.run()), f"engine {engine.name}")
        return engine.model_copy(update={"url": f"http://127.0.0.1:{port}"})

    async def _retire(self, process: Supervised, child: Child) -> None:
        try:
            for _ in range(round(self._settings.grace_s / LOOK_S)):
                if not child.in_flight:
                    break
                await asyncio.sleep(LOOK_S)
        finally:
            await process.stop(GRACE_S)

    def _client(self, key: str) -> httpx.AsyncClient:
        if key not in self._clients:
            headers = {"authorization": f"Bearer {key}"} if key else None
            self._clients[key] = httpx.AsyncClient(verify=self._access.tls.engine, headers=headers, trust_env=False)
        return self._clients[key]

    # -- that registered by themselves -----------------------------------------------------------------------

    def ask_status(self, child: Child) -> None:
        """Ask a FastChat worker for its status, as soon as it listens: it alone knows all its models."""
        if child.is_node or child.declared or child.name in self._asking or self.strangers is None:
            return
        self._asking.add(child.name)
        transport = GuardedTransport(self.strangers, self._access.guard, local=child.local)
        http = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)
        self._tasks.spawn(self._ask_status(child, http), f"status of {child.name}")

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
            while self._registry.children.get(child.name) is child and self._clock() < deadline:
                if await prober.probe_once() is not None:
                    return
                await asyncio.sleep(prober.delay_s())
        finally:
            self._asking.discard(child.name)

    def _take_status(self, child: Child, status: NodeStatus) -> None:
        if self._registry.children.get(child.name) is child:
            self._registry.report(child, status)

    def __repr__(self) -> str:
        return f"<Keeper {', '.join(self._probers)}>"


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
