"""The line at the end of a run that says what was not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.skips import not_tested

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[1]
TESTS = """
import pytest
from tests.skips import missing

needs_it = pytest.mark.skipif(True, reason=missing("nginx", "nginx-light"))

@needs_it
def test_one(): ...

@needs_it
def test_two(): ...

@pytest.mark.slow
def test_three(): ...

def test_four(): ...
"""
NO_NGINX = "2 tests (nginx not installed; Debian: apt install nginx-light)"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest('pytest_plugins = ["tests.skips"]')
    pytester.makeini("[pytest]\naddopts = -q --strict-markers\nmarkers =\n    slow: takes long")
    pytester.makepyfile(TESTS)
    return pytester


def test_the_line_is_above_the_closing_line(project: pytest.Pytester) -> None:
    lines = project.runpytest_subprocess("--quick", "-rs", "-n", "1", "-p", "no:hypothesispytest").outlines
    assert lines[-2:-1] == [f"not tested: {NO_NGINX}, 1 test (slow; make test-all runs them)"]
    assert lines[-1].startswith("1 passed, 3 skipped in ")


def test_slow_tests_run_unless_they_are_left_out(project: pytest.Pytester) -> None:
    lines = project.runpytest_inprocess().outlines
    assert lines[-2:-1] == [f"not tested: {NO_NGINX}"]
    assert lines[-1].startswith("2 passed, 2 skipped in ")


def test_no_line_without_skipped_tests() -> None:
    assert not_tested([]) == ""
