"""Equal warnings become one line with their number."""

from __future__ import annotations

import logging

import pytest

from hierarchy.relay.warnings import EVERY_S, MAX_KINDS, Warnings
from tests.clocks import Clock


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.WARNING, "hierarchy.lane")

    class Lines(list[str]):
        def __eq__(self, other: object) -> bool:
            found = [record.getMessage() for record in caplog.records]
            caplog.clear()
            return found == other

        __hash__ = None

    return Lines()


def test_the_first_is_written_at_once_and_the_others_as_a_number(lines: list[str]) -> None:
    clock = Clock()
    warnings = Warnings(clock)
    for _ in range(666):
        warnings.warn("%s is late by %d%%", "e1", 50)
    assert lines == ["e1 is late by 50%"]
    warnings.warn("e2 is late")
    assert lines == ["e2 is late"]
    clock.tick(EVERY_S - 0.1)
    warnings.sweep()
    assert lines == []
    clock.tick(0.1)
    warnings.sweep()
    assert lines == ["e1 is late by 50% (665 more times)"]
    warnings.warn("e2 is late")
    assert lines == ["e2 is late"]  # it is a new event


def test_a_fault_that_goes_on_is_one_line_in_each_interval(lines: list[str]) -> None:
    clock = Clock()
    warnings = Warnings(clock)
    warnings.warn("e1 is late")
    assert lines == ["e1 is late"]
    for _ in range(3):
        for _ in range(10):
            warnings.warn("e1 is late")
        clock.tick(EVERY_S)
        warnings.sweep()
        assert lines == ["e1 is late (10 more times)"]
    clock.tick(EVERY_S)
    warnings.sweep()
    clock.tick(EVERY_S)
    warnings.sweep()
    warnings.warn("e1 is late")
    assert lines == ["e1 is late"]


def test_no_count_is_lost_at_the_end_and_the_memory_is_bounded(lines: list[str]) -> None:
    warnings = Warnings(Clock())
    warnings.warn("a")
    warnings.warn("a")
    warnings.flush()
    assert lines == ["a", "a (1 more times)"]
    warnings.warn("a")
    warnings.warn("a")
    for number in range(MAX_KINDS):
        warnings.warn("kind %d", number)
    assert warnings.kinds <= MAX_KINDS
    expected = [
        "a",
        *[f"kind {number}" for number in range(MAX_KINDS - 1)],
        "a (1 more times)",
        f"kind {MAX_KINDS - 1}",
    ]
    assert lines == expected
