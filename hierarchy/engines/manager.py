"""The engines of one node: started if they have no URL, probed, and stopped with the node."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable

import httpx

from hierarchy.config.model_names import renames
from hierarchy.config.models import EngineConfig, Settings
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.prober import Prober
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.runtime import logs
from hierarchy.runtime.processes import SupervisedProcess
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.wire.status import NodeStatus

STOP_GRACE_S = 5.0  # between SIGTERM and SIGKILL of an engine process
IDLE_CHECK_S = 0.5  # between two checks whether the last request of a retired engine has ended
WORKER_STATUS_INTERVAL_S = 2.0  # the longest wait between two requests for a FastChat worker's status
# FastChat's workers register before they listen, so their status is requested again for this long.
WORKER_STATUS_TIMEOUT_S = 30.0
log = logging.getLogger("hierarchy.node")

#: returns the client for requests to the URLs that children registered; None before the node has started. The argument:
#: whether the child registered from this machine
ChildClient = Callable[[bool], httpx.AsyncClient | None]


class EngineManager:
    """Declares the engines of a node in its registry and keeps their status there up to date.

    Attributes:
        processes: the engine processes that it started.
    """

    def __init__(
        self,
        registry: Registry,
        access: Access,
        tasks: BackgroundTasks,
        on_down: Callable[[Child, str], None],
        settings: Settings,
        clock: Callable[[], float],
        child_client: ChildClient,
    ) -> None:
        """
        Args:
            on_down: called with the child and the reason when the probe of an engine that was up fails.
            clock: monotonic seconds.
            child_client: see `ChildClient`; for FastChat workers, which register by themselves.
        """
        self.processes: list[SupervisedProcess] = []
        self._registry = registry
        self._access = access
        self._tasks = tasks
        self._on_down = on_down
        self._settings = settings
        self._clock = clock
        self._child_client = child_client
        self._probers: dict[str, Prober] = {}  # by engine name
        self._clients: dict[str, httpx.AsyncClient] = {}  # by the engine's own API key
        self._awaiting_status: set[str] = set()  # names of the workers whose status is being requested

    # -- engines of the configuration ------------------------------------------------------------------------

    def start(self, engine: EngineConfig) -> None:
        """Declare an engine, start its process if it has no URL, and probe it from now on."""
        url = self._start_process(engine) if engine.url is None else engine.url
        child = self._registry.declare(engine.name, url, engine.kind)
        child.renames = renames(engine.models)
        key = self._access.engine_keys.get(engine.name, "")
        if key:
            child.credential = f"authorization: Bearer {key}\r\n".encode()
        prober = self._probers[engine.name] = Prober(
            engine.model_copy(update={"url": url}),
            ADAPTERS[engine.kind],
            self._client(key),
            lambda status: self._registry.report(child, status),
            lambda reason: self.mark_down(child, reason),
            self._settings.probe_interval_s,
        )
        self._tasks.spawn(prober.run(), f"probe {engine.name}")

    def retire(self, name: str) -> None:
        """Send no new requests to an engine. If its process was started here, it ends after the running requests."""
        self._tasks.cancel(f"probe {name}")
        self._probers.pop(name, None)
        child = self._registry.remove(name)
        started_here = [process for process in self.processes if process.name == name]
        for process in started_here:
            self.processes.remove(process)
            if child is not None:
                self._tasks.spawn(self._stop_when_idle(process, child), f"retire {name}")

    def apply_settings(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings
        for prober in self._probers.values():
            prober.set_interval(settings.probe_interval_s)

    def mark_down(self, child: Child, reason: str) -> None:
        """Record that an engine's probe failed; `on_down` is called only if the engine was up before."""
        was_down = child.down is not None
        self._registry.mark_down(child, reason)
        if not was_down:
            self._on_down(child, reason)

    async def stop(self) -> None:
        """Stop the processes that were started here."""
        stopped = await asyncio.gather(*(process.stop(STOP_GRACE_S) for process in self.processes))
        for process, has_ended in zip(self.processes, stopped, strict=True):
            if not has_ended:
                log.error("engine process %s (pid %s) could not be stopped", process.name, process.pid)
        for client in self._clients.values():
            await client.aclose()

    def _start_process(self, engine: EngineConfig) -> str:
        """Start an engine on a free port of this machine. Returns its URL."""
        port = _free_port()
        command = [sys.executable, "-m", "hierarchy", *engine_arguments(engine, port)]
        process = SupervisedProcess(engine.name, command, _log_line)
        self.processes.append(process)
        self._tasks.spawn(process.run(), f"engine {engine.name}")
        return f"http://127.0.0.1:{port}"

    async def _stop_when_idle(self, process: SupervisedProcess, child: Child) -> None:
        try:
            for _ in range(round(self._settings.grace_s / IDLE_CHECK_S)):
                if not child.in_flight:
                    break
                await asyncio.sleep(IDLE_CHECK_S)
        finally:
            await process.stop(STOP_GRACE_S)

    def _client(self, key: str) -> httpx.AsyncClient:
        if key not in self._clients:
            headers = {"authorization": f"Bearer {key}"} if key else None
            self._clients[key] = httpx.AsyncClient(verify=self._access.tls.engine, headers=headers, trust_env=False)
        return self._clients[key]

    # -- FastChat workers, which register by themselves -------------------------------------------------------

    def request_status(self, child: Child) -> None:
        """Request a FastChat worker's status in the background: its registration may not list all its models."""
        if child.is_node or child.declared or child.name in self._awaiting_status:
            return
        http = self._child_client(child.local)
        if http is None:
            return
        self._awaiting_status.add(child.name)
        self._tasks.spawn(self._read_status(child, http), f"status of {child.name}")

    async def _read_status(self, child: Child, http: httpx.AsyncClient) -> None:
        engine = EngineConfig.model_construct(name=child.name, kind="fastchat", url=child.url, speed=1.0)
        prober = Prober(
            engine,
            ADAPTERS["fastchat"],
            http,
            lambda status: self._report_worker(child, status),
            lambda reason: None,  # it keeps the models of its registration; heartbeats show whether it lives
            WORKER_STATUS_INTERVAL_S,
        )
        deadline = self._clock() + WORKER_STATUS_TIMEOUT_S
        try:
            while self._registry.children.get(child.name) is child and self._clock() < deadline:
                if await prober.probe_once() is not None:
                    return
                await asyncio.sleep(prober.delay_s())
        finally:
            self._awaiting_status.discard(child.name)

    def _report_worker(self, child: Child, status: NodeStatus) -> None:
        if self._registry.children.get(child.name) is child:
            self._registry.report(child, status)

    def __repr__(self) -> str:
        return f"<EngineManager {', '.join(self._probers)}>"


def engine_arguments(engine: EngineConfig, port: int) -> list[str]:
    """Arguments of the `hierarchy` command that starts an engine (`kind: local` or `simulated`, without a URL).

    The engine ends when this process does, even after `kill -9`.
    """
    arguments = ["engine", engine.kind, "--port", str(port), "--exit-with-parent", "--name", engine.name]
    if engine.model is not None:
        arguments += ["--model", engine.model]
    if engine.kind == "simulated":
        rates = engine.simulated
        arguments += ["--prefill-tokens-per-s", str(rates.prefill_tokens_per_s)]
        arguments += ["--decode-tokens-per-s", str(rates.decode_tokens_per_s)]
        arguments += ["--slots", str(rates.slots), "--speed", str(engine.speed)]
    return arguments


def _log_line(name: str, line: str) -> None:
    """Log a line of the engine process `name` as one of this node's."""
    level, message = logs.parse(line, name)
    log.log(level, "%s: %s", name, message)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
