"""Waking up the engines that requests need: each once, however many requests wait for it.

    asleep ──a request──▶ waking ──a probe finds it awake──▶ its requests are sent
       ▲                    │
       └───after a while────└─it fails, or takes too long──▶ its requests go elsewhere, or get 503

An engine sleeps if it says so (vLLM), or if nothing listens at its URL and a command of the configuration starts it.
What wakes it up comes from the node's own configuration: nothing that a child reports or registers is run or called.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import msgspec

from hierarchy.config.models import EngineConfig, declared_models
from hierarchy.engines.probe_client import ProbeClient, reason_of
from hierarchy.errors import HierarchyError
from hierarchy.registry import Registry
from hierarchy.registry.child import Child
from hierarchy.runtime import awake
from hierarchy.runtime.processes import SupervisedProcess, describe_exit
from hierarchy.wire.status import Api, ModelStatus, NodeStatus

STOP_GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL of a command that did not become an engine
LOOK_S: Final = 0.25  # between two looks whether an engine is awake, each with a probe
FIRST_REST_S: Final = 5.0  # after a failure, in which no request wakes it up; doubled after each further one
MOST_REST_S: Final = 300.0
MAX_WAITING: Final = 1024  # requests of one node: each keeps a connection open, and its body in memory
TOO_MANY: Final = "is being woken up, and too many requests wait for that"
#: API families of engines that have others than OpenAI's
APIS: Final[dict[str, tuple[Api, ...]]] = {"fastchat": ("fastchat",), "simulated": ("openai", "fastchat")}
log = logging.getLogger("hierarchy.node")


class Sleeper:
    """An engine that can be woken up. make_client: of its paths; make_process: runs its command, None without one."""

    def __init__(
        self,
        child: Child,
        make_client: Callable[[], ProbeClient],
        make_process: Callable[[], SupervisedProcess] | None,
    ) -> None:
        self.child = child
        self.make_client = make_client
        self.make_process = make_process
        self.is_at_rest = False  # nothing listens at its URL, and its command does not run
        self.process: SupervisedProcess | None = None  # of its command, while it runs
        self.ended = ""  # how its command ended last
        self.waking: asyncio.Future[str] | None = None  # the reason why it could not be woken up, or ""
        self.failures = 0  # in a row

    def __repr__(self) -> str:
        state = "waking" if self.waking is not None else "at rest" if self.is_at_rest else "running"
        return f"<Sleeper {self.child.name} {state} failures={self.failures}>"


class Waking:
    """The engines of one node that can be woken up.

    probe: lets an engine be probed at once. spawn: runs a coroutine in the background, by a name. limit_s: returns how
    long a wake may take. clock: monotonic seconds. sleep: waits for so many seconds.
    """

    def __init__(
        self,
        registry: Registry,
        probe: Callable[[Child], None],
        spawn: Callable[..., None],
        limit_s: Callable[[], float],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.waiting = 0  # requests that wait for an engine
        self.outcomes: dict[tuple[str, str], int] = {}  # wakes by engine and outcome: `ok` or `failed`
        self._registry = registry
        self._probe = probe
        self._spawn = spawn
        self._limit_s = limit_s
        self._clock = clock
        self._sleep = sleep
        self._sleepers: dict[Child, Sleeper] = {}

    def add(self, sleeper: Sleeper) -> None:
        """This engine can be woken up from now on."""
        self._sleepers[sleeper.child] = sleeper

    def remove(self, child: Child) -> None:
        """It is no longer a child."""
        self._sleepers.pop(child, None)
        for outcome in ("ok", "failed"):
            self.outcomes.pop((child.name, outcome), None)

    # -- what probes find ----------------------------------------------------------------------------------------

    def can_wake(self, child: Child) -> bool:
        """May a request wake it up, if it sleeps?"""
        return child in self._sleepers

    def rests(self, child: Child) -> bool:
        """Nothing listens at its URL: is that because its command does not run, or has only just been started?"""
        sleeper = self._sleepers.get(child)
        if sleeper is None or sleeper.make_process is None:
            return False
        sleeper.is_at_rest = sleeper.process is None
        return sleeper.is_at_rest or sleeper.waking is not None

    def answered(self, child: Child, *, asleep: bool) -> None:
        """Its process answers a probe. asleep: it says that it sleeps, and can be woken up.

        Requests that it had before it was known to sleep wait there for ever, so they wake it up, too.
        """
        sleeper = self._sleepers.get(child)
        if sleeper is None:
            return
        sleeper.is_at_rest = False
        if asleep and child.asleep and child.in_flight and sleeper.waking is None and not child.wake_failed:
            self._start(sleeper)

    # -- waking --------------------------------------------------------------------------------------------------

    async def wake(self, child: Child) -> str:
        """Wait until an engine is awake. Returns "", or why it is not, as a sentence without its subject.

        A request that does not wait any longer may cancel this: the engine is woken up all the same.
        """
        sleeper = self._sleepers.get(child)
        if sleeper is None or child.wake_failed:
            return child.wake_failed or "sleeps, and cannot be woken up"
        if self.waiting >= MAX_WAITING:
            return TOO_MANY
        self.waiting += 1
        try:
            return await asyncio.shield(sleeper.waking or self._start(sleeper))
        finally:
            self.waiting -= 1

    def _start(self, sleeper: Sleeper) -> asyncio.Future[str]:
        waking = sleeper.waking = asyncio.get_running_loop().create_future()
        self._spawn(self._wake(sleeper), f"wake {sleeper.child.name}")
        return waking

    async def _wake(self, sleeper: Sleeper) -> None:
        began, reason = self._clock(), "is not woken up, since this node stops"
        try:
            reason = await self._wake_in_time(sleeper)
            self._note(sleeper, reason, self._clock() - began)
        finally:
            waking, sleeper.waking = sleeper.waking, None
            if waking is not None:
                waking.set_result(reason)
        if reason and sleeper.process is not None:
            await sleeper.process.stop(STOP_GRACE_S)

    async def _wake_in_time(self, sleeper: Sleeper) -> str:
        limit_s = self._limit_s()
        try:
            async with awake.timeout(limit_s):
                return await self._begin(sleeper) or await self._wait(sleeper)
        except TimeoutError:
            return f"was not awake within {limit_s:g} s"

    async def _begin(self, sleeper: Sleeper) -> str:
        """Do what wakes it up. Returns the reason if that failed."""
        if sleeper.make_process is not None and sleeper.is_at_rest:
            log.info("engine %s is started, since a request needs it", sleeper.child.name)
            sleeper.ended, sleeper.process = "", sleeper.make_process()
            self._spawn(self._run(sleeper, sleeper.process), f"engine {sleeper.child.name}")
            return ""
        log.info("engine %s is woken up, since a request needs it", sleeper.child.name)
        client = sleeper.make_client()
        try:
            response = await client.ask("POST", "/wake_up")
        except OSError as error:
            return f"could not be woken up: {reason_of(error)}"
        except HierarchyError as error:
            return f"could not be woken up: {error}"
        finally:
            client.close()
        if response.status == HTTPStatus.OK:
            return ""
        return f"could not be woken up: POST /wake_up answered {response.status}"

    async def _wait(self, sleeper: Sleeper) -> str:
        """Wait until a probe finds it awake. Returns the reason if its command ends before."""
        while sleeper.child.asleep:
            if sleeper.ended:
                return sleeper.ended
            self._probe(sleeper.child)
            await self._sleep(LOOK_S)
        return ""

    async def _run(self, sleeper: Sleeper, process: SupervisedProcess) -> None:
        """Until its command has ended."""
        status = await process.run()
        how = "" if status is None else describe_exit(status)
        if sleeper.process is process:
            sleeper.process = None
            sleeper.ended = f"could not be started: its command {how}" if how else "could not be started"
        if sleeper.waking is None and how:
            log.warning(
                "engine %s is at rest, since its command %s; the next request starts it", sleeper.child.name, how
            )

    def _note(self, sleeper: Sleeper, reason: str, took_s: float) -> None:
        child = sleeper.child
        key = child.name, "failed" if reason else "ok"
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        if not reason:
            sleeper.failures = 0
            log.info("engine %s is awake after %.1f s", child.name, took_s)
            return
        rest_s = min(FIRST_REST_S * 2.0 ** min(sleeper.failures, 10), MOST_REST_S)
        sleeper.failures += 1
        self._registry.wake_failed(child, reason, rest_s)
        log.warning("engine %s %s; no request wakes it up in the next %g s", child.name, reason, rest_s)

    def __repr__(self) -> str:
        return f"<Waking {len(self._sleepers)} engines, {self.waiting} requests>"


def guarded(command: tuple[str, ...]) -> list[str]:
    """The command under a guardian, which ends it with the node."""
    return [sys.executable, "-m", "hierarchy.runtime.guardian", *command]


def declared_status(engine: EngineConfig) -> NodeStatus:
    """What the configuration says of an engine that does not run."""
    apis: tuple[Api, ...] = APIS.get(engine.kind, ("openai",))
    models = tuple(ModelStatus(name, api, float(engine.speed)) for name in declared_models(engine) for api in apis)
    return NodeStatus(models, float(engine.speed))


def at_rest(status: NodeStatus, load_s: float) -> NodeStatus:
    """The status of an engine with these models while it does not run. load_s: how long it takes to start it."""
    models = tuple(msgspec.structs.replace(model, queue_length=0, load_s=load_s) for model in status.models)
    speed = max([model.speed for model in models], default=0.0)
    return NodeStatus(models, speed, asleep=True, wakes=True)
