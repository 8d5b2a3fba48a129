"""Long work in slices: it gives way, in turns, and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime.slices import CHUNK_BYTES, Slices, in_turns
from hierarchy.runtime.steps import Steps
from tests.clocks import Clock


def work(clock: Clock, steps: int, seen: list[str], name: str = "work") -> Steps[int]:
    for _ in range(steps):
        clock.tick(1)
        seen.append(name)
        yield
    return steps


def test_others_run_after_each_slice() -> None:
    clock, seen = Clock(), list[str]()

    async def others() -> None:
        while True:
            seen.append("other")
            await asyncio.sleep(0)

    async def both() -> int:
        task = asyncio.ensure_future(others())
        try:
            return await Slices(clock, 2).run(work(clock, 6, seen))
        finally:
            task.cancel()

    assert asyncio.run(both()) == 6
    longest = max(map(len, " ".join(seen).replace("work ", "w").split("other")))
    assert seen.count("work") == 6
    assert longest <= len(" ww ")


def test_all_long_work_together_gets_one_slice_in_a_turn() -> None:
    clock, seen = Clock(), list[str]()

    async def three() -> list[int]:
        slices = Slices(clock, 1)
        return await asyncio.gather(*(slices.run(work(clock, 4, seen, name)) for name in "abc"))

    assert asyncio.run(three()) == [4, 4, 4]
    assert seen[:9] == [*"abcabcabc"]  # nobody waits for the end of another


def test_an_error_ends_the_work_and_the_next_gets_its_turn() -> None:
    clock = Clock()

    def broken() -> Steps[int]:
        yield
        raise ValueError("broken")

    async def both() -> int:
        slices = Slices(clock, 1)
        with pytest.raises(ValueError, match="broken"):
            await slices.run(broken())
        return await slices.run(work(clock, 2, []))

    assert asyncio.run(both()) == 2


@given(st.lists(st.binary(max_size=8)), st.integers(1, 5))
def test_a_streamed_text_is_whole(pieces: list[bytes], slice_s: int) -> None:
    clock = Clock()

    def ticking() -> Iterator[bytes]:
        for piece in pieces:
            clock.tick(1)
            yield piece

    async def read() -> list[bytes]:
        return [chunk async for chunk in Slices(clock, slice_s).stream(ticking())]

    chunks = asyncio.run(read())
    assert b"".join(chunks) == b"".join(pieces)
    assert len(chunks) >= len(pieces) // slice_s


def test_a_chunk_has_a_bound() -> None:
    async def read() -> list[bytes]:
        return [chunk async for chunk in Slices(Clock(), 1).stream(iter([bytes(CHUNK_BYTES)] * 3))]

    assert [len(chunk) for chunk in asyncio.run(read())] == [CHUNK_BYTES] * 3


def test_work_whose_steps_are_slices_gives_way_after_each() -> None:
    async def work() -> tuple[str, list[int]]:
        done: list[int] = []

        def steps() -> Steps[str]:
            for number in range(3):
                done.append(number)
                yield
            return "whole"

        task = asyncio.ensure_future(in_turns(steps()))
        await asyncio.sleep(0)
        assert done == [0]
        return await task, done

    assert asyncio.run(work()) == ("whole", [0, 1, 2])
