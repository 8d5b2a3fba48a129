"""Signs of life: when an engine is late, and when it is dead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.engines.vitals import BAD_ANSWERS, DEATH_S, LATE_S, MAX_DEATH_S, UNANSWERED, Vitals, death_s


@pytest.mark.parametrize(("requests", "expected"), [(0, 10), (8, 12), (40, 20), (200, 60), (10**9, 60)])
def test_a_busy_engine_may_be_silent_for_longer(requests: int, expected: float) -> None:
    assert death_s(requests) == expected


def test_a_probe_is_late_only_without_any_sign_since() -> None:
    vitals = Vitals(0.0)
    assert not vitals.is_late(LATE_S - 0.1, 0.0)
    assert vitals.is_late(LATE_S, 0.0)
    assert vitals.see(2.0, signs=1)
    assert not vitals.is_late(LATE_S, 0.0)
    assert vitals.is_late(2.0 + LATE_S, 0.0)


def test_the_same_count_is_no_sign() -> None:
    vitals = Vitals(0.0, signs=7)
    assert not vitals.see(5.0, signs=7)
    assert vitals.alive_at == 0.0


def test_a_death_takes_a_time_and_several_probes() -> None:
    vitals = Vitals(0.0)
    assert not vitals.is_dead(DEATH_S, waiting=UNANSWERED - 1, requests=0)
    vitals.give_up()
    assert vitals.is_dead(DEATH_S, waiting=UNANSWERED - 1, requests=0)
    assert not vitals.is_dead(DEATH_S - 0.1, waiting=UNANSWERED, requests=0)
    vitals.see(DEATH_S, signs=1)
    assert not vitals.is_dead(2 * DEATH_S, waiting=UNANSWERED - 1, requests=0)  # those before the sign do not count


def test_bad_answers_in_a_row_and_no_others_count() -> None:
    vitals = Vitals(0.0)
    for _ in range(BAD_ANSWERS - 1):
        assert not vitals.answered_badly()
    vitals.answered(1.0, signs=0)
    for _ in range(BAD_ANSWERS - 1):
        assert not vitals.answered_badly()
    assert vitals.answered_badly()


@given(st.lists(st.floats(0.01, 2.4), max_size=200), st.integers(0, 1000))
def test_an_engine_with_a_sign_of_life_now_and_then_is_never_late_or_dead(gaps: list[float], requests: int) -> None:
    vitals, now = Vitals(0.0), 0.0
    for count, gap in enumerate(gaps, start=1):
        now += gap
        assert not vitals.is_late(now, 0.0)
        assert not vitals.is_dead(now, UNANSWERED, requests)
        vitals.see(now, count)


@given(st.integers(0, 10**6))
def test_an_engine_without_one_is_dead_within_a_minute(requests: int) -> None:
    assert Vitals(0.0).is_dead(MAX_DEATH_S, UNANSWERED, requests)
