"""Waking up engines: once for all requests, in time, and not again at once after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest

from hierarchy.config.models import EngineConfig
from hierarchy.engines import waking as module
from hierarchy.engines.adapters.reading import EngineResponse
from hierarchy.engines.waking import FIRST_REST_S, MOST_REST_S, TOO_MANY, Sleeper, Waking, at_rest, declared_status
from hierarchy.errors import EngineUnreadable, Unavailable
from hierarchy.registry.child import Child
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.wire.status import NodeStatus
from tests.builders import OPENAI, Table, model, site
from tests.support import eventually_async


class Client:
    """Sends a request to an engine, which the test plays."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def ask(self, method: str, path: str) -> EngineResponse:
        self._bench.asked.append((method, path))
        if self._bench.error is not None:
            raise self._bench.error
        return EngineResponse("http://gpu:1" + path, self._bench.status, b"")

    def close(self) -> None:
        self._bench.closed += 1


class Process:
    """The process of a command, which the test ends."""

    def __init__(self) -> None:
        self.ends: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.stopped = False

    async def run(self) -> int | None:
        return await self.ends

    async def stop(self, grace_s: float) -> bool:
        self.stopped = True
        self.ends.set_result(None)
        return True


class Bench:
    """A registry with an engine that sleeps. `looks` is called at each look whether it is awake."""

    def __init__(self, *, command: bool = False) -> None:
        self.table = Table()
        self.tasks = BackgroundTasks(self.table.clock)
        self.child = self.table.declare("gpu", "http://gpu:1", "vllm")
        self.status, self.error = int(HTTPStatus.OK), None  # type: int, Exception | None
        self.asked: list[tuple[str, str]] = []
        self.closed = self.probes = 0
        self.awake_after = 3  # looks
        self.processes: list[Process] = []
        self.waking = Waking(self.table, self.probe, self.tasks.spawn, lambda: 60.0, self.table.clock, self.sleep)
        make_process: Any = self.make_process if command else None
        self.sleeper = Sleeper(self.child, lambda: Client(self), make_process)  # type: ignore[arg-type, return-value]
        self.waking.add(self.sleeper)
        self.report(asleep=True)

    def report(self, *, asleep: bool) -> None:
        rows = (model(load_s=10.0 if asleep else 0.0),)
        self.table.report(self.child, NodeStatus(rows, 1.0, asleep=asleep, wakes=asleep))

    def make_process(self) -> Process:
        self.processes.append(Process())
        return self.processes[-1]

    def probe(self, child: Child) -> None:
        self.probes += 1

    async def sleep(self, seconds: float) -> None:
        self.table.clock.tick(seconds)
        await asyncio.sleep(0)
        if self.probes >= self.awake_after:
            self.report(asleep=False)

    def available(self) -> set[str]:
        return self.table.available_names()


def on_bench(**options: Any) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[], None]]:
    def decorate(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
        def run() -> None:
            async def work() -> None:
                bench = Bench(**options)
                await test(bench)
                bench.tasks.cancel_all()
                await asyncio.gather(*bench.tasks, return_exceptions=True)

            asyncio.run(work())

        run.__name__ = test.__name__
        return run

    return decorate


@on_bench()
async def test_many_requests_wake_an_engine_up_once(bench: Bench) -> None:
    assert bench.available() == {"gpu"}
    results = await asyncio.gather(*(bench.waking.wake(bench.child) for _ in range(50)))
    assert set(results) == {""}
    assert bench.asked == [("POST", "/wake_up")]
    assert (bench.closed, bench.probes, bench.waking.waiting) == (1, 3, 0)
    assert bench.waking.outcomes == {("gpu", "ok"): 1}
    assert bench.child.state(bench.table.clock()) == "up"


@on_bench()
async def test_a_request_that_leaves_does_not_stop_the_wake(bench: Bench) -> None:
    first = asyncio.ensure_future(bench.waking.wake(bench.child))
    second = asyncio.ensure_future(bench.waking.wake(bench.child))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ""
    assert bench.waking.waiting == 0


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (500, None, "could not be woken up: POST /wake_up answered 500"),
        (404, None, "could not be woken up: POST /wake_up answered 404"),
        (200, ConnectionRefusedError(111, "refused"), "could not be woken up: Connection refused"),
        (
            200,
            EngineUnreadable("http://gpu:1/wake_up: not HTTP"),
            "could not be woken up: http://gpu:1/wake_up: not HTTP",
        ),
    ],
)
def test_a_wake_that_fails_is_told_once_and_backed_off(
    status: int, error: Exception | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(bench: Bench) -> None:
        bench.status, bench.error = status, error
        assert await asyncio.gather(*(bench.waking.wake(bench.child) for _ in range(5))) == [reason] * 5
        assert len(bench.asked) == 1
        assert bench.available() == set()
        assert bench.child.state(bench.table.clock()) == "asleep"
        assert bench.child.detail(bench.table.clock()) == reason
        assert await bench.waking.wake(bench.child) == reason
        assert len(bench.asked) == 1
        for rest_s in (FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S):
            bench.table.clock.tick(rest_s - 0.1)
            bench.table.sweep()
            assert bench.available() == set()
            bench.table.clock.tick(0.2)
            bench.table.sweep()
            assert bench.available() == {"gpu"}
            assert await bench.waking.wake(bench.child) == reason
        assert bench.waking.outcomes == {("gpu", "failed"): 4}
        bench.status, bench.error = 200, None
        bench.table.clock.tick(MOST_REST_S)
        bench.table.sweep()
        assert await bench.waking.wake(bench.child) == ""
        assert bench.sleeper.failures == 0

    on_bench()(work)()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[0] == f"engine gpu {reason}; no request wakes it up in the next 5 s"
    assert len(warnings) == 4


@on_bench()
async def test_the_error_of_a_request_names_the_engine_and_when_it_may_come_back(bench: Bench) -> None:
    bench.table.wake_failed(bench.child, "could not be woken up: no", 7.0)
    absence = bench.table.absence(OPENAI)
    assert absence is not None
    now = bench.table.clock()
    assert absence.why == "is not loaded, and gpu could not be woken up: no"
    assert (absence.retry_after_s(now), absence.patience_s(now)) == (7, 0.0)


def test_a_wake_that_takes_too_long_fails() -> None:
    async def work(bench: Bench) -> None:
        bench.awake_after = 10**9
        bench.waking._limit_s = lambda: 0.05
        bench.waking._sleep = lambda seconds: asyncio.sleep(0.01)
        assert await bench.waking.wake(bench.child) == "was not awake within 0.05 s"

    on_bench()(work)()


@on_bench(command=True)
async def test_a_command_is_run_once_and_awaited(bench: Bench) -> None:
    assert bench.waking.rests(bench.child)
    results = await asyncio.gather(*(bench.waking.wake(bench.child) for _ in range(20)))
    assert set(results) == {""}
    assert (len(bench.processes), bench.asked) == (1, [])
    bench.waking.answered(bench.child, asleep=False)
    assert not bench.waking.rests(bench.child)  # it runs, so it should listen
    bench.processes[0].ends.set_result(3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.waking.rests(bench.child)


@on_bench(command=True)
async def test_a_command_that_ends_before_the_engine_is_up_has_failed(bench: Bench) -> None:
    bench.awake_after = 10**9
    assert bench.waking.rests(bench.child)
    result = asyncio.ensure_future(bench.waking.wake(bench.child))
    await eventually_async(lambda: bench.processes)
    assert bench.waking.rests(bench.child)  # it has only just been started
    bench.processes[0].ends.set_result(127)
    assert await result == "could not be started: its command ended with status 127"
    assert bench.sleeper.process is None


def test_a_command_that_never_listens_is_stopped() -> None:
    async def work(bench: Bench) -> None:
        bench.awake_after = 10**9
        bench.waking._limit_s = lambda: 0.05
        bench.waking._sleep = lambda seconds: asyncio.sleep(0.01)
        assert bench.waking.rests(bench.child)
        assert "was not awake" in await bench.waking.wake(bench.child)
        await eventually_async(lambda: bench.processes[0].stopped and bench.sleeper.process is None)

    on_bench(command=True)(work)()


@on_bench(command=True)
async def test_an_engine_that_sleeps_and_runs_is_woken_up_and_not_started(bench: Bench) -> None:
    bench.waking.answered(bench.child, asleep=True)
    assert await bench.waking.wake(bench.child) == ""
    assert (bench.processes, bench.asked) == ([], [("POST", "/wake_up")])


@on_bench()
async def test_requests_that_an_engine_had_when_it_fell_asleep_wake_it_up(bench: Bench) -> None:
    bench.waking.answered(bench.child, asleep=True)
    await asyncio.sleep(0)
    assert bench.asked == []
    lease = bench.child.lease(bench.child.shares[OPENAI])
    bench.waking.answered(bench.child, asleep=True)
    assert bench.sleeper.waking is not None
    await bench.sleeper.waking
    assert bench.asked == [("POST", "/wake_up")]
    lease.release()


def test_only_so_many_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def work(bench: Bench) -> None:
        results = await asyncio.gather(*(bench.waking.wake(bench.child) for _ in range(5)))
        assert sorted(results) == ["", "", "", TOO_MANY, TOO_MANY]

    on_bench()(work)()


@on_bench()
async def test_only_engines_of_the_configuration_can_be_woken_up(bench: Bench) -> None:
    node = bench.table.add(site("a", model("n")))
    bench.table.set_asleep(node, True, wakes=True)
    assert await bench.waking.wake(node) == "sleeps, and cannot be woken up"
    assert bench.asked == []
    bench.waking.remove(bench.child)
    assert not bench.waking.can_wake(bench.child)
    assert await bench.waking.wake(bench.child) == "sleeps, and cannot be woken up"


@on_bench()
async def test_a_node_that_stops_leaves_no_request_waiting(bench: Bench) -> None:
    bench.awake_after = 10**9
    result = asyncio.ensure_future(bench.waking.wake(bench.child))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.tasks.cancel("wake gpu")
    assert await result == "is not woken up, since this node stops"


def test_what_is_known_of_an_engine_that_does_not_run() -> None:
    engine = EngineConfig(name="gpu", kind="vllm", url="http://gpu:1", models={"m": "own"}, speed=2.0, command=("x",))
    status = at_rest(declared_status(engine), 90.0)
    assert [(row.name, row.api, row.speed, row.load_s) for row in status.models] == [("m", "openai", 2.0, 90.0)]
    assert (status.asleep, status.wakes, status.speed) == (True, True, 2.0)
    assert Unavailable.status == 503
