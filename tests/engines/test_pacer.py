"""Turns of probes, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.engines import pacer as module
from hierarchy.engines.pacer import (
    AT_ONCE,
    BEAT_S,
    FEWEST,
    FIRST_SHARE,
    LATE_S,
    LONGEST_S,
    MOST,
    MOST_SHARE,
    SHARE,
    SOON_S,
    WHOLE,
    Line,
    Pacer,
    Turn,
    Window,
    next_beat,
)
from tests.clocks import Clock


class Bench:
    """A pacer, its clock, and turns in the order in which they were granted."""

    def __init__(self, engines: int = 0) -> None:
        self.clock = Clock()
        self.pacer = Pacer(self.clock)
        self.pacer.engines = engines
        self.granted: list[Turn] = []
        self._waiting: list[Turn] = []

    def ask(self, count: int = 1, **what: bool) -> list[Turn]:
        turns = [self.pacer.ask(**what) for _ in range(count)]
        self._waiting += turns
        self._note()
        return turns

    def beat(self, seconds: float = BEAT_S) -> None:
        self.clock.tick(seconds)
        while self.pacer.look() == AT_ONCE:
            pass  # the event loop calls it again after a step
        self._note()

    def end(self, turn: Turn, cost_s: float, *, answered: bool = True) -> None:
        self.pacer.end(turn, cost_s / WHOLE, answered=answered)

    def _note(self) -> None:
        now = [turn for turn in self._waiting if turn.granted is None or turn.granted.done()]
        self._waiting = [turn for turn in self._waiting if turn.granted is not None and not turn.granted.done()]
        self.granted += sorted(now, key=lambda turn: turn.began_at)


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def work() -> None:
        await test(Bench(engines=2000))

    return lambda: asyncio.run(work())


def settle(bench: Bench, cost_s: float) -> None:
    """Many probes have cost that much."""
    for line in (bench.pacer._first, bench.pacer._regular):
        for _ in range(200):
            line.measured(cost_s)


def rate(bench: Bench, beats: int = 100, seconds: float = BEAT_S) -> float:
    """Turns a second while some always wait."""
    begun, began_at = len(bench.granted), bench.clock()
    for _ in range(beats):
        bench.beat(seconds)
    return (len(bench.granted) - begun) / (bench.clock() - began_at)


@on_bench
async def test_a_few_engines_do_not_wait_for_each_other(bench: Bench) -> None:
    settle(bench, 0.0001)
    assert [turn.granted for turn in bench.ask(30)] == [None] * 30


@on_bench
async def test_probes_get_their_share_of_a_core_and_no_more(bench: Bench) -> None:
    settle(bench, 0.0001)
    bench.ask(5000)
    assert rate(bench) * 0.0001 == pytest.approx(SHARE, rel=0.1)


@on_bench
async def test_few_probes_begin_in_one_step_of_the_event_loop(bench: Bench) -> None:
    """Requests wait for a step, however many probes are due."""
    settle(bench, 0.0001)
    bench.ask(200)
    loop, steps = asyncio.get_running_loop(), [len(bench.granted)]
    bench.clock.tick(BEAT_S)
    deadline = loop.time() + 10.0
    while len(bench.granted) < 200 and loop.time() < deadline:
        await asyncio.sleep(0)
        bench.clock.tick(0.0001)
        bench._note()
        steps.append(len(bench.granted))
    assert len(bench.granted) == 200
    assert max(after - before for before, after in itertools.pairwise(steps)) <= AT_ONCE


@on_bench
async def test_first_probes_get_more(bench: Bench) -> None:
    settle(bench, 0.001)
    bench.ask(5000, first=True)
    begun, began_at = len(bench.granted), bench.clock()
    for _ in range(100):
        bench.beat()
        for turn in bench.granted[begun:]:
            bench.end(turn, 0.001)
        begun = len(bench.granted)
    assert begun / (bench.clock() - began_at) * 0.001 == pytest.approx(FIRST_SHARE, rel=0.1)


@pytest.mark.parametrize(("cost_s", "interval_s"), [(0.0001, 2000 * 0.0001 / SHARE), (0.0004, LONGEST_S)])
def test_the_interval_grows_with_the_cost_up_to_a_limit(cost_s: float, interval_s: float) -> None:
    async def work() -> None:
        bench = Bench(engines=2000)
        settle(bench, cost_s)
        bench.ask(5000)
        assert 2000 / rate(bench) == pytest.approx(interval_s, rel=0.1)

    asyncio.run(work())


@on_bench
async def test_even_the_limit_does_not_take_the_whole_core(bench: Bench) -> None:
    settle(bench, 0.01)
    bench.ask(5000)
    assert rate(bench) * 0.01 == pytest.approx(MOST_SHARE, rel=0.1)


@on_bench
async def test_a_node_that_is_short_of_cpu_time_probes_less(bench: Bench) -> None:
    settle(bench, 0.0001)
    bench.ask(5000)
    late = rate(bench, beats=50, seconds=20 * BEAT_S)
    assert late < 0.2 * rate(bench)


@on_bench
async def test_a_pause_is_not_made_up_for(bench: Bench) -> None:
    settle(bench, 0.0001)
    bench.ask(5000)
    before = len(bench.granted)
    bench.beat(60.0)
    assert len(bench.granted) - before <= 100


@on_bench
async def test_engines_have_their_turns_in_order(bench: Bench) -> None:
    settle(bench, 0.001)
    turns = bench.ask(100)
    while len(bench.granted) < len(turns):
        bench.beat()
    assert bench.granted == turns


@on_bench
async def test_an_engine_in_doubt_goes_before_others_that_wait(bench: Bench) -> None:
    settle(bench, 0.001)
    turns = bench.ask(1000)
    (hurried,) = bench.ask(hurry=True)
    bench.pacer.hurry(turns[900])
    for _ in range(20):
        bench.beat()
    assert {hurried, turns[900]} <= set(bench.granted)


@on_bench
async def test_engines_that_are_always_in_doubt_leave_every_second_turn_to_the_others(bench: Bench) -> None:
    settle(bench, 0.001)
    turns = bench.ask(100)
    bench.ask(10_000, hurry=True)
    while len(bench.granted) < 190:
        bench.beat()
    assert sum(turn in bench.granted for turn in turns) == pytest.approx(95, abs=10)


@on_bench
async def test_a_turn_that_is_not_waited_for_any_longer_costs_nothing(bench: Bench) -> None:
    settle(bench, 0.001)
    turns = bench.ask(1000)
    for turn in turns[5:]:
        if turn.granted is not None:
            turn.granted.cancel()
    (last,) = bench.ask()
    for _ in range(20):
        bench.beat()
    assert last in bench.granted
    assert bench.pacer._regular.is_empty


@on_bench
async def test_it_looks_by_itself_while_turns_wait(bench: Bench) -> None:
    settle(bench, 0.001)
    turns = bench.ask(20)

    async def run() -> None:
        while any(turn.granted is not None and not turn.granted.done() for turn in turns):
            bench.clock.tick(BEAT_S)
            await asyncio.sleep(BEAT_S)

    await asyncio.wait_for(run(), 10.0)


@on_bench
async def test_few_second_connections_are_made_at_a_time(bench: Bench) -> None:
    assert sum(bench.pacer.begin_spare() for _ in range(1000)) == 2000 // 16
    bench.pacer.end_spare()
    assert bench.pacer.begin_spare()
    assert not bench.pacer.begin_spare()


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans(), st.booleans()), max_size=200))
def test_credit_never_grows_beyond_what_may_be_saved(steps: list[tuple[float, bool, bool]]) -> None:
    line, now = Line(SHARE, 0.0), 0.0
    for seconds, spends, is_dear in steps:
        now += seconds
        line.refill(now, 100)
        assert line._credit_s <= max(module.CREDIT_S, MOST_SHARE * BEAT_S, line.cost_s)
        if spends and line.has_credit:
            line.spend()
            assert line._credit_s >= 0
            line.measured(0.1 if is_dear else 0.0001)


# -- first probes --------------------------------------------------------------------------------------------


def fill(window: Window, now: float) -> list[Turn]:
    turns = []
    while window.has_room(now):
        turn = Turn(Line(1.0, now))
        turn.began_at = now
        window.begin(turn)
        turns.append(turn)
    return turns


def test_as_many_first_probes_begin_as_get_answered_soon() -> None:
    window, now, sizes = Window(), 0.0, []
    for _ in range(4):
        turns = fill(window, now)
        sizes.append(len(turns))
        now += 0.1
        for turn in turns:
            window.end(turn, now, answered=True)
    assert sizes == [FEWEST, 2 * FEWEST, 4 * FEWEST, 8 * FEWEST]


def test_late_answers_halve_their_number_once_a_second() -> None:
    window = Window()
    window.size = MOST
    turns = fill(window, 0.0)
    window.has_room(LATE_S)
    for turn in turns:
        window.end(turn, LATE_S, answered=True)
    assert window.size == MOST // 2
    for _ in range(10):
        turns = fill(window, 0.0)
    assert window.size >= FEWEST


def test_engines_that_never_answer_make_room_for_others() -> None:
    window, now, begun = Window(), 0.0, 0
    while begun < 1000:
        begun += len(fill(window, now))
        now += SOON_S
    assert now <= 5.0


def test_a_probe_that_is_given_up_shows_nothing() -> None:
    window = Window()
    (turn, *_) = fill(window, 0.0)
    window.end(turn, 90.0, answered=False)
    assert window.size == FEWEST


@pytest.mark.parametrize("at", [0.0, 0.5, 1000.013, 1e6])
def test_beats_are_regular(at: float) -> None:
    beat = next_beat(at)
    assert at < beat <= at + BEAT_S + 1e-9
    assert next_beat(beat - BEAT_S / 2) == pytest.approx(beat)
