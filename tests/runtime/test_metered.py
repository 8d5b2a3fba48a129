"""The CPU time of a coroutine's steps."""

from __future__ import annotations

import asyncio

import pytest

from hierarchy.runtime.metered import Metered
from tests.clocks import Clock


def test_the_steps_count_and_the_waits_between_them_do_not() -> None:
    clock = Clock()

    async def work() -> str:
        clock.tick(1.0)
        await asyncio.sleep(0)
        clock.tick(2.0)
        return "done"

    async def run() -> None:
        metered = Metered(work(), clock)
        task = asyncio.ensure_future(metered.run())
        await asyncio.sleep(0)
        clock.tick(10.0)
        assert await task == "done"
        assert metered.cpu_s == 3.0

    asyncio.run(run())


def test_errors_and_cancellation_pass_in_both_directions() -> None:
    ended: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("x")

    async def waits() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append("cleaned up")
            raise
        return ""

    async def run() -> None:
        with pytest.raises(ValueError, match="x"):
            await Metered(fails())
        task = asyncio.ensure_future(Metered(waits()).run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(run())
    assert ended == ["cleaned up"]


def test_a_coroutine_that_handles_an_error_continues() -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return ""

    assert asyncio.run(Metered(work()).run()) == "late"
