"""Which models a simulated engine has in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.engines.simulated.memory import Memory


async def use(memory: Memory, model: str, turns: int = 1) -> None:
    async with memory.hold(model):
        assert model in memory.loaded
        for _ in range(turns):
            await asyncio.sleep(0)
            assert model in memory.loaded  # nobody takes away what is used


def test_the_model_that_was_used_least_recently_goes() -> None:
    async def run() -> None:
        memory = Memory(2)
        for name in ("a", "b", "a", "c"):
            await use(memory, name)
        assert (memory.loaded, memory.loads) == (["a", "c"], 3)
        assert [memory.state(name) for name in "abc"] == ["loaded", "unloaded", "loaded"]

    asyncio.run(run())


def test_requests_for_one_model_load_it_once() -> None:
    async def run() -> None:
        memory = Memory(1, load_s=0.01)
        tasks = [asyncio.ensure_future(use(memory, "a")) for _ in range(10)]
        await asyncio.sleep(0)
        assert memory.state("a") == "loading"
        await asyncio.gather(*tasks)
        assert memory.loads == 1

    asyncio.run(run())


def test_an_engine_with_room_for_all_loads_nothing() -> None:
    async def run() -> None:
        memory = Memory()
        memory.fill(["a", "b"])
        await use(memory, "b")
        assert (memory.loaded, memory.loads) == (["a", "b"], 0)

    asyncio.run(run())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4)), max_size=20), st.integers(1, 3))
def test_there_are_never_more_models_than_there_is_room_for(uses: Iterable[tuple[str, int]], most: int) -> None:
    async def run() -> None:
        memory = Memory(most)
        tasks = [asyncio.ensure_future(use(memory, name, turns)) for name, turns in uses]
        for _ in range(500):  # turns of the loop
            assert len(memory.loaded) <= most
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
        await asyncio.gather(*tasks)

    asyncio.run(run())
