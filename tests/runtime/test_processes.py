"""Child processes: restarts, output, and that none is left behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from hierarchy.runtime.processes import Backoff, LineSplitter, SupervisedProcess, describe_exit
from tests.support import eventually_async

QUICK = Backoff(first_s=0.01, max_s=0.05)
DEADLINE_S = 20.0
eventually = partial(eventually_async, deadline_s=DEADLINE_S)
PROC = Path("/proc")

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine on both of the event loops that nodes and commands use."""

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(coroutine)

    return runner


class Lines(list[str]):
    """What a process printed; `until` waits for a line, with a deadline."""

    def __call__(self, name: str, line: str) -> None:
        self.append(line)

    async def until(self, text: str, count: int = 1) -> None:
        await eventually(lambda: sum(text in line for line in self) >= count)


def script(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that its parent has not reaped yet does not."""
    try:
        os.kill(pid, 0)
        return not PROC.exists() or (PROC / str(pid) / "stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# pure functions


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 10.0), (7, 10.0), (10_000, 10.0)]
)
def test_the_wait_doubles_up_to_its_maximum(failures: int, delay_s: float) -> None:
    assert Backoff().delay_s(failures) == delay_s


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (1, "ended with status 1"),
        (2, "ended with status 2 (it cannot start as configured)"),
        (-9, "was ended by SIGKILL"),
        (-99, "was ended by signal 99"),
    ],
)
def test_the_end_of_a_process_is_described(status: int, text: str) -> None:
    assert describe_exit(status) == text


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(1, 30))
@example(b"\r", [], 1)
def test_lines_do_not_depend_on_how_bytes_arrive(data: bytes, cuts: list[int], max_chars: int) -> None:
    splitter = LineSplitter(max_chars)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    lines = [line for a, b in itertools.pairwise(edges) for line in splitter.feed(data[a:b])]
    lines += splitter.feed(b"", final=True)
    assert all(len(line) <= max_chars for line in lines)
    text = data.decode("utf-8", "replace")
    assert "".join(lines).replace("\r", "") == text.replace("\n", "").replace("\r", "")
    if all(len(line) <= max_chars for line in text.split("\n")):
        assert lines == [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n") if text]


def test_a_long_line_without_an_end_is_passed_on_in_pieces() -> None:
    splitter = LineSplitter(max_chars=10)
    assert list(splitter.feed(b"x" * 25)) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(splitter.feed(b"", final=True)) == []


# real processes


def test_stdout_and_stderr_are_merged_with_a_partial_last_line(run: Runner) -> None:
    async def body() -> None:
        lines = Lines()
        code = "import sys; print('out'); print('err', file=sys.stderr); print('last', end=''); sys.exit(2)"
        child = SupervisedProcess("a", script(code), lines)
        assert await child.run() == 2
        assert lines == ["out", "err", "last"]

    run(body())


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel changes the limits of another process")
def test_a_process_gets_a_limit_of_open_files_of_its_own(run: Runner) -> None:
    own = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def body() -> None:
        lines = Lines()
        code = (
            "import resource, time; limit = lambda: resource.getrlimit(resource.RLIMIT_NOFILE); end = time.time() + 10"
            "\nwhile limit()[0] != 99 and time.time() < end: time.sleep(0.001)"
            "\nprint(*limit()); raise SystemExit(2)"
        )
        await SupervisedProcess("a", script(code), lines, files=99).run()
        assert lines == [f"99 {own[1]}"]

    run(body())
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == own


def test_a_process_does_not_inherit_what_it_must_not_know(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("PUBLIC", "p")

    async def body() -> None:
        lines = Lines()
        code = "import os; print(os.environ.get('SECRET'), os.environ.get('PUBLIC')); raise SystemExit(2)"
        await SupervisedProcess("a", script(code), lines, without={"SECRET"}).run()
        assert lines == ["None p"]

    run(body())


def test_a_process_with_a_usage_error_is_not_restarted(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        child = SupervisedProcess("a", script("raise SystemExit(2)"), Lines(), backoff=QUICK)
        assert await child.run() == 2
        assert child.starts == 1
        assert child.pid is None

    run(body())
    assert "a ended with status 2 (it cannot start as configured) and is not restarted" in caplog.text


def test_a_usage_error_after_a_stable_run_leads_to_a_restart(run: Runner) -> None:
    async def body() -> None:
        now = [0.0]

        def on_line(name: str, line: str) -> None:
            now[0] += 11.0  # each process seems to run for 11 s

        code = "print('hello'); raise SystemExit(2)"
        child = SupervisedProcess("a", script(code), on_line, backoff=QUICK, clock=lambda: now[0])
        task = asyncio.create_task(child.run())
        await eventually(lambda: child.starts >= 3)
        assert await child.stop(5)
        assert await task is None

    run(body())


def test_a_process_that_dies_is_restarted_and_the_reason_logged(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        lines = Lines()
        child = SupervisedProcess(
            "gpu", script("import os, time; print('up', os.getpid()); time.sleep(60)"), lines, backoff=QUICK
        )
        task = asyncio.create_task(child.run())
        await lines.until("up")
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await lines.until("up", count=2)
        assert lines[0] != lines[1]
        assert await child.stop(5)
        assert await task is None

    run(body())
    assert "gpu was ended by SIGKILL after 0." in caplog.text
    assert "gpu: restarting it in 0.01 s" in caplog.text


@pytest.mark.parametrize(("ran_s", "delays"), [(1.0, ["0.01", "0.02", "0.04"]), (10.0, ["0.01", "0.01", "0.01"])])
def test_the_wait_starts_over_after_a_stable_run(
    ran_s: float, delays: list[str], run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        now = [0.0]

        def on_line(name: str, line: str) -> None:
            now[0] += ran_s

        child = SupervisedProcess(
            "a", script("print('hello'); raise SystemExit(1)"), on_line, backoff=QUICK, clock=lambda: now[0]
        )
        task = asyncio.create_task(child.run())
        await eventually(lambda: child.starts >= 4)
        assert await child.stop(5)
        await task

    run(body())
    delays_logged = [record.args for record in caplog.records if "restarting it" in record.msg]
    assert [f"{args[1]:g}" for args in delays_logged if isinstance(args, tuple)][:3] == delays


def test_a_process_that_cannot_start_is_reported_and_tried_again(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        child = SupervisedProcess("a", ["/nonexistent/program"], Lines(), backoff=QUICK)
        task = asyncio.create_task(child.run())
        await eventually(lambda: child.starts >= 3)
        assert await child.stop(5)
        assert await task is None

    run(body())
    assert "cannot start a (/nonexistent/program): No such file or directory" in caplog.text


def test_stop_lets_the_process_finish(run: Runner) -> None:
    async def body() -> None:
        lines = Lines()
        code = (
            "import signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: (print('finishing'), sys.exit(0)))\n"
            "print('ready'); time.sleep(60)"
        )
        child = SupervisedProcess("a", script(code), lines)
        task = asyncio.create_task(child.run())
        await lines.until("ready")
        assert await child.stop(10)
        assert await task is None
        assert lines == ["ready", "finishing"]

    run(body())


def test_stop_kills_a_process_that_ignores_sigterm(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        lines = Lines()
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
        child = SupervisedProcess("a", script(code), lines)
        task = asyncio.create_task(child.run())
        await lines.until("ready")
        pid = child.pid
        assert pid is not None
        assert await child.stop(0.05)
        assert await task is None
        assert not alive(pid)

    run(body())
    assert "a did not end within 0.05 s, killing it" in caplog.text


@pytest.mark.parametrize("when", ["before run", "while it starts", "before a restart"])
def test_stop_at_any_moment_leaves_no_process(when: str, run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        child = SupervisedProcess("a", script("raise SystemExit(1)"), Lines(), backoff=Backoff(first_s=60, max_s=60))
        run_task = asyncio.create_task(child.run())
        if when == "while it starts":
            await eventually(lambda: child.starts == 1)
        elif when == "before a restart":
            await eventually(lambda: "restarting it in 60 s" in caplog.text)
        assert await child.stop(10)
        assert await run_task is None
        assert child.pid is None
        assert child.starts <= 1

    run(body())


def test_cancelling_run_kills_the_process(run: Runner) -> None:
    async def body() -> None:
        lines = Lines()
        child = SupervisedProcess("a", script("import time; print('ready'); time.sleep(60)"), lines)
        task = asyncio.create_task(child.run())
        await lines.until("ready")
        pid = child.pid
        assert pid is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: not alive(pid))

    run(body())


def test_a_flood_of_output_and_a_broken_callback_do_not_stop_it(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        seen = 0

        def on_line(name: str, line: str) -> None:
            nonlocal seen
            seen += len(line)
            if line == "boom":
                raise ValueError(line)

        code = "import sys; print('boom'); sys.stdout.write('x' * 3_000_000 + '\\n' * 10); sys.exit(2)"
        assert await SupervisedProcess("a", script(code), on_line).run() == 2
        assert seen == 3_000_004

    run(body())
    assert "a line of a is lost" in caplog.text


def test_a_grandchild_that_holds_the_output_open_does_not_block(run: Runner) -> None:
    async def body() -> None:
        lines = Lines()
        code = (
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], start_new_session=True)\n"
            "print('grandchild', child.pid); sys.exit(2)"
        )
        async with asyncio.timeout(DEADLINE_S):
            assert await SupervisedProcess("a", script(code), lines).run() == 2
        grandchild = int(lines[0].split()[1])
        await eventually(lambda: not alive(grandchild))  # it shared the stdin, which is closed now

    run(body())


def test_kill_9_of_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    child = "import os, sys; print('child', os.getpid(), flush=True); sys.stdin.read()"
    parent = (
        "import asyncio, sys\n"
        "from hierarchy.runtime.processes import SupervisedProcess\n"
        f"argv = [sys.executable, '-c', {child!r}]\n"
        "on_line = lambda name, line: print(line, flush=True)\n"
        "async def main(): await SupervisedProcess('a', argv, on_line).run()\n"
        "asyncio.run(main())"
    )

    async def body() -> None:
        process = await asyncio.create_subprocess_exec(*script(parent), stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            pid = int((await process.stdout.readline()).split()[1])
            assert alive(pid)
            process.kill()
            await process.wait()
        await eventually(lambda: not alive(pid))

    asyncio.run(body())


def test_env_is_added_to_the_environment_and_the_session_is_new(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "1")

    async def body() -> None:
        lines = Lines()
        shown = "os.environ['INHERITED'], os.environ['ADDED'], os.getsid(0) == os.getpid()"
        code = f"import os, sys; print({shown}); sys.exit(2)"
        await SupervisedProcess("a", script(code), lines, env={"ADDED": "2"}).run()
        assert lines == ["1 2 True"]

    run(body())


def test_no_descriptor_leaks(run: Runner) -> None:
    async def body() -> None:
        child = SupervisedProcess("a", script("raise SystemExit(1)"), Lines(), backoff=QUICK)
        task = asyncio.create_task(child.run())
        await eventually(lambda: child.starts >= 2)
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208
        await eventually(lambda: child.starts >= 8)
        assert len(os.listdir("/dev/fd")) <= before + 6  # noqa: PTH208 - one process may be open
        assert await child.stop(5)
        await task

    run(body())
