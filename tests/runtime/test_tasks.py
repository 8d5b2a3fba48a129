"""Background tasks: held, cancelled by name, and logged if they fail."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hierarchy.runtime.tasks import MAX_WAIT_S, RECENT_S, BackgroundTasks
from tests.clocks import Clock


def test_tasks_are_held_until_they_end_and_cancelled_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        tasks, gate, ended = BackgroundTasks(), asyncio.Event(), []

        async def wait(name: str) -> None:
            try:
                await gate.wait()
                ended.append(name)
            except asyncio.CancelledError:
                ended.append(f"{name} cancelled")
                raise

        for name in ("probe a", "probe b", "sweep"):
            tasks.spawn(wait(name), name)
        await asyncio.sleep(0)
        assert repr(tasks) == "<BackgroundTasks probe a, probe b, sweep>"
        tasks.cancel("probe b")
        tasks.cancel("no such task")
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(ended) == ["probe a", "probe b cancelled", "sweep"]
        assert list(tasks) == []

    asyncio.run(work())
    assert not caplog.records


def test_all_tasks_are_cancelled_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        tasks = BackgroundTasks()
        for name in ("a", "b"):
            tasks.spawn(asyncio.Event().wait(), name)
        tasks.cancel_all()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert list(tasks) == []

    asyncio.run(work())
    assert not caplog.records


def test_a_failure_is_logged_with_the_name_of_the_task(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        tasks = BackgroundTasks()

        async def fail() -> None:
            raise KeyError("x")

        tasks.spawn(fail(), "sweep")
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(work())
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert "background task sweep failed" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_a_task_that_is_kept_goes_on_after_any_error(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of error is logged once, whatever its text is; operators see that it failed."""
    clock, waits, runs = Clock(), [], []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.tick(seconds)

    async def work() -> None:
        tasks = BackgroundTasks(clock, sleep)

        async def fail() -> None:
            runs.append(1)
            if len(runs) < 12:
                raise RecursionError(f"deep {len(runs)}")

        assert tasks.warnings() == []
        tasks.keep(fail, "uplink to root")
        await asyncio.gather(*tasks)
        assert tasks.warnings() == [
            "background task uplink to root failed 11 times, the last time with RecursionError: deep 11; "
            "see the log of this node"
        ]
        clock.tick(RECENT_S)
        assert tasks.warnings() == []

    asyncio.run(work())
    assert len(runs) == 12
    assert waits[:4] == [0.5, 1, 2, 4]
    assert max(waits) == MAX_WAIT_S
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "background task uplink to root failed (RecursionError: deep 1); it goes on"
    assert record.exc_info is not None


def test_a_task_that_is_kept_can_be_cancelled_while_it_waits() -> None:
    async def work() -> None:
        tasks, waits = BackgroundTasks(), asyncio.Event()

        async def fail() -> None:
            waits.set()
            raise KeyError

        tasks.keep(fail, "a")
        await waits.wait()
        tasks.cancel("a")
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert list(tasks) == []

    asyncio.run(work())


def test_one_step_of_a_loop_does_not_keep_the_others_from_being_called(caplog: pytest.LogCaptureFixture) -> None:
    tasks, called = BackgroundTasks(Clock()), []

    def fail() -> None:
        raise OverflowError("int too large")

    for _ in range(3):
        for name, step in {"a": fail, "b": lambda: called.append(1)}.items():
            tasks.guard(step, name)
    assert len(called) == 3
    assert [record.getMessage() for record in caplog.records] == ["a failed (OverflowError: int too large); it goes on"]
    assert tasks.warnings()[0].startswith("a failed 3 times")
