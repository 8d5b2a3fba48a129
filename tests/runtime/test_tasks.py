"""Background tasks: held, cancelled by name, and logged if they fail."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hierarchy.runtime.tasks import BackgroundTasks


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
