"""The sum of what a node holds: shares of keys, and a count that is zero when all is given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import MemoryFull, RequestError, TooMuchInFlight
from hierarchy.relay.held_bytes import HeldBytes


def test_without_a_key_all_of_the_limit_may_be_used() -> None:
    held = HeldBytes(100)
    held.take("", 100)
    with pytest.raises(MemoryFull, match="the 100 bytes that this node may hold"):
        held.take("", 1)
    assert held.total == 100
    assert held.refused == 1


def fill(held: HeldBytes, key: str) -> int:
    """Take as much as the key may hold. Returns the bytes."""
    size = 0
    while True:
        try:
            held.take(key, 1)
        except TooMuchInFlight:
            return size
        size += 1


def test_one_key_alone_gets_half_and_beside_another_one_a_third() -> None:
    held = HeldBytes(90)
    assert fill(held, "a") == 45
    assert fill(held, "b") == 23  # until as much as it has is left
    held.give_back("a", 15)
    assert fill(held, "b") + 23 == 30
    assert fill(held, "a") == 0


def test_a_refusal_counts_nothing() -> None:
    held = HeldBytes(10)
    held.take("a", 5)
    with pytest.raises(TooMuchInFlight):
        held.take("a", 1)
    assert held.total == 5
    held.give_back("a", 5)
    assert repr(held) == "<HeldBytes 0 of 10, 0 keys>"


def test_what_is_in_memory_already_is_counted_beyond_the_limit() -> None:
    held = HeldBytes(10)
    held.change(11)
    assert held.is_full
    held.change(-11)
    assert not held.is_full


@given(
    st.integers(0, 200),
    st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 60), st.booleans()), max_size=40),
)
def test_the_count_balances(limit: int, steps: list[tuple[str, int, bool]]) -> None:
    """After any takes and returns the sum is what is out, and in the end nothing is, of no key either."""
    held, out, refused = HeldBytes(limit), list[tuple[str, int]](), 0
    for key, size, returns in steps:
        if returns and out:
            held.give_back(*out.pop())
            continue
        try:
            held.take(key, size)
        except RequestError:
            refused += 1
        else:
            out.append((key, size))
            assert held.total <= limit
        assert held.total == sum(size for _, size in out)
    assert held.refused == refused
    for key, size in out:
        held.give_back(key, size)
    assert repr(held) == f"<HeldBytes 0 of {limit}, 0 keys>"
