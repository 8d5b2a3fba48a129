"""A pytest plugin: one line at the end says which tests did not run, why, and what to install for them.

`--quick` leaves out the tests marked `slow`, as `make test` does. It skips rather than deselects them, so that pytest
counts them in its closing line, with processes of pytest-xdist too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable

import pytest

SLOW = "slow; make test-all runs them"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        for item in items:
            if item.get_closest_marker("slow"):
                # In front, so that this is the reason even where a program is missing too.
                item.add_marker(pytest.mark.skipif(True, reason=SLOW), append=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Write the line behind all other summaries and above pytest's closing line, which stays the last one."""
    yield
    line = not_tested(reason_of(report) for report in terminalreporter.stats.get("skipped", []))
    if line:
        terminalreporter.ensure_newline()
        terminalreporter.write_line(line, yellow=True)


def missing(programs: str, packages: str) -> str:
    """The reason to skip a test that needs these programs, which are in these packages of Debian."""
    return f"{programs} not installed; Debian: apt install {packages}"


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped, as its `skip` or `skipif` says."""
    found = report.longrepr
    text = found[2] if isinstance(found, tuple) else str(found)
    return text.removeprefix("Skipped: ")


def not_tested(reasons: Iterable[str]) -> str:
    """One line for all skipped tests, the most frequent reason first; "" if there are none."""
    counts = Counter(reasons)
    parts = [f"{count} {'test' if count == 1 else 'tests'} ({reason})" for reason, count in counts.most_common()]
    return f"not tested: {', '.join(parts)}" if parts else ""
