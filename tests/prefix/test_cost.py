"""The cost of a child: one formula, as a table."""

from __future__ import annotations

import pytest

from hierarchy.prefix.cost import FULL, MOST_WEIGHT, common, cost, slot_score, weight


@pytest.mark.parametrize(
    ("least_wait", "expected"), [(0, 2.0), (4000, 2.5), (8000, 3.0), (32_000, 6.0), (1e9, MOST_WEIGHT)]
)
def test_a_match_weighs_more_the_longer_the_shortest_queue_is(least_wait: float, expected: float) -> None:
    assert weight(least_wait) == expected


@pytest.mark.parametrize(
    ("wait", "match", "score", "distance", "expected"),
    [
        (0, 0, 0, 0, 0),
        (1000, 0, 0, 0, 1000),  # bytes that wait
        (0, 1000, 0, 0, -2000),  # a match saves them twice
        (0, 0, 3, 0, 3600),  # requests that run
        (0, 0, 0, 500, 500),  # the way there
        (9000, 4000, 1, 100, 2300),
    ],
)
def test_the_terms_of_the_cost(wait: float, match: int, score: float, distance: float, expected: float) -> None:
    assert cost(wait, match, score, 2.0, distance) == expected


@pytest.mark.parametrize(
    ("matches", "children", "expected"),
    [
        ([], 4, 0),
        ([4000], 2, 0),  # one of two: all that there is to choose by
        ([4000, 1000], 2, 1000),
        ([4000, 1000], 5, 1000),  # a third of them
        ([4000, 3000, 1000], 6, 3000),
        ([4000, 3000, 1000], 7, 1000),
        ([4000, 3000, 1000], 10, 0),
        ([1000] * 11, 1000, 0),
        ([1000] * 12, 1000, 1000),  # no more are remembered
    ],
)
def test_what_many_have_decides_nothing(matches: list[int], children: int, expected: int) -> None:
    assert common(matches, children) == expected


@pytest.mark.parametrize(
    ("load", "slots", "speed", "expected"),
    [(0, 4, 1, 0), (3, 4, 1, 22.5), (4, 4, 1, 40.0), (4, 4, 4, 32.5), (7, 4, 2, 50.0), (1, 8, 4, 3.75)],
)
def test_a_free_slot_costs_less_than_any_queue(load: int, slots: int, speed: float, expected: float) -> None:
    assert slot_score(load, slots, speed) == expected
    assert (slot_score(load, slots, speed) < FULL) is (load < slots)
