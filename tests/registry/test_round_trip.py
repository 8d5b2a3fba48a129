"""How far away a child is, whatever keeps it busy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hierarchy.registry.round_trip import LEAST_SAMPLES, STEP_S, WINDOW_S, RoundTrip


def measured(*samples: float, every_s: float = 1.0) -> RoundTrip:
    trip = RoundTrip()
    for number, sample in enumerate(samples):
        trip.note(sample, number * every_s)
    return trip


def test_before_the_first_sample_it_is_unknown_and_counts_nothing() -> None:
    trip = RoundTrip()
    assert not trip.is_known
    assert trip.counted == 0


def test_a_late_response_moves_nothing() -> None:
    trip = measured(0.020, 3.0, 0.021, 0.9)
    assert (trip.seconds, trip.shown, trip.counted) == (0.020, 0.020, 0.020)


def test_a_busy_child_does_not_look_far_away_for_a_minute() -> None:
    trip = measured(*[0.001] * 30, *[0.4] * 55)
    assert trip.seconds == 0.001


def test_a_longer_path_counts_in_the_end_and_a_shorter_one_at_once() -> None:
    trip = measured(*[0.001] * 30, *[0.1] * 100)
    assert (trip.seconds, trip.counted) == (0.1, 0.1)
    trip.note(0.030, 200)
    assert (trip.seconds, trip.counted) == (0.030, 0.030)


def test_a_few_samples_make_no_window() -> None:
    trip = measured(0.001, 0.5, 0.5, 0.5, every_s=WINDOW_S)
    assert trip.seconds == 0.001


def test_neighbours_are_equally_near() -> None:
    assert measured(0.0003).counted == measured(0.0021).counted == 0


def test_what_is_shown_does_not_follow_noise() -> None:
    trip = measured(0.020, 0.019, 0.018, 0.0165)
    assert (trip.seconds, trip.shown) == (0.0165, 0.020)
    trip.note(0.010, 5)
    assert trip.shown == 0.010


def test_a_clock_that_was_held_makes_no_negative_time() -> None:
    assert measured(-0.1).seconds == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), min_size=1, max_size=200))
def test_it_is_never_below_the_least_sample_nor_above_the_least_of_the_last_window(
    steps: list[tuple[float, float]],
) -> None:
    trip, now = RoundTrip(), 0.0
    seen: list[tuple[float, float]] = []
    for sample, pause in steps:
        now += pause
        trip.note(sample, now)
        seen.append((now, sample))
    last = [sample for at, sample in seen if now - at <= WINDOW_S][-LEAST_SAMPLES:]
    assert min(sample for _, sample in seen) <= trip.seconds <= max(last)
    assert abs(trip.counted - trip.shown) <= STEP_S
