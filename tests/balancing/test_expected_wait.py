"""How long a request would wait: formulas as a table, and what is measured of requests that end."""

from __future__ import annotations

import pytest

from hierarchy.balancing.expected_wait import Residence, expected_wait_s, wait_at
from hierarchy.registry.child import Child, Share
from tests.builders import OPENAI


@pytest.mark.parametrize(
    ("load", "slots", "residence_s", "wait_s"),
    [
        (7, 8, 60, 0),  # a slot is free
        (8, 8, 4, 0.5),  # two of them end each second
        (16, 8, 8, 4.5),
        (0, 0, 5, 0),
    ],
)
def test_measured_ends_replace_the_guess(load: int, slots: int, residence_s: float, wait_s: float) -> None:
    assert expected_wait_s(load, slots, 1, 0, residence_s) == wait_s


def test_the_journey_and_a_model_that_has_to_be_loaded_are_part_of_it() -> None:
    share = Share(Child("c", "http://c:1", "vllm"), OPENAI)
    assert wait_at(share) == 0
    share.child.round_trip.note(0.1, 0.0)
    share.load_s = 20.0
    assert wait_at(share) == pytest.approx(20.1)


def test_a_measured_engine_reads_as_fast_as_it_was_seen_to() -> None:
    share = Share(Child("c", "http://c:1", "vllm"), OPENAI)
    share.pending, share.speed = 64_000, 2.0
    assert wait_at(share) == 1
    share.prefill = 32_000.0  # tokens/s
    assert wait_at(share) == 0.5
    share.child.kind = "node"
    assert wait_at(share) == 1


def test_a_residence_is_what_littles_law_says() -> None:
    residence = Residence(0.0, 0)
    assert residence.seconds == 0
    for second in range(1, 121):  # eight at a time, two end each second
        residence.note(second, 8, 2 * second)
    assert residence.seconds == pytest.approx(4.0)
    for second in range(121, 400):
        residence.note(second, 8, 240 + 8 * (second - 120))
    assert residence.seconds == pytest.approx(1.0, rel=0.01)


def test_where_no_request_ends_any_more_the_next_end_is_not_near() -> None:
    residence = Residence(0.0, 0)
    for second in range(1, 100):
        residence.note(second, 2, 20 * second)
    assert expected_wait_s(2, 2, 1, 0, residence.seconds, residence.quiet_s) < 0.1
    for second in range(100, 105):  # two long ones have come
        residence.note(second, 2, 20 * 99)
    assert residence.quiet_s == 5
    assert expected_wait_s(2, 2, 1, 0, residence.seconds, residence.quiet_s) == 5
    residence.note(105, 2, 20 * 99 + 1)
    assert residence.quiet_s == 0


def test_nothing_is_concluded_from_no_end_and_an_idle_child_keeps_what_is_known() -> None:
    residence = Residence(0.0, 7)
    residence.note(0.0, 3, 7)
    residence.note(50.0, 3, 7)
    assert residence.seconds == 0
    residence.note(51.0, 3, 10)
    known = residence.seconds
    assert known > 0
    for second in range(60, 2000, 10):
        residence.note(second, 0, 10)
    assert residence.seconds == pytest.approx(known)
