"""Long work that runs to its end at once."""

from __future__ import annotations

import pytest

from hierarchy.runtime.steps import Steps, at_once


def work(steps: int) -> Steps[int]:
    for _ in range(steps):
        yield
    return 10 // steps


def test_work_at_once_has_its_result() -> None:
    assert at_once(work(5)) == 2


def test_an_error_of_the_work_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        at_once(work(0))
