"""Rates in tokens/s from what passes, and the speed that follows from them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.registry.rates import DECODE, FIRST, LEAST, LEAST_CHUNKS, MOST, PREFILL, READ_BYTES, Rate, Rates


def reading(rates: Rates, tokens_per_s: float, prompts: int, tokens: int = 4000, at: float = 0.0) -> float:
    """So many streams one after the other. Returns when the last one began."""
    for _ in range(prompts):
        begins = at + tokens / tokens_per_s
        rates.note_first(4 * tokens, at, begins)
        at = begins + 0.5
    return at


def writing(rates: Rates, tokens_per_s: float, streams: int) -> None:
    for _ in range(streams):
        rates.note_end(100, 100 / tokens_per_s)


def test_it_starts_from_what_is_declared() -> None:
    assert (Rates(2.0).speed, Rates(2.0).publish(), Rates(2.0).samples) == (2.0, 2.0, 0)


@pytest.mark.parametrize("true", [0.02, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("start", [0.1, 1.0])
def test_a_few_requests_show_the_speed_and_many_show_it_well(true: float, start: float) -> None:
    rates = Rates(start)
    reading(rates, true * PREFILL, 8)
    writing(rates, true * DECODE, 8)
    assert rates.speed == pytest.approx(true, rel=0.75)
    reading(rates, true * PREFILL, 100)
    writing(rates, true * DECODE, 100)
    assert rates.speed == pytest.approx(true, rel=0.1)


def test_only_what_is_measured_counts() -> None:
    written, read = Rates(1.0), Rates(1.0)
    writing(written, 2 * DECODE, 200)
    reading(read, 4 * PREFILL, 200)
    assert [written.speed, read.speed] == pytest.approx([2.0, 4.0], rel=0.05)


def test_a_gpu_that_is_throttled_is_found_out_within_a_hundred_requests() -> None:
    rates = Rates(1.0)
    at = reading(rates, PREFILL, 200)
    writing(rates, DECODE, 200)
    reading(rates, PREFILL / 4, 100, at=at)
    writing(rates, DECODE / 4, 100)
    assert rates.publish() == pytest.approx(0.25, rel=0.15)


def test_one_strange_sample_changes_little() -> None:
    rates = Rates(1.0)
    reading(rates, PREFILL, 50)
    writing(rates, DECODE, 50)
    rates.note_end(1000, 1e-6)
    rates.note_end(1000, 1000.0)
    reading(rates, MOST / 2, 1, at=1e6)  # its prompt was in the cache, which was not known here
    assert rates.speed == pytest.approx(1.0, rel=0.05)
    assert rates.publish() == 1.0


def test_prompts_that_wait_for_each_other_count_once() -> None:
    """Ten prompts of 4,000 tokens come at once: the last one's first byte comes after all have been read."""
    rates, at = Rates(1.0), 0.0
    for round_ in range(20):
        for number in range(10):
            rates.note_first(16_000, at, at + (number + 1) * 4000 / (2 * PREFILL))
        at += 10.0 * (round_ + 1)
    assert rates.prefill.value == pytest.approx(2 * PREFILL, rel=0.05)


def test_prompts_that_are_read_together_count_together() -> None:
    rates = Rates(1.0)
    for round_ in range(100):
        sent = 10.0 * round_
        for _ in range(4):  # one step reads all four, and their first bytes come together
            rates.note_first(16_000, sent, sent + 4 * 4000 / PREFILL)
    assert rates.prefill.value == pytest.approx(PREFILL, rel=0.1)


def test_what_was_cached_and_short_prompts_are_no_samples() -> None:
    rates = Rates(1.0)
    rates.note_first(0, 0.0, 0.01)
    rates.note_first(READ_BYTES - 1, 1.0, 1.1)
    rates.skip(2.0)
    rates.note_first(READ_BYTES - 1, 3.0, 3.1)
    rates.note_end(LEAST_CHUNKS - 1, 1.0)
    rates.note_end(100, 0.0)
    assert rates.samples == 0


def test_a_small_change_is_not_reported() -> None:
    rates = Rates(1.0)
    writing(rates, 1.08 * DECODE, 500)
    assert rates.publish() == 1.0
    assert rates.speed == pytest.approx(1.08, rel=0.01)
    writing(rates, 1.2 * DECODE, 500)
    assert rates.publish() == pytest.approx(1.2, rel=0.1)


@given(st.lists(st.floats(), max_size=60))
def test_a_rate_stays_a_number_whatever_comes(samples: list[float]) -> None:
    rate = Rate(50.0)
    for sample in samples:
        rate.note(sample)
    assert LEAST <= rate.value <= MOST
    assert rate.samples == sum(LEAST <= sample <= MOST for sample in samples)


@given(st.lists(st.floats(20.0, 80.0), min_size=FIRST + 1, max_size=60), st.integers(0, 9))
def test_a_rate_is_between_its_samples(samples: list[float], seed: int) -> None:
    Random(seed).shuffle(samples)
    rate = Rate(50.0)
    for sample in samples:
        rate.note(sample)
    assert min(50.0, *samples) * 0.999 <= rate.value <= max(50.0, *samples) * 1.001
