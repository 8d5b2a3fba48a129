"""The engines of one node: started if they have no URL, probed, and stopped with the node."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import sys
from collections.abc import Callable

import msgspec

from hierarchy.config.model_names import renames
from hierarchy.config.models import EngineConfig, Settings
from hierarchy.config.speed import MeasuredSpeed
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.pacer import Pacer
from hierarchy.engines.probe_client import ProbeClient
from hierarchy.engines.probe_sockets import ProbeSockets
from hierarchy.engines.prober import Prober
from hierarchy.engines.slots import WithSlots
from hierarchy.engines.vitals import LATE_S
from hierarchy.engines.waking import Sleeper, Waking, at_rest, declared_status, guarded
from hierarchy.errors import HierarchyError
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.runtime import awake, descriptors, logs
from hierarchy.runtime.processes import SupervisedProcess
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.security.access import Access
from hierarchy.wire.status import NodeStatus, shorter

STOP_GRACE_S = 5.0  # between SIGTERM and SIGKILL of an engine process
IDLE_CHECK_S = 0.5  # between two checks whether the last request of a retired engine has ended
WORKER_STATUS_RETRY_S = 0.5  # after the first request without a response; doubled after each further one
WORKER_STATUS_INTERVAL_S = 2.0  # the longest wait between two requests for a FastChat worker's status
WORKER_STATUS_LATE_INTERVAL_S = 10.0  # the same, where it may show which of the worker's models are gone
# FastChat's workers register before they listen, so their status is requested again for this long.
WORKER_STATUS_TIMEOUT_S = 30.0
log = logging.getLogger("hierarchy.node")


class EngineManager:
    """Declares the engines of a node in its registry and keeps their status there up to date.

    Attributes:
        registry: where its engines are declared.
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
        *,
        files: int | None = None,
    ) -> None:
        """
        Args:
            on_down: called with the child and the reason when an engine goes down that was up.
            clock: monotonic seconds.
            files: soft limit of open files of the engine processes; None: that of this process.
        """
        self.processes: list[SupervisedProcess] = []
        self.registry = registry
        self._access = access
        self._tasks = tasks
        self._on_down = on_down
        self._settings = settings
        self._clock = clock
        self._files = files
        self._pacer = Pacer(clock)
        self._sockets = ProbeSockets(descriptors.limit())
        self._probers: dict[str, Prober] = {}  # by engine name
        self.waking = Waking(registry, self.probe_soon, tasks.spawn, lambda: self._settings.first_byte_timeout_s, clock)
        self._declared: dict[str, NodeStatus] = {}  # what the configuration says of engines that a command starts
        self._awaiting_status: set[Child] = set()  # the workers whose status is being requested

    # -- engines of the configuration ------------------------------------------------------------------------

    def start(self, engine: EngineConfig) -> None:
        """Declare an engine, start its process if it has no URL, and probe it from now on."""
        url = self._start_process(engine) if engine.url is None else engine.url
        child = self.registry.declare(engine.name, url, engine.kind)
        child.renames = renames(engine.models)
        child.start_speed = float(engine.speed) if isinstance(engine.speed, MeasuredSpeed) else 0.0
        key = self._access.engine_keys.get(engine.name, "")
        child.credential = self._credential(engine.name)
        child.usual_load_s = engine.load_s
        if engine.wake:
            self._let_wake(child, engine, functools.partial(self._make_client, child, url, key))
        prober = self._probers[engine.name] = Prober(
            engine.model_copy(update={"url": url}),
            WithSlots(ADAPTERS[engine.kind], engine.slots or 0, self._clock),
            functools.partial(self._make_client, child, url, key),
            _ProbedChild(child, self),
            self._settings.probe_interval_s,
            self._pacer,
            self._clock,
        )
        self._tasks.keep(prober.run, f"probe {engine.name}")

    def _let_wake(self, child: Child, engine: EngineConfig, make_client: Callable[[], ProbeClient]) -> None:
        """Requests may wake the engine up. If a command starts it, it sleeps until it is found to run."""
        make_process = None
        if engine.command is not None:
            make_process = functools.partial(self._make_process, engine.name, engine.command)
            self._declared[engine.name] = declared_status(engine)
        self.waking.add(Sleeper(child, make_client, make_process))

    def _make_process(self, name: str, command: tuple[str, ...]) -> SupervisedProcess:
        """The process of an engine's command, not started yet. The former one has ended."""
        secrets = self._access.secret_variables
        process = SupervisedProcess(
            name, guarded(command), _log_line, without=secrets, files=self._files, fatal=frozenset(), once=True
        )
        self.processes = [*(one for one in self.processes if one.name != name), process]
        return process

    def rest(self, child: Child, reason: str) -> bool:
        """Nothing listens at an engine's URL. Returns whether that is as it should be: a request starts its command."""
        if self.registry.children.get(child.name) is not child or not self.waking.rests(child):
            return False
        if child.asleep and child.down is None:
            return True
        if child.down is None and child.last_seen is not None:
            self.mark_down(child, reason)  # its requests go elsewhere
        known = child.status if child.status.models else self._declared[child.name]
        self.registry.report(child, at_rest(known, child.usual_load_s))
        return True

    def has_new_key(self, name: str) -> bool:
        """Is the engine's API key another one than when it was declared?"""
        child = self.registry.children.get(name)
        return child is not None and child.declared and child.credential != self._credential(name)

    def _credential(self, name: str) -> bytes:
        """The header line with the engine's API key; b"" without one."""
        key = self._access.engine_keys.get(name, "")
        return f"authorization: Bearer {key}\r\n".encode() if key else b""

    def retire(self, name: str) -> None:
        """Send no new requests to an engine. If its process was started here, it ends after the running requests."""
        self._tasks.cancel(f"probe {name}")
        self._probers.pop(name, None)
        self._declared.pop(name, None)
        child = self.registry.remove(name)
        if child is not None:
            self.waking.remove(child)
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
        """Record that an engine cannot be used; `on_down` is called only if it could be before."""
        was_down = child.down is not None
        self.registry.mark_down(child, reason)
        if not was_down:
            self._on_down(child, reason)

    def mark_down_by_kernel(self, child: Child, reason: str) -> bool:
        """The connections for requests show that an engine's machine is gone. False: the child is not probed here."""
        prober = self._probers.get(child.name)
        if prober is None or self.registry.children.get(child.name) is not child:
            return False
        prober.mark_down(reason)
        return True

    def probe_soon(self, child: Child) -> None:
        """Requests show that something is wrong with the child: probe it at once, if it is an engine from here."""
        prober = self._probers.get(child.name)
        if prober is not None and self.registry.children.get(child.name) is child:
            prober.wake()

    async def stop(self) -> None:
        """Stop the processes that were started here."""
        stopped = await asyncio.gather(*(process.stop(STOP_GRACE_S) for process in self.processes))
        for process, has_ended in zip(self.processes, stopped, strict=True):
            if not has_ended:
                log.error("engine process %s (pid %s) could not be stopped", process.name, process.pid)

    def _start_process(self, engine: EngineConfig) -> str:
        """Start an engine on a free port of this machine. Returns its URL."""
        port = _free_port()
        command = [sys.executable, "-m", "hierarchy", *engine_arguments(engine, port)]
        secrets = self._access.secret_variables
        process = SupervisedProcess(engine.name, command, _log_line, without=secrets, files=self._files)
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

    def _make_client(self, child: Child, url: str, key: str) -> ProbeClient:
        tls = self._access.tls.engine if url.startswith("https:") else None
        return ProbeClient(
            url, self._clock, self._access.resolver, tls=tls, key=key, sockets=self._sockets,
            on_round_trip=child.round_trip.note,
        )  # fmt: skip

    # -- FastChat workers, which register by themselves -------------------------------------------------------

    def request_status(self, child: Child) -> None:
        """Request a FastChat worker's status in the background: its registration may not list all its models."""
        if child.is_node or child.declared or child in self._awaiting_status:
            return
        self._awaiting_status.add(child)
        self._tasks.spawn(self._read_status(child), f"status of {child.name}")

    async def _read_status(self, child: Child) -> None:
        """Read it until it is there. Otherwise the worker keeps the models of its registration.

        Heartbeats show whether it lives. Longer than usual where some of its models may be those of a former process.
        """
        http = self._worker_client(child)
        deadline = self._clock() + WORKER_STATUS_TIMEOUT_S
        wait_s = WORKER_STATUS_RETRY_S
        try:
            while self.registry.children.get(child.name) is child:
                if await self._read_status_once(child, http):
                    return
                if self._clock() >= deadline:
                    if not child.unconfirmed:
                        return
                    wait_s = WORKER_STATUS_LATE_INTERVAL_S
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, WORKER_STATUS_INTERVAL_S)
        finally:
            http.close()
            self._awaiting_status.discard(child)

    async def _read_status_once(self, child: Child, http: ProbeClient) -> bool:
        """Returns whether there was a response of the process that registered last."""
        process = child.process_number
        with contextlib.suppress(HierarchyError, OSError):
            async with awake.timeout(LATE_S):
                status = await ADAPTERS["fastchat"].read(http, 1.0)
            if child.process_number == process:
                self._report_worker(child, status)
                return True
        return False

    def _worker_client(self, child: Child) -> ProbeClient:
        access = self._access
        tls = access.tls.node if child.tls else None
        guard = access.dial_guard  # a worker chooses its URL itself
        return ProbeClient(
            child.url, self._clock, access.resolver, tls=tls, guard=guard, local=child.local,
            on_round_trip=child.round_trip.note,
        )  # fmt: skip

    def _report_worker(self, child: Child, status: NodeStatus) -> None:
        if self.registry.children.get(child.name) is child:
            self.registry.report(child, status)

    def __repr__(self) -> str:
        return f"<EngineManager {', '.join(self._probers)}>"


class _ProbedChild:
    """An engine as its prober sees it."""

    def __init__(self, child: Child, manager: EngineManager) -> None:
        self._child = child
        self._manager = manager

    def report(self, status: NodeStatus, ended: int) -> None:
        # What it counts beyond the requests that it has now are those that ended meanwhile, before any of strangers:
        # else an idle engine looks busy until the next probe, and a conversation leaves it for one that knows nothing.
        surplus = status.queue_length - self._child.in_flight
        waking = self._manager.waking
        if status.wakes and not waking.can_wake(self._child):
            status = msgspec.structs.replace(status, wakes=False)
        waking.answered(self._child, asleep=status.wakes)
        self._manager.registry.report(self._child, shorter(status, max(0, min(surplus, ended))))

    def rests(self, reason: str) -> bool:
        return self._manager.rest(self._child, reason)

    def suspect(self, reason: str) -> None:
        self._manager.registry.suspect(self._child, reason)

    def trust(self) -> None:
        self._manager.registry.trust(self._child)

    def mark_down(self, reason: str) -> None:
        self._manager.mark_down(self._child, reason)

    @property
    def signs(self) -> int:
        return self._child.received

    @property
    def requests(self) -> int:
        return self._child.in_flight

    @property
    def ended(self) -> int:
        return self._child.sent - self._child.in_flight


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
        arguments += ["--cache-tokens", str(rates.cache_tokens)] if rates.cache_tokens else []
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
