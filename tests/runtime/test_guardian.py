"""The guardian of a command: real processes, none of which is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hierarchy.runtime import guardian
from hierarchy.runtime.processes import SupervisedProcess
from tests.support import DEADLINE_S, eventually

#: a shell that starts another process, and waits for it; both ignore nothing
COMMAND = 'sleep 60 & echo $$ $! > "$0"; wait'


def guarded(*command: str) -> list[str]:
    return [sys.executable, "-m", guardian.__name__, *command]


def pids(file: Path) -> list[int]:
    eventually(lambda: file.exists() and len(file.read_text().split()) == 2)
    return [int(pid) for pid in file.read_text().split()]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(guarded(*command), stdin=subprocess.PIPE, start_new_session=True)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", ["parent dies", "SIGTERM", "SIGKILL to the group"])
def test_nothing_is_left(tmp_path: Path, how: str) -> None:
    file = tmp_path / "pids"
    process = start("/bin/sh", "-c", COMMAND, str(file))
    running = pids(file)
    assert all(map(is_alive, running))
    if how == "parent dies":
        assert process.stdin is not None
        process.stdin.close()
    elif how == "SIGTERM":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE_S)
    eventually(lambda: not any(map(is_alive, running)))


@pytest.mark.parametrize(("command", "status"), [("exit 3", 3), ("kill -9 $$", 128 + 9), ("exit 0", 0)])
def test_the_status_is_the_commands(command: str, status: int) -> None:
    process = start("/bin/sh", "-c", command)
    assert process.wait(DEADLINE_S) == status


def test_a_program_that_does_not_exist_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert start("/no/such/program").wait(DEADLINE_S) == guardian.CANNOT_START
    assert capfd.readouterr().err == "cannot start /no/such/program: No such file or directory\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_what_a_command_left_running_is_killed_when_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    command = guarded("/bin/sh", "-c", 'sleep 60 & echo $$ $! > "$0"; exit 4', str(file))
    process = SupervisedProcess("gpu", command, lambda name, line: None, fatal=frozenset(), once=True)

    async def run() -> int | None:
        async with asyncio.timeout(DEADLINE_S):
            return await process.run()

    assert asyncio.run(run()) == 4
    assert process.starts == 1
    eventually(lambda: not any(map(is_alive, pids(file))))
