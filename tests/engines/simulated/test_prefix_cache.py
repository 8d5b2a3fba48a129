"""What a simulated engine has in its prefix cache."""

from __future__ import annotations

from hierarchy.engines.simulated.prefix_cache import BLOCK_CHARS, PrefixCache

LONG = "".join(f"This is part {number} of a prompt. " for number in range(40))
WHOLE = len(LONG) // BLOCK_CHARS * BLOCK_CHARS


def test_a_prompt_that_was_read_is_there_as_far_as_whole_blocks_are_the_same() -> None:
    cache = PrefixCache(100)
    assert cache.match("m", LONG) == 0
    cache.put("m", LONG)
    assert cache.match("m", LONG + "more") == WHOLE
    assert cache.match("m", LONG[:BLOCK_CHARS] + "x" * 100) == BLOCK_CHARS
    assert cache.match("m", "x" + LONG) == 0
    assert cache.match("n", LONG) == 0
    assert cache.hits == {"m": WHOLE + BLOCK_CHARS, "n": 0}
    assert cache.queries["n"] == len(LONG)


def test_the_ends_of_what_was_not_used_for_long_go_first() -> None:
    cache = PrefixCache(20)
    cache.put("m", LONG[: 12 * BLOCK_CHARS])
    cache.put("m", "y" * 12 * BLOCK_CHARS)
    assert cache.match("m", "y" * 12 * BLOCK_CHARS) == 12 * BLOCK_CHARS
    assert cache.match("m", LONG) == 8 * BLOCK_CHARS


def test_without_blocks_it_is_switched_off() -> None:
    cache = PrefixCache(0)
    cache.put("m", LONG)
    assert (cache.match("m", LONG), cache.queries) == (0, {})
