"""The hit rate of a cache is that of the last minute or two in which there were prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.registry.hit_rate import WINDOW_S, HitRate


def test_what_was_before_the_first_look_does_not_count() -> None:
    rate = HitRate()
    assert rate.value is None
    rate.observe(0, 500, 1000)
    assert rate.value is None
    rate.observe(1, 590, 1100)
    assert rate.value == 0.9


def test_old_prompts_do_not_count_but_the_last_ones_stay_known() -> None:
    rate = HitRate()
    for second in range(300):
        rate.observe(second, 0, 10 * second)
    for second in range(300, 300 + 2 * round(WINDOW_S) + 2):
        rate.observe(second, 10 * (second - 299), 10 * second)
    assert rate.value == pytest.approx(1, abs=0.02)
    cached, whole = 10.0 * (second - 299), 10.0 * second
    for later in range(1, 1000, 10):
        rate.observe(second + later, cached, whole)
    assert rate.value == pytest.approx(1, abs=0.02)


def test_an_engine_that_was_started_anew_counts_from_the_start() -> None:
    rate = HitRate()
    rate.observe(0, 500, 1000)
    rate.observe(1, 600, 1100)
    rate.observe(2, 10, 40)
    assert rate.value == 0.25


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_it_is_a_part_of_all(steps: list[tuple[float, int, int]]) -> None:
    rate, now, cached, whole = HitRate(), 0.0, 0, 0
    for passed, hits, misses in steps:
        now, cached, whole = now + passed, cached + hits, whole + hits + misses
        rate.observe(now, cached, whole)
        assert rate.value is None or 0 <= rate.value <= 1
