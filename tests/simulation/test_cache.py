"""The prefix cache of an engine, beside one that is kept block by block."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.simulation.cache import PrefixCache
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
