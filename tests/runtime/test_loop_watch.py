"""What holds the event loop is measured in its own CPU time, and named."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest
import uvloop

from hierarchy.runtime import loop_watch
from hierarchy.runtime.loop_watch import HELD_S, LOG_EVERY_S, TICK_S, UNKNOWN, LoopWatch, frame_of, place_of
from tests.clocks import Clock
from tests.support import eventually_async


class Ticked:
    """A watch whose times the test moves."""

    def __init__(self) -> None:
        self.real, self.cpu = Clock(), Clock()
        self.watch = LoopWatch(self.real, self.cpu)
        self.step(0)

    def step(self, cpu_s: float, starved_s: float = 0.0) -> None:
        """One step, after which the tick comes: CPU time, and time in which the thread did not run."""
        busy = cpu_s + starved_s
        self.real.tick(max(TICK_S, busy))
        self.cpu.tick(cpu_s)
        self.watch.tick()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as one:
        yield one


def burn(cpu_s: float) -> None:
    """Use the CPU time of this thread."""
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_a_long_step_is_counted_and_the_longest_is_kept() -> None:
    ticked = Ticked()
    ticked.step(0.2)
    for _ in range(3):
        ticked.step(0.0)
    ticked.step(0.06)
    assert ticked.watch.holds == 2
    assert ticked.watch.longest_s == pytest.approx(0.2)


def test_a_loop_without_a_long_step_counts_none_however_busy_it_is(caplog: pytest.LogCaptureFixture) -> None:
    ticked = Ticked()
    for _ in range(100):
        ticked.step(HELD_S - 0.001)
    assert ticked.watch.holds == 0
    assert caplog.records == []


def test_of_a_busy_loop_only_what_is_late_for_sure_is_counted() -> None:
    ticked = Ticked()
    for _ in range(3):
        ticked.step(TICK_S)  # busy all the time, with many short steps
    ticked.step(TICK_S + 0.02)
    assert ticked.watch.holds == 0
    ticked.step(TICK_S + 0.2)
    assert ticked.watch.holds == 1


def test_many_short_steps_of_a_loop_that_was_idle_are_no_hold() -> None:
    """As when a node with thousands of engines starts."""
    ticked = Ticked()
    ticked.step(0.0)
    ticked.step(TICK_S + 0.003)
    assert ticked.watch.longest_s < HELD_S / 2


def test_time_in_which_the_thread_did_not_run_is_not_counted() -> None:
    ticked = Ticked()
    ticked.step(0.01, starved_s=30)
    assert ticked.watch.holds == 0
    assert ticked.watch.longest_s < HELD_S


def test_it_is_logged_once_in_ten_seconds_with_the_number_of_others(caplog: pytest.LogCaptureFixture) -> None:
    ticked = Ticked()
    for _ in range(3):
        ticked.step(0.123)
        ticked.step(0.0)
    ticked.real.tick(LOG_EVERY_S)
    ticked.step(0.0)
    ticked.step(0.3)
    assert [record.getMessage() for record in caplog.records] == [
        f"the event loop was held for 123 ms by {UNKNOWN}",
        f"the event loop was held for 300 ms by {UNKNOWN}; 2 more since the last such line",
    ]


def test_the_place_seen_most_is_named(caplog: pytest.LogCaptureFixture) -> None:
    ticked = Ticked()
    for places in (1, 3):
        for _ in range(places):
            ticked.watch.sample(_frame_of_the_package(f"step_{places}"))
    ticked.step(0.1)
    ticked.step(0.0)
    assert "by hierarchy.example.step_3, in hierarchy.example.inner (" in caplog.text
    caplog.clear()
    ticked.real.tick(LOG_EVERY_S)
    ticked.step(0.0)
    ticked.step(0.1)
    assert UNKNOWN in caplog.text, "a place belongs to one step"


def _frame_of_the_package(outer: str) -> FrameType:
    """The frame of a function of a module of this package, which another one has called."""
    names = {"__name__": "hierarchy.example", "sys": sys}
    exec(f"def inner():\n    return sys._getframe()\ndef {outer}():\n    return inner()", names)
    frame: FrameType = names[outer]()  # type: ignore[operator]
    return frame


def test_a_place_ends_at_the_function_that_runs_the_loop() -> None:
    frame = _frame_of_the_package("step")
    assert "hierarchy.example.step, in hierarchy.example.inner (" in place_of(frame)
    assert frame.f_back is None or place_of(frame, frame.f_code) == ""
    assert place_of(sys._getframe()) == "", "a function of another package"
    assert place_of(None) == ""


def test_it_watches_a_real_loop_and_names_what_held_it(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> LoopWatch:
        watch = LoopWatch()
        watch.start()
        await asyncio.sleep(2 * TICK_S)
        _hold_the_loop()
        await eventually_async(lambda: watch.holds, "the hold to be counted")
        watch.stop()
        return watch

    monkeypatch.setattr(loop_watch, "PACKAGE", "tests")
    watch = runner.run(work())
    assert watch.holds == 1
    assert watch.longest_s == pytest.approx(0.3, abs=0.2)
    line = caplog.records[0].getMessage()
    assert re.search(r"held for \d+ ms by tests\..*work, in tests\..*(burn|_hold_the_loop) \(.*\.py:\d+\)", line), line


def _hold_the_loop() -> None:
    burn(0.3)


def test_garbage_collection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    ticked = Ticked()
    ticked.watch._thread = threading.get_ident()
    ticked.watch._note_collection("start", {"generation": 2})
    ticked.cpu.tick(0.1)
    ticked.watch._note_collection("stop", {"generation": 2})
    ticked.real.tick(0.1)
    ticked.watch.tick()
    assert f"held for 100 ms by garbage collection in {UNKNOWN}" in caplog.text


def test_it_leaves_nothing_behind(runner: asyncio.Runner) -> None:
    before = list(gc.callbacks)

    async def work() -> None:
        watch = LoopWatch()
        watch.stop()  # of one that was not started
        watch.start()
        assert len(gc.callbacks) == len(before) + 1
        watch.stop()
        watch.stop()

    runner.run(work())
    assert gc.callbacks == before


def test_no_garbage_is_collected_while_stacks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stop the process for ever."""
    seen: list[bool] = []

    def current_frames() -> dict[int, FrameType]:
        seen.append(gc.isenabled())
        return {}

    monkeypatch.setattr(sys, "_current_frames", current_frames)
    assert frame_of(1) is None
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        frame_of(1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_stacks_are_read_while_threads_come_and_go_and_garbage_is_collected() -> None:
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    stopped = threading.Event()

    def churn() -> None:
        while not stopped.is_set():
            thread = threading.Thread(target=lambda: [[] for _ in range(10)])
            thread.start()
            thread.join()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(500):
            assert frame_of(threading.get_ident()) is not None
    finally:
        gc.set_threshold(*threshold)
        stopped.set()
        churning.join()
