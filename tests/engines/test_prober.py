"""The prober: what it passes to its owner and logs, and how long it waits; the test controls clock and engine."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import EngineConfig
from hierarchy.engines import prober
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.pacer import Pacer
from hierarchy.engines.probe_client import ProbeClient
from hierarchy.engines.prober import Prober
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.errors import EngineUnreadable, InvalidField
from hierarchy.runtime.resolver import Resolver
from hierarchy.wire.status import ModelStatus, NodeStatus
from tests.clocks import Clock
from tests.support import eventually_async, free_port, running_app

URL = "http://engine:8000"
UP = NodeStatus((ModelStatus("m"),), 1.0)
MORE = NodeStatus((ModelStatus("m"), ModelStatus("n")), 1.0)
DOWN = EngineUnreadable("its metrics are odd")
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

Outcome = NodeStatus | BaseException


class Script:
    """An adapter that returns or raises these outcomes in turn, and then cancels the prober."""

    kind = "openai"

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes: Iterator[Outcome] = iter(outcomes)

    async def read(self, http: object, speed: float) -> NodeStatus:
        outcome = next(self._outcomes, asyncio.CancelledError())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class FakeClient:
    """A connection whose state in the kernel the test sets."""

    def __init__(self, *, is_connecting: bool = False, unreachable: bool = False) -> None:
        self.is_connecting = is_connecting
        self.unreachable = unreachable
        self.closed = False
        self.rests = 0

    def unreachable_s(self, sent_s: float) -> float:
        return sent_s if self.unreachable else 0.0

    def rest(self) -> None:
        self.rests += 1

    def close(self) -> None:
        self.closed = True


def quick_pacer(clock: Callable[[], float]) -> Pacer:
    """A pacer that lets no probe wait."""
    return Pacer(clock, share=1e9)


def slept(record: list[float], seconds: float) -> asyncio.Future[None]:
    """A sleep that is over at once, and recorded."""
    record.append(seconds)
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


class Bench:
    """A prober with its owner, an engine that answers when the test says so, and a clock that runs while it waits.

    events: what the owner heard. Each look at the clock takes a tenth of a second.
    """

    kind = "openai"

    def __init__(self) -> None:
        self.now = 1000.0
        self.events: list[str] = []
        self.slept: list[float] = []
        self.signs = self.requests = self.ended = 0
        self.clients: list[FakeClient] = []  # in the order in which they were made
        self.next_client: Callable[[], FakeClient] = FakeClient
        #: seconds after its beginning -> what the reading of that number ends with; by default it never does
        self.outcomes: dict[int, tuple[float, Outcome]] = {}
        self.reads: list[float] = []  # when they began
        self.cancelled = 0
        self.on_tick: Callable[[float], None] = lambda seconds: None
        engine = EngineConfig(name="a1", kind="openai", url=URL)
        self.pacer = quick_pacer(self.clock)
        make_client: Any = self.make_client
        self.prober = Prober(engine, self, make_client, self, 2.0, self.pacer, self.clock, sleep=self.sleep)

    def clock(self) -> float:
        self.now += 0.1
        self.on_tick(self.elapsed)
        return self.now

    @property
    def elapsed(self) -> float:
        """Seconds since the first reading began."""
        return self.now - (self.reads[0] if self.reads else self.now)

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        return slept(self.slept, seconds)

    def make_client(self) -> FakeClient:
        self.clients.append(self.next_client() if self.clients else FakeClient())
        return self.clients[-1]

    async def read(self, http: object, speed: float) -> NodeStatus:
        number, began = len(self.reads), self.now
        self.reads.append(self.now)
        after_s, outcome = self.outcomes.get(number, (1e9, DOWN))
        try:
            while self.now < began + after_s:  # noqa: ASYNC110
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def report(self, status: NodeStatus, ended: int) -> None:
        self.note(f"report, {ended} ended" if ended else "report")

    def suspect(self, reason: str) -> None:
        self.note(f"suspect: {reason}")

    def trust(self) -> None:
        self.note("trust")

    def rests(self, reason: str) -> bool:
        return False

    def mark_down(self, reason: str) -> None:
        self.note(f"down: {reason}")

    def note(self, event: str) -> None:
        self.events.append(event)

    def probe(self) -> list[str]:
        """One probe; returns what the owner heard during it."""
        asyncio.run(self.prober.probe())
        events, self.events = self.events, []
        return events

    def up(self) -> Bench:
        """An engine that was up so far; the readings are numbered from here on."""
        self.outcomes[0] = 0.0, UP
        assert self.probe() == ["report"]
        self.reads, self.outcomes = [], {}
        return self


@pytest.fixture(autouse=True)
def look_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "LOOK_S", 0)


LATE = f"{URL} did not respond within 2.5 s"


class Owner:
    """Runs a prober, and records what it passes on and how long it sleeps."""

    signs = requests = ended = 0

    def __init__(self) -> None:
        self.statuses: list[NodeStatus] = []
        self.failures: list[str] = []
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        return slept(self.slept, seconds)

    def report(self, status: NodeStatus, ended: int) -> None:
        self.statuses.append(status)

    def rests(self, reason: str) -> bool:
        return False

    def mark_down(self, reason: str) -> None:
        self.failures.append(reason)

    def suspect(self, reason: str) -> None:
        raise AssertionError

    def trust(self) -> None:
        raise AssertionError

    def run(
        self,
        *outcomes: Outcome,
        interval_s: float = 2.0,
        uniform: Callable[[float, float], float] = lambda low, high: 1.0,
    ) -> Owner:
        async def run() -> None:
            engine = EngineConfig(name="a1", kind="openai", url=URL)
            make_client: Any = FakeClient
            pacer, script = quick_pacer(time.monotonic), Script(*outcomes)
            await Prober(
                engine, script, make_client, self, interval_s, pacer, Clock(), sleep=self.sleep, uniform=uniform
            ).run()

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run())
        return self


def test_statuses_and_failures_are_passed_to_the_owner() -> None:
    owner = Owner().run(UP, REFUSED, MORE)
    assert owner.statuses == [UP, MORE]
    assert owner.failures == [f"{URL}: Connection refused"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSED, f"{URL}: Connection refused"),
        (ConnectionResetError("cut"), f"{URL}: cut"),
        (OSError(socket.EAI_NONAME, "no such name"), f"{URL}: no such name"),
        (DOWN, "its metrics are odd"),
    ],
)
def test_each_kind_of_bad_response_is_a_failure_with_its_reason(error: Exception, reason: str) -> None:
    assert Owner().run(error).failures == [reason]


def test_two_bad_answers_in_a_row_take_an_engine_down_and_one_does_not() -> None:
    owner = Owner().run(UP, DOWN, UP, DOWN, DOWN, UP, interval_s=60)
    assert owner.failures == ["its metrics are odd"]
    assert owner.slept == [60, 0.5, 60, 0.5, 0.5, 60]


def test_a_refused_connection_takes_an_engine_down_at_once() -> None:
    assert Owner().run(UP, REFUSED).failures == [f"{URL}: Connection refused"]


def test_a_node_without_descriptors_does_not_blame_its_engines() -> None:
    error = OSError(errno.EMFILE, "Too many open files")
    assert Owner().run(UP, *[error] * 5).failures == []


def test_a_status_that_the_owner_refuses_is_a_failure() -> None:
    class Strict(Owner):
        def report(self, status: NodeStatus, ended: int) -> None:
            raise InvalidField("speed", "too much")

    assert Strict().run(UP).failures == ["speed: too much"]


def test_a_probe_tells_how_many_requests_ended_while_it_waited() -> None:
    bench = Bench().up()
    bench.ended = 5
    bench.outcomes[0] = 1.0, UP

    def tick(seconds: float) -> None:
        bench.ended = 7 if seconds > 0.5 else 5

    bench.on_tick = tick
    assert bench.probe() == ["report, 2 ended"]


# -- late probes ---------------------------------------------------------------------------------------------


def test_an_engine_that_answers_late_is_a_suspect_until_it_does() -> None:
    bench = Bench().up()
    bench.outcomes[0] = 4.4, UP
    assert bench.probe() == [f"suspect: {LATE}", "report"]
    assert (len(bench.reads), bench.cancelled) == (2, 1)  # another connection was tried, and is given up
    assert [client.closed for client in bench.clients] == [False, True]


def test_a_slow_answer_while_bytes_flow_is_no_suspicion() -> None:
    bench = Bench().up()
    bench.outcomes[0] = 4.4, UP

    def flow(seconds: float) -> None:
        bench.signs = int(seconds)

    bench.on_tick = flow
    assert bench.probe() == ["report"]


def test_a_byte_ends_the_suspicion() -> None:
    bench = Bench().up()
    bench.outcomes[0] = 6.0, UP

    def flow(seconds: float) -> None:
        bench.signs = int(seconds > 4)

    bench.on_tick = flow
    assert bench.probe() == [f"suspect: {LATE}", "trust", "report"]


def test_an_old_connection_that_a_firewall_forgot_does_not_hide_an_engine_that_answers_on_a_new_one() -> None:
    bench = Bench().up()
    bench.outcomes[1] = 0.1, UP
    assert bench.probe() == [f"suspect: {LATE}", "report"]
    assert bench.elapsed < 3.5


@pytest.mark.parametrize(("requests", "death_s"), [(0, 10), (40, 20), (10_000, 60)])
def test_an_engine_without_any_sign_of_life_is_down_after_a_time_that_grows_with_its_requests(
    requests: int, death_s: float
) -> None:
    bench = Bench().up()
    bench.requests = requests
    suspicion, death = bench.probe()
    assert suspicion == f"suspect: {LATE}"
    assert death.startswith(f"down: {URL} gave no sign of life for {death_s:.0f}"[:-1])
    assert death_s - 0.5 <= bench.elapsed <= death_s + 2.6


def test_a_hung_engine_has_few_connections_of_probes_at_a_time_and_few_in_all() -> None:
    bench = Bench().up()
    bench.requests = 10_000
    bench.on_tick = lambda seconds: most.append(len(bench.reads) - bench.cancelled)
    most: list[int] = []
    bench.probe()
    assert max(most) == 2
    assert len(bench.reads) <= 6  # in a minute


def test_an_engine_that_streams_and_never_answers_a_probe_is_neither_suspect_nor_down() -> None:
    bench = Bench().up()

    def flow(seconds: float) -> None:
        bench.signs = int(seconds)

    bench.on_tick = flow
    assert bench.probe() == []
    assert bench.elapsed >= 60


def test_an_engine_that_is_not_up_and_hangs_is_down_once_a_probe() -> None:
    bench = Bench()
    assert bench.probe() == [f"down: {LATE}"]
    bench = Bench()
    bench.outcomes[0] = 8.0, UP
    assert bench.probe() == [f"down: {LATE}", "report"]  # it starts slowly, and its answer counts


# -- what the kernel knows -----------------------------------------------------------------------------------


def test_an_engine_whose_machine_acknowledges_nothing_is_down_at_once() -> None:
    bench = Bench().up()
    bench.clients[0].unreachable = True
    bench.next_client = lambda: FakeClient(is_connecting=True)
    suspicion, death = bench.probe()
    assert (suspicion, death) == (
        f"suspect: {LATE}",
        f"down: {URL} cannot be reached: its machine acknowledges nothing",
    )
    assert bench.elapsed <= 4


def test_a_hung_engine_that_accepts_no_new_connection_is_only_a_suspect() -> None:
    bench = Bench().up()
    bench.outcomes[0] = 8.0, UP
    bench.next_client = lambda: FakeClient(is_connecting=True, unreachable=True)
    assert bench.probe() == [f"suspect: {LATE}", "report"]


def test_a_lost_connection_does_not_take_down_an_engine_from_which_bytes_arrive() -> None:
    bench = Bench().up()
    bench.clients[0].unreachable = True
    bench.next_client = lambda: FakeClient(is_connecting=True)
    bench.outcomes[1] = 3.0, UP

    def flow(seconds: float) -> None:
        bench.signs = int(seconds)

    bench.on_tick = flow
    assert bench.probe() == ["report"]


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH])
def test_an_engine_to_which_there_is_no_route_is_down_unless_bytes_arrive(number: int) -> None:
    error = OSError(number, os.strerror(number))
    bench = Bench().up()
    bench.outcomes[0] = 0.5, error
    assert bench.probe() == [f"down: {URL}: {os.strerror(number)}"]
    bench = Bench().up()
    bench.outcomes[0] = 0.5, error
    bench.on_tick = lambda seconds: setattr(bench, "signs", int(10 * seconds))
    assert bench.probe() == []


# -- intervals and log lines ---------------------------------------------------------------------------------


def test_a_failed_probe_is_repeated_soon_and_then_less_often() -> None:
    slept = Owner().run(UP, *[REFUSED] * 6, UP, REFUSED, interval_s=60).slept
    assert slept == [60, 0.5, 1, 2, 4, 5, 5, 60, 0.5]
    assert Owner().run(*[DOWN] * 4, interval_s=1.5).slept == [0.5, 1, 1.5, 1.5]
    assert Owner().run(UP, REFUSED, interval_s=0.1).slept == [0.1, 0.1]


def test_a_prober_that_is_woken_probes_at_once() -> None:
    bench = Bench()
    bench.outcomes = dict.fromkeys(range(3), (0.0, UP))

    def sleep(seconds: float) -> asyncio.Future[None]:
        bench.slept.append(seconds)
        return asyncio.get_running_loop().create_future()

    async def run() -> None:
        task = asyncio.create_task(bench.prober.run())
        for count in (1, 2, 3):
            await eventually_async(lambda count=count: len(bench.slept) == count)  # type: ignore[misc]
            bench.prober.wake()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    bench.prober._sleep = sleep
    asyncio.run(run())
    assert bench.clients[0].closed


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
    Owner().run(DOWN, DOWN, UP, UP, MORE, MORE, DOWN, DOWN, DOWN, NodeStatus(), UP)
    assert [record.getMessage() for record in caplog.records] == [
        "engine a1 is not up yet (its metrics are odd); probing it until it is up",
        f"engine a1 is up at {URL} and serves m",
        "engine a1 changed its models: m, n, was m",
        "engine a1 went down (its metrics are odd); probing it until it is up",
        f"engine a1 is up at {URL} and serves no model yet",
        "engine a1 changed its models: m, was none",
    ]


@pytest.mark.parametrize(("starting_s", "level"), [(10.0, "INFO"), (0.0, "WARNING")])
def test_an_engine_that_starts_with_its_node_is_no_warning_until_it_takes_long(
    starting_s: float, level: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hierarchy.engines.prober.STARTING_S", starting_s)
    caplog.set_level(logging.INFO, "hierarchy.health")
    Owner().run(DOWN, DOWN, UP, DOWN, DOWN, UP)
    assert [record.levelname for record in caplog.records] == [level, "INFO", "WARNING", "INFO"]


@given(st.lists(st.sampled_from([UP, MORE, REFUSED]), max_size=30))
def test_each_probe_is_passed_to_the_owner_exactly_once(outcomes: list[Outcome]) -> None:
    owner = Owner().run(*outcomes)
    assert len(owner.statuses) + len(owner.failures) == len(owner.slept) == len(outcomes)


def test_an_engine_without_a_url_cannot_be_probed() -> None:
    with pytest.raises(ValueError, match="a1 has no url"):
        Prober(EngineConfig(name="a1", kind="local"), Script(), print, Owner(), 1.0, Pacer(Clock()), Clock())  # type: ignore[arg-type]


def test_a_real_engine_is_noticed_when_it_starts_changes_and_stops() -> None:
    port = free_port()
    engine = EngineConfig(name="a1", kind="simulated", url=f"http://127.0.0.1:{port}", speed=4)
    owner = Owner()

    async def run() -> None:
        prober = Prober(
            engine,
            ADAPTERS["simulated"],
            lambda: ProbeClient(f"http://127.0.0.1:{port}", time.monotonic, Resolver()),
            owner,
            0.02,
            Pacer(time.monotonic),
            time.monotonic,
        )
        task = asyncio.create_task(prober.run())
        await eventually_async(lambda: owner.failures)
        assert "down" in repr(prober)
        with running_app(create_app(SimulatedOptions(models=("m",))), port=port) as url:
            await eventually_async(lambda: owner.statuses and owner.statuses[-1].model_names == ["m"])
            async with httpx.AsyncClient() as http:
                (await http.post(f"{url}/simulated/models", json={"models": ["n", "m"]})).raise_for_status()
            await eventually_async(lambda: owner.statuses[-1].model_names == ["m", "n"])
            assert "up" in repr(prober)
            owner.failures.clear()
        await eventually_async(lambda: owner.failures)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
