"""The prober: what it passes to its owner and logs, and how long it waits; the test controls clock and engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import EngineConfig
from hierarchy.engines import prober
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.prober import Prober
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.errors import EngineUnreadable, InvalidField
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.support import eventually_async, free_port, running_app

URL = "http://engine:8000"
UP = NodeStatus((ModelStatus("m"),), 1.0)
MORE = NodeStatus((ModelStatus("m"), ModelStatus("n")), 1.0)
DOWN = EngineUnreadable("its metrics are odd")

NOWHERE = httpx.MockTransport(lambda request: httpx.Response(404))  # quicker to create than a real transport

Outcome = NodeStatus | BaseException


class Script:
    """An adapter that returns or raises these outcomes in turn, and then cancels the prober."""

    kind = "openai"

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes: Iterator[Outcome] = iter(outcomes)

    async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
        outcome = next(self._outcomes, asyncio.CancelledError())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Owner:
    """Runs a prober, and records what it passes on and how long it sleeps."""

    def __init__(self) -> None:
        self.statuses: list[NodeStatus] = []
        self.failures: list[str] = []
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def run(
        self,
        *outcomes: Outcome,
        interval_s: float = 2.0,
        uniform: Callable[[float, float], float] = lambda low, high: 1.0,
    ) -> Owner:
        async def run() -> None:
            async with httpx.AsyncClient(transport=NOWHERE) as http:
                engine = EngineConfig(name="a1", kind="openai", url=URL)
                await Prober(
                    engine,
                    Script(*outcomes),
                    http,
                    self.statuses.append,
                    self.failures.append,
                    interval_s,
                    sleep=self.sleep,
                    uniform=uniform,
                ).run()

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run())
        return self


def test_statuses_and_failures_are_passed_to_the_owner() -> None:
    owner = Owner().run(UP, DOWN, MORE)
    assert owner.statuses == [UP, MORE]
    assert owner.failures == ["its metrics are odd"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectError("refused"), f"{URL}: refused"),
        (httpx.ReadTimeout(""), f"{URL}: ReadTimeout"),
        (httpx.InvalidURL("odd"), f"{URL}: odd"),
        (TimeoutError(), f"{URL} did not respond within 2.5 s"),
    ],
)
def test_each_kind_of_missing_response_is_a_failure_with_its_reason(error: Exception, reason: str) -> None:
    assert Owner().run(error).failures == [reason]


def test_a_status_that_the_owner_refuses_is_a_failure() -> None:
    failures: list[str] = []

    def refuse(status: NodeStatus) -> None:
        raise InvalidField("speed", "too much")

    async def run() -> NodeStatus | None:
        async with httpx.AsyncClient() as http:
            engine = EngineConfig(name="a1", kind="openai", url=URL)
            return await Prober(engine, Script(UP), http, refuse, failures.append, 1.0).probe_once()

    assert asyncio.run(run()) is None
    assert failures == ["speed: too much"]


def test_the_probe_of_an_engine_that_hangs_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "PROBE_TIMEOUT_S", 0.02)
    owner = Owner()

    class Hanging(Script):
        async def read(self, http: httpx.AsyncClient, url: str, speed: float) -> NodeStatus:
            await asyncio.Event().wait()
            raise AssertionError

    async def run() -> None:
        async with httpx.AsyncClient() as http:
            engine = EngineConfig(name="a1", kind="openai", url=URL)
            await Prober(engine, Hanging(), http, owner.statuses.append, owner.failures.append, 1.0).probe_once()

    asyncio.run(run())
    assert owner.failures == [f"{URL} did not respond within 0.02 s"]


def test_a_failed_probe_is_repeated_soon_and_then_less_often() -> None:
    assert Owner().run(UP, *[DOWN] * 6, UP, DOWN, interval_s=60).slept == [60, 0.5, 1, 2, 4, 5, 5, 60, 0.5]
    assert Owner().run(*[DOWN] * 4, interval_s=1.5).slept == [0.5, 1, 1.5, 1.5]
    assert Owner().run(UP, DOWN, interval_s=0.1).slept == [0.1, 0.1]


def test_many_failed_probes_do_not_overflow() -> None:
    assert Owner().run(*[DOWN] * 1200, interval_s=60).slept[-1] == 5


def test_the_interval_is_jittered() -> None:
    limits: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        limits.append((low, high))
        return high

    assert Owner().run(UP, interval_s=10, uniform=uniform).slept == [12]
    assert limits == [(0.8, 1.2)]


def test_only_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.health")
    Owner().run(DOWN, DOWN, UP, UP, MORE, MORE, DOWN, DOWN, NodeStatus(), UP)
    assert [record.getMessage() for record in caplog.records] == [
        "engine a1 is not up yet (its metrics are odd); probing it until it is up",
        f"engine a1 is up at {URL} and serves m",
        "engine a1 changed its models: m, n, was m",
        "engine a1 went down (its metrics are odd); probing it until it is up",
        f"engine a1 is up at {URL} and serves no model yet",
        "engine a1 changed its models: m, was none",
    ]


@given(st.lists(st.sampled_from([UP, MORE, DOWN]), max_size=30))
def test_each_probe_is_passed_to_the_owner_exactly_once(outcomes: list[Outcome]) -> None:
    owner = Owner().run(*outcomes)
    assert len(owner.statuses) + len(owner.failures) == len(owner.slept) == len(outcomes)


def test_an_engine_without_a_url_cannot_be_probed() -> None:
    with pytest.raises(ValueError, match="a1 has no url"):
        Prober(EngineConfig(name="a1", kind="local"), Script(), None, print, print, 1.0)  # type: ignore[arg-type]


def test_a_real_engine_is_noticed_when_it_starts_changes_and_stops() -> None:
    port = free_port()
    engine = EngineConfig(name="a1", kind="simulated", url=f"http://127.0.0.1:{port}", speed=4)
    seen: list[list[str] | None] = []

    async def run() -> None:
        async with httpx.AsyncClient() as http:
            prober = Prober(
                engine,
                ADAPTERS["simulated"],
                http,
                lambda status: seen.append(status.model_names),
                lambda reason: seen.append(None),
                0.02,
            )
            task = asyncio.create_task(prober.run())
            await eventually_async(lambda: seen[-1:] == [None])
            assert "down" in repr(prober)
            with running_app(create_app(SimulatedOptions(models=("m",))), port=port) as url:
                await eventually_async(lambda: seen[-1:] == [["m"]])
                (await http.post(f"{url}/simulated/models", json={"models": ["n", "m"]})).raise_for_status()
                await eventually_async(lambda: seen[-1:] == [["m", "n"]])
                assert "up" in repr(prober)
            await eventually_async(lambda: seen[-1:] == [None])
            task.cancel()

    asyncio.run(run())
