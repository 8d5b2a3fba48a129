"""How many retries may be in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.balancing.retry_budget import FLOOR, SHARE, WINDOW_S, RetryBudget, allows
from tests.clocks import Clock


@pytest.mark.parametrize(
    ("retries", "first_attempts", "allowed"),
    [(0, 0, True), (9, 0, True), (10, 0, False), (10, 54, False), (10, 55, True), (19, 100, True), (20, 100, False)],
)
def test_a_fixed_number_is_always_allowed_and_beyond_it_a_share(
    retries: int, first_attempts: int, allowed: bool
) -> None:
    assert allows(retries, first_attempts) is allowed


@pytest.mark.parametrize(("in_flight", "allowed"), [(0, FLOOR), (10, FLOOR), (60, FLOOR), (120, 20), (600, 100)])
def test_retries_in_flight_are_counted(in_flight: int, allowed: int) -> None:
    budget = RetryBudget(Clock())
    taken = 0
    budget.take(0, 0)
    budget.give_back()
    while budget.take(in_flight, 10**6):
        taken += 1
    assert taken == budget.active == allowed
    budget.give_back()
    assert budget.take(in_flight, 10**6)


def test_bursts_do_not_each_get_the_fixed_number() -> None:
    """Nothing is in flight when a burst begins, and yet at most a fifth of all requests is retried."""
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
def test_the_limit_is_never_exceeded(in_flight: int, steps: list[bool]) -> None:
    budget = RetryBudget(Clock())
    for take in steps:
        if take:
            budget.take(in_flight, 10**6)
        elif budget.active:
            budget.give_back()
        assert 0 <= budget.active <= max(FLOOR, SHARE * in_flight)


def test_many_retries_in_a_short_time_are_trouble_until_they_stop() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(100):  # rare retries are no trouble
        budget.note(1)
        clock.tick(WINDOW_S / 5)
    assert not budget.troubled
    for _ in range(FLOOR):
        budget.note(1)
    assert budget.troubled
    clock.tick(WINDOW_S / 2)
    budget.end_trouble()
    assert budget.troubled
    budget.note(1)
    clock.tick(WINDOW_S * 0.9)
    budget.end_trouble()
    assert budget.troubled  # retries continued
    clock.tick(WINDOW_S)
    budget.end_trouble()
    assert not budget.troubled
