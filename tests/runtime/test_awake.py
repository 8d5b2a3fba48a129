"""Time without the own pauses: the clock with a source that the test moves, and timeouts around real pauses."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime import awake
from hierarchy.runtime.awake import AHEAD_S, STEP_S, TICK_S, AwakeClock
from tests.clocks import Clock


class Ticked:
    """An awake clock, and the real time that it runs by."""

    def __init__(self) -> None:
        self.real = Clock()
        self.clock = AwakeClock(self.real)
        self.clock.tick()

    def live(self, seconds: float) -> None:
        """Let time pass with a loop that is never late."""
        for _ in range(round(seconds / TICK_S)):
            self.real.tick(TICK_S)
            self.clock.tick()

    def pause(self, seconds: float) -> None:
        """Let time pass without a tick, then tick once, as the loop does after it."""
        self.real.tick(seconds)
        self.clock.tick()


def test_without_a_loop_it_is_the_real_clock() -> None:
    real = Clock()
    clock = AwakeClock(real)
    real.tick(100)
    assert clock() == real()


def test_a_loop_that_is_never_late_has_the_real_time() -> None:
    ticked = Ticked()
    ticked.live(10)
    ticked.real.tick(0.05)
    assert ticked.clock() == pytest.approx(ticked.real())
    assert ticked.clock.paused_s == 0


def test_a_pause_counts_for_a_moment_only_before_and_after_the_tick_that_ends_it() -> None:
    ticked = Ticked()
    before = ticked.clock()
    ticked.real.tick(3)
    assert ticked.clock() - before == pytest.approx(AHEAD_S)
    ticked.clock.tick()
    assert ticked.clock() - before == pytest.approx(AHEAD_S)
    ticked.live(1)
    assert ticked.clock() - before == pytest.approx(AHEAD_S + 1 - TICK_S)
    assert ticked.clock.paused_s == pytest.approx(3 - AHEAD_S + TICK_S)
    assert ticked.clock.lag_s == pytest.approx(3 - TICK_S)


def test_after_a_pause_it_stands_still_until_the_next_tick_so_that_waiting_bytes_are_read_first() -> None:
    ticked = Ticked()
    ticked.pause(3)
    at_resumption = ticked.clock()
    ticked.real.tick(TICK_S / 2)
    assert ticked.clock() == at_resumption
    ticked.real.tick(TICK_S / 2)
    ticked.clock.tick()
    assert ticked.clock() == at_resumption
    ticked.real.tick(0.01)
    assert ticked.clock() > at_resumption


def test_a_loop_that_is_always_late_still_advances() -> None:
    ticked = Ticked()
    before = ticked.clock()
    for _ in range(10):
        ticked.pause(1)
    assert ticked.clock() - before == pytest.approx(10 * AHEAD_S / 2)


def stand_still(seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)


@given(st.lists(st.floats(0, 5), max_size=50))
def test_it_never_goes_back_and_is_never_faster_than_real_time(steps: list[float]) -> None:
    ticked = Ticked()
    for step in steps:
        real, seen = ticked.real(), ticked.clock()
        ticked.real.tick(step)
        between = ticked.clock()
        ticked.clock.tick()
        after = ticked.clock()
        assert seen <= between <= after <= seen + min(step, AHEAD_S) + 1e-6
        assert ticked.real() - real == pytest.approx(step, abs=1e-6)


def test_a_long_pause_is_logged_once_and_short_ones_together(caplog: pytest.LogCaptureFixture) -> None:
    ticked = Ticked()
    ticked.pause(3.3)
    ticked.live(1)
    ticked.pause(2)
    ticked.pause(2)
    assert [record.getMessage() for record in caplog.records] == [
        "this node stood still for 3.0 s (stopped, or short of processor time); it counts against nobody"
    ]
    ticked.live(60)
    for _ in range(8):
        ticked.pause(0.5)
        ticked.live(1)
    assert len(caplog.records) == 2
    assert caplog.records[1].levelno == logging.WARNING


def test_it_runs_in_an_event_loop_and_a_blocked_loop_does_not_count() -> None:
    async def work() -> None:
        clock = AwakeClock()
        task = asyncio.create_task(clock.run())
        await asyncio.sleep(TICK_S)
        before = clock()
        stand_still(1)
        assert clock() - before <= AHEAD_S
        await asyncio.sleep(3 * TICK_S)
        assert clock() - before <= AHEAD_S + 3 * TICK_S + 0.2
        assert clock.paused_s > 0.5
        task.cancel()
        await asyncio.wait([task])
        later = clock()
        stand_still(1)
        assert clock() - later >= 1  # it no longer runs

    asyncio.run(work())


# -- timeouts ------------------------------------------------------------------------------------------------


def test_a_timeout_ends_a_wait_that_takes_too_long() -> None:
    async def work() -> float:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with awake.timeout(0.05) as scope:
                await asyncio.Event().wait()
        assert scope.expired()
        return time.monotonic() - began

    assert asyncio.run(work()) >= 0.05


def test_a_timeout_of_several_steps_takes_as_long_as_it_says() -> None:
    async def work() -> float:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with awake.timeout(1.2 * STEP_S):
                await asyncio.Event().wait()
        return time.monotonic() - began

    assert asyncio.run(work()) >= 1.2 * STEP_S


def test_a_timeout_does_not_end_what_is_done_in_time_and_leaves_no_timer() -> None:
    async def work() -> None:
        async with awake.timeout(0.05) as scope:
            pass
        await asyncio.sleep(0.1)
        assert not scope.expired()

    asyncio.run(work())


@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0])
def test_a_pause_longer_than_the_timeout_does_not_hide_a_response_that_came_meanwhile(seconds: float) -> None:
    async def work() -> bytes:
        server = await asyncio.start_server(lambda reader, writer: writer.write(b"pong"), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            async with awake.timeout(seconds):
                task = asyncio.ensure_future(reader.readexactly(4))
                await asyncio.sleep(0)
                stand_still(max(2 * seconds, STEP_S + 0.5))
                return await task
        finally:
            writer.close()
            server.close()

    assert asyncio.run(work()) == b"pong"


def test_a_cancelled_wait_stays_cancelled() -> None:
    async def wait() -> None:
        async with awake.timeout(10):
            await asyncio.Event().wait()

    async def work() -> bool:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(work())
