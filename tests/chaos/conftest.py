"""`pytest tests/chaos --whole` runs each fault as long as its figure asks for; without it, a few seconds each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.tree import Trees

Figure = Callable[..., None]
FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="the faults of tests/chaos as long as their figures ask for")


@pytest.fixture(scope="session")
def whole(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--whole", default=False))


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    with Trees(tmp_path_factory.mktemp("chaos")) as running:
        yield running


@pytest.fixture
def bed(trees: Trees) -> Iterator[Trees]:
    """Processes of one test: what it started is ended after it, and none may have told of a defect."""
    before = len(trees.processes)
    yield trees
    started = trees.processes[before:]
    del trees.processes[before:]
    for process in started:
        process.wake()
    told = {process.name: lines for process in started if (lines := process.complaints())}
    for process in started:
        process.kill()
        process.log.unlink(missing_ok=True)
    assert told == {}


@pytest.fixture
def figure(request: pytest.FixtureRequest, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> Figure:
    """Notes what was measured; all of it is shown when the session ends."""
    lines = pytestconfig.stash.setdefault(FIGURES, [])

    def note(words: str, *, reach: str = "") -> None:
        name = request.node.name.removeprefix("test_")
        lines.append(f"{name:44} {words}" + (f"   (reach: {reach})" if reach else ""))
        if pytestconfig.getoption("--whole", default=False):  # at once, too: the last of them takes ten minutes
            with capsys.disabled():
                sys.stderr.write(f"\n{lines[-1]}\n")

    return note


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--whole", default=False):
        for line in config.stash.get(FIGURES, []):
            terminalreporter.write_line(line)
