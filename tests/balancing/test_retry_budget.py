"""How many retries may be in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.retry_budget import FLOOR, SHARE, WINDOW_S, RetryBudget
from tests.builders import Clock


@pytest.mark.parametrize(("in_flight", "allowed"), [(0, FLOOR), (10, FLOOR), (60, FLOOR), (120, 20), (600, 100)])
def test_a_floor_and_then_a_share(in_flight: int, allowed: int) -> None:
    budget = RetryBudget(Clock())
    taken = 0
    budget.take(0, 0)
    budget.give_back()
    while budget.take(in_flight, 10**6):
        taken += 1
    assert taken == budget.active == allowed
    budget.give_back()
    assert budget.take(in_flight, 10**6)


def test_bursts_get_no_floor_each() -> None:
    """In flight is nothing whenever one begins, and yet no more than a fifth of all is tried again."""
    clock = Clock()
    budget = RetryBudget(clock)
    sent = retried = 0
    for _ in range(500):
        for number in range(40):
            sent += 1
            if budget.take(number + 1, sent):
                retried += 1
                sent += 1
        while budget.active:
            budget.give_back()
        clock.tick(0.2)
    assert retried / (sent - retried) < 1.1 * SHARE


@given(st.integers(0, 500), st.lists(st.booleans(), max_size=300))
def test_it_never_goes_over(in_flight: int, steps: list[bool]) -> None:
    budget = RetryBudget(Clock())
    for take in steps:
        if take:
            budget.take(in_flight, 10**6)
        elif budget.active:
            budget.give_back()
        assert 0 <= budget.active <= max(FLOOR, SHARE * in_flight)


def test_trouble_is_many_retries_in_a_short_time_and_ends_by_itself() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(100):  # one now and then is none
        budget.note(1)
        clock.tick(WINDOW_S / 5)
    assert not budget.troubled
    for _ in range(FLOOR):
        budget.note(1)
    assert budget.troubled
    clock.tick(WINDOW_S / 2)
    budget.calm_down()
    assert budget.troubled
    budget.note(1)
    clock.tick(WINDOW_S * 0.9)
    budget.calm_down()
    assert budget.troubled  # retries went on
    clock.tick(WINDOW_S)
    budget.calm_down()
    assert not budget.troubled
