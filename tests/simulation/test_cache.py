"""The prefix cache of an engine, beside one that is kept block by block."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.simulation.cache import PrefixCache, Room
from hierarchy.simulation.prompt import Prompt
from tests.simulation.test_prompt import PARTS, made


def prompt(*parts: tuple[int, int]) -> Prompt:
    return made(list(parts))


def test_what_was_read_is_cached_in_whole_blocks() -> None:
    cache = PrefixCache(1000, 16)
    assert cache.match(prompt((1, 100))) == 0
    cache.put(prompt((1, 100)))
    assert cache.match(prompt((1, 100))) == 96
    assert cache.match(prompt((1, 100), (2, 50))) == 96
    assert cache.match(prompt((2, 100))) == 0


def test_the_end_of_the_oldest_goes_first() -> None:
    cache = PrefixCache(200, 10)
    cache.put(prompt((1, 100), (2, 50)))
    cache.put(prompt((3, 80)))
    assert cache.tokens == 200
    assert cache.match(prompt((1, 100), (2, 50))) == 120
    cache.put(prompt((1, 100)))  # used again
    cache.put(prompt((4, 50)))
    assert cache.match(prompt((1, 100), (2, 50))) == 100
    assert cache.match(prompt((3, 80))) == 50


def test_those_who_hold_a_part_are_known() -> None:
    holders: dict[int, set[PrefixCache]] = {}
    one, other = PrefixCache(100, 10), PrefixCache(100, 10)
    one.holders = other.holders = holders
    shared = prompt((1, 50))
    one.put(shared)
    other.put(shared)
    assert holders[shared.ids[0]] == {one, other}
    one.put(prompt((2, 100)))
    assert holders[shared.ids[0]] == {other}
    other.put(prompt((3, 100)))
    assert shared.ids[0] not in holders


def test_what_a_running_request_uses_stays() -> None:
    cache = PrefixCache(200, 10)
    cache.put(prompt((1, 100)))
    room = cache.open(prompt((1, 100), (2, 30)), 20)
    assert room is not None
    assert (room.cached, cache.in_use) == (100, 150)
    assert cache.open(prompt((3, 60)), 0) is None
    assert cache.in_use == 150
    cache.read(room)
    cache.put(prompt((3, 50)))
    assert cache.match(prompt((1, 100), (2, 30))) == 130
    cache.close(room, prompt((1, 100), (2, 30), (4, 20)))
    assert (cache.in_use, cache.tokens) == (0, 200)
    cache.put(prompt((5, 70)))
    assert cache.match(prompt((1, 100), (2, 30), (4, 20))) == 130


def test_a_request_that_ends_early_gives_its_room_back() -> None:
    cache = PrefixCache(200, 10)
    cache.put(prompt((1, 100)))
    room = cache.open(prompt((1, 100), (2, 30)), 20)
    assert room is not None
    cache.close(room)
    assert (cache.in_use, cache.tokens, cache.match(prompt((1, 100), (2, 30)))) == (0, 100, 100)


@given(st.lists(st.tuples(PARTS, st.integers(0, 9), st.integers(0, 30), st.booleans()), max_size=25))
def test_memory_is_counted_exactly_whatever_runs_at_once(
    steps: list[tuple[list[tuple[int, int]], int, int, bool]],
) -> None:
    cache = PrefixCache(200, 7)
    running: list[tuple[Room, Prompt | None]] = []
    for parts, ends, response, is_known in steps:
        one = made(parts)
        room = cache.open(one, response, must=not running)
        if room is not None:
            cache.read(room)
            running.append((room, one.then(99, response) if response and is_known else None))
        while len(running) > ends:
            cache.close(*running.pop(0))
        assert cache.in_use <= cache.tokens
        assert cache.tokens <= max(cache.capacity, cache.in_use)
    for room, continued in running:
        cache.close(room, continued)
    assert cache.in_use == 0
    assert cache.tokens == sum(cache._idle.values()) <= cache.capacity


@given(st.lists(PARTS, max_size=15), st.integers(0, 200), st.sampled_from([1, 7, 16]))
def test_it_holds_no_more_than_it_may_and_matches_what_was_read(
    prompts: list[list[tuple[int, int]]], capacity: int, block: int
) -> None:
    cache = PrefixCache(capacity, block)
    for one in map(made, prompts):
        cache.put(one)
        assert 0 <= cache.tokens <= capacity
        matched = cache.match(one)
        assert matched % block == 0
        assert matched <= min(one.tokens, capacity)
        if one.tokens <= capacity:
            assert matched == one.tokens - one.tokens % block
