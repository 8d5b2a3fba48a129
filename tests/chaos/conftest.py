"""`pytest tests/chaos --full` runs each fault as long as its target requires; otherwise each takes a few seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.chaos import holds
from tests.chaos.hogs import Hogs
from tests.chaos.processes import Processes

Record = Callable[..., None]
FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run tests/chaos as long as the targets require")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether `--full` was given."""
    return bool(pytestconfig.getoption("--full", default=False))


@pytest.fixture(scope="session")
def all_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("chaos")) as running:
        yield running


@pytest.fixture
def processes(all_processes: Processes, full: bool, record: Record) -> Iterator[Processes]:
    """The processes of one test. They are ended after it; no log has a defect, and no step took too long."""
    before = len(all_processes.processes)
    yield all_processes
    started = all_processes.processes[before:]
    del all_processes.processes[before:]
    for process in started:
        process.resume()
    longest = [process.longest_hold() for process in started]
    if any(hold.seconds for hold in longest):  # else there is no node
        record(str(max(longest)), target=f"{1000 * holds.MOST_S:.0f} ms")
    errors = {process.name: lines for process in started if (lines := process.error_lines())}
    for process in started:
        process.kill()
        process.log.unlink(missing_ok=True)
    assert errors == {}
    holds.check(longest, holds.MOST_S if full else holds.SHORT_S)


@pytest.fixture
def hogs() -> Iterator[Hogs]:
    """Every core is busy during the test."""
    with Hogs() as running:
        yield running


@pytest.fixture
def record(request: pytest.FixtureRequest, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> Record:
    """A function that records what was measured, and its target. All figures are shown when the session ends."""
    lines = pytestconfig.stash.setdefault(FIGURES, [])

    def add(text: str, *, target: str = "") -> None:
        name = request.node.name.removeprefix("test_")
        lines.append(f"{name:44} {text}" + (f"   (target: {target})" if target else ""))
        if pytestconfig.getoption("--full", default=False):  # also at once, since the last test takes ten minutes
            with capsys.disabled():
                sys.stderr.write(f"\n{lines[-1]}\n")

    return add


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(FIGURES, []):  # none in a run with several processes of pytest
        terminalreporter.write_line(line)
