"""File operations in threads of their own: one that never ends holds up its own file and nothing else."""

from __future__ import annotations

import asyncio
import errno
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hierarchy.runtime.blocking import AT_ONCE, Trouble, silent_paths
from hierarchy.runtime.disk import MAX_WAITING, Disk, FileThread
from tests.support import at_once, eventually_async

SHORT_S = 0.05
FILE = Path("/state/state.json")
STUCK = "has not answered for 0 s, as on a hung mount"


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 30.0))

    return run


class Hang:
    """An operation that ends when it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self._end = threading.Event()

    def __call__(self) -> int:
        self.times += 1
        assert self._end.wait(10)
        return self.times

    def end(self) -> None:
        """Let it end."""
        self._end.set()


@pytest.fixture
def hang() -> Iterator[Hang]:
    made = Hang()
    yield made
    made.end()


@pytest.fixture
def file() -> FileThread:
    return FileThread(FILE, "nothing is saved")


def fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@in_loop
async def test_the_result_or_the_error_of_an_operation_comes_from_another_thread(file: FileThread) -> None:
    assert await file.run(threading.current_thread) is not threading.current_thread()
    with pytest.raises(OSError, match="No space left"):
        await file.run(fail)
    assert await file.run(lambda: 5) == 5


@in_loop
async def test_operations_on_a_file_run_one_at_a_time_and_in_their_order(file: FileThread) -> None:
    running, seen = 0, []

    def work(number: int) -> None:
        nonlocal running
        running += 1
        assert running == 1
        seen.append(number)
        running -= 1

    await asyncio.gather(*(file.run(lambda number=number: work(number)) for number in range(50)))  # type: ignore[misc]
    assert seen == list(range(50))


@in_loop
async def test_an_operation_that_does_not_end_fails_is_said_once_and_holds_one_thread(
    file: FileThread, hang: Hang, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())  # some of which may end meanwhile
    for _ in range(20):
        with pytest.raises(TimeoutError) as caught:
            await file.run(hang, SHORT_S)
        assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, str(FILE))
    file.begin(hang)
    await asyncio.sleep(0)
    assert len(set(threading.enumerate()) - before) == 1
    assert hang.times == 1
    (line,) = caplog.messages
    assert line == f"{FILE}: its file system {STUCK}; nothing is saved"
    hang.end()
    await eventually_async(lambda: not file.problem, "the file to answer")
    assert "answers again after" in caplog.messages[-1]
    assert await file.run(lambda: 5) == 5
    assert len(caplog.messages) == 2


@in_loop
async def test_an_operation_whose_caller_gave_up_before_it_began_is_left_out(file: FileThread, hang: Hang) -> None:
    first = asyncio.create_task(file.run(hang))
    await asyncio.sleep(0)
    ran: list[int] = []
    second = asyncio.create_task(file.run(lambda: ran.append(2)))
    await asyncio.sleep(0)
    second.cancel()
    hang.end()
    assert await first == 1
    await file.run(lambda: ran.append(3))
    assert ran == [3]


@in_loop
async def test_what_waits_for_a_file_is_bounded(file: FileThread, hang: Hang) -> None:
    tasks = [asyncio.create_task(file.run(hang)) for _ in range(MAX_WAITING + 1)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError, match="too many operations"):
        await file.run(hang)
    hang.end()
    await asyncio.gather(*tasks)


@in_loop
async def test_a_long_queue_is_no_stuck_file(file: FileThread, hang: Hang, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [asyncio.create_task(file.run(hang)) for _ in range(2)]
    await asyncio.sleep(0)
    file._began_at += 100  # the one that runs has just begun
    with pytest.raises(TimeoutError, match="it is late"):
        await file.run(hang, SHORT_S)
    assert (file.problem, caplog.messages) == ("", [])
    hang.end()
    await asyncio.gather(*tasks)


@in_loop
async def test_a_stuck_file_stops_no_other_and_is_shown_to_operators(hang: Hang) -> None:
    disk = Disk()
    stuck, other = disk.file(FILE, "nothing is saved"), disk.file(Path("/keys.yaml"), "no key is read")
    assert disk.file(FILE, "again") is stuck
    with pytest.raises(TimeoutError):
        await stuck.run(hang, SHORT_S)
    assert await other.run(lambda: 5) == 5
    assert disk.warnings() == [f"{FILE}: its file system {STUCK}"]


@in_loop
async def test_an_error_of_the_operation_that_looks_like_a_late_one_is_passed_on(file: FileThread) -> None:
    def locked() -> None:
        raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked")

    with pytest.raises(TimeoutError, match="keeps it locked"):
        await file.run(locked)
    assert file.problem == ""


def test_a_process_ends_although_an_operation_does_not() -> None:
    code = (
        "import asyncio, time; from pathlib import Path; from hierarchy.runtime.disk import FileThread\n"
        "asyncio.run(FileThread(Path('x'), '').run(lambda: time.sleep(60), 0.05))"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=10, check=False)
    assert b"TimeoutError" in done.stderr


def test_programs_that_do_nothing_else_run_operations_at_once() -> None:
    assert at_once(AT_ONCE.run(threading.current_thread)) is threading.current_thread()


def test_a_file_that_cannot_be_written_is_said_once_for_each_reason_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trouble = Trouble(FILE)
    for _ in range(5):
        trouble.note(OSError(errno.ENOSPC, "No space left on device"), "nothing is saved")
    trouble.note(OSError(errno.EROFS, "Read-only file system"), "nothing is saved")
    trouble.over()
    trouble.over()
    assert caplog.messages == [
        f"{FILE}: cannot be written (No space left on device); nothing is saved",
        f"{FILE}: cannot be written (Read-only file system); nothing is saved",
        f"{FILE}: can be written again; 6 attempts had failed",
    ]


def test_paths_that_answer(tmp_path: Path) -> None:
    assert silent_paths([tmp_path, tmp_path / "missing", Path("/proc/1/root")], 5.0) == []
