"""Background tasks: held, cancelled by name, and never lost by a defect without a word."""

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
        tasks.cancel("nobody")
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(ended) == ["probe a", "probe b cancelled", "sweep"]
        assert list(tasks) == []

    asyncio.run(work())
    assert not caplog.records


def test_a_defect_is_told_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        tasks = BackgroundTasks()

        async def fail() -> None:
            raise KeyError("x")

        tasks.spawn(fail(), "sweep")
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(work())
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert "sweep ended by a defect" in record.getMessage()
