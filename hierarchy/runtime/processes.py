"""Child processes that are restarted when they die and do not outlive this process.

Two facts shape this module. asyncio's `Process.wait()` may also wait for the pipes, which a grandchild can hold open
for ever, so this module creates the pipes itself. And a child blocks when the pipe for its output is full, so its
output is always read, however long a line is, and passed to a callback that must not block.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hierarchy.runtime import awake, descriptors

log = logging.getLogger(__name__)

OnLine = Callable[[str, str], None]  #: (name of the process, one line of its output without the line end)

USAGE_ERROR = 2  #: exit status of a process whose configuration or command line is wrong
MAX_LINE_CHARS = 16 * 1024  #: a longer line is passed on in pieces
_READ_BYTES = 64 * 1024
_LAST_OUTPUT_S = 1.0  # for reading what is left in the pipe when the process has ended
_KILL_S = 2.0  # a killed process ends in milliseconds, unless it hangs in the kernel


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a restart."""

    first_s: float = 0.5  # after the first failure; doubled after each further one
    max_s: float = 10.0
    stable_after_s: float = 10.0  # a process that ran this long starts again from `first_s`

    def delay_s(self, failures: int) -> float:
        """The wait after `failures` (1 or more) in a row."""
        return float(min(self.max_s, self.first_s * 2 ** min(failures - 1, 32)))


def describe_exit(status: int) -> str:
    """`ended with status 1`, `ended with status 2 (it cannot start as configured)`, `was ended by SIGKILL`."""
    if status >= 0:
        return f"ended with status {status}" + (" (it cannot start as configured)" if status == USAGE_ERROR else "")
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


class LineSplitter:
    """Splits bytes as they arrive into lines of text. `\\r\\n` ends a line too; invalid UTF-8 is replaced."""

    def __init__(self, max_chars: int = MAX_LINE_CHARS) -> None:
        self.max_chars = max_chars
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._incomplete = ""

    def feed(self, data: bytes, final: bool = False) -> Iterator[str]:
        """The lines that `data` completes; if `final`, also the last line without an end."""
        *lines, self._incomplete = (self._incomplete + self._decode(data, final)).split("\n")
        for line in lines:
            yield from self._pieces(line.removesuffix("\r"))
        if len(self._incomplete) > self.max_chars or (final and self._incomplete):
            line, self._incomplete = self._incomplete, ""
            yield from self._pieces(line.removesuffix("\r") if final else line)

    def _pieces(self, line: str) -> Iterator[str]:
        for start in range(0, max(len(line), 1), self.max_chars):
            yield line[start : start + self.max_chars]


class SupervisedProcess:
    """One child process that is kept running: `run()` in a task, and `stop()`.

    It gets a session of its own, so that Ctrl-C in a terminal reaches only the supervising process. Its stdin stays
    open as long as that process lives: a child with `--exit-with-parent` ends then, even after `kill -9`.

    Attributes:
        starts: how often it was started.
        environ: its environment variables.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        env: Mapping[str, str] | None = None,
        without: Collection[str] = (),
        files: int | None = None,
        backoff: Backoff | None = None,
        before_start: Callable[[], None] = lambda: None,
        fatal: frozenset[int] = frozenset({USAGE_ERROR}),
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: for the log and `on_line`.
            on_line: called with each line of output; must not block.
            env: set in addition to the environment of this process.
            without: variables of this process's environment that it does not get.
            files: its soft limit of open files; None: that of this process.
            before_start: called before each start; an `OSError` is logged like a command that cannot be started.
            fatal: exit statuses after which a restart cannot help, unless the process ran for
                `backoff.stable_after_s` once.
            once: it is not restarted when it has ended, and what it left running is killed.
            clock: monotonic seconds.
        """
        self.name = name
        self.argv = tuple(argv)
        self.starts = 0
        self._on_line = on_line
        inherited = {name: value for name, value in os.environ.items() if name not in without}
        self.environ = {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._files = files
        self._before_start = before_start
        self._backoff = backoff or Backoff()
        self._fatal = fatal
        self._once = once
        self._clock = clock
        self._process: Process | None = None  # while it runs
        self._was_stable = False  # whether it ever ran for `backoff.stable_after_s`
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()  # set while `run` is not running
        self._idle.set()

    def __repr__(self) -> str:
        return f"<SupervisedProcess {self.name} pid={self.pid} starts={self.starts}>"

    @property
    def pid(self) -> int | None:
        """The process id; None while no process runs."""
        return self._process.pid if self._process else None

    async def run(self) -> int | None:
        """Keep it running until `stop` (returns None), or until it ends with a fatal status (returns the status).

        One that runs once has ended then; None if it was stopped, or could not be started.
        """
        self._idle.clear()
        failures = 0
        try:
            while not self._stopping.is_set():
                started = self._clock()
                status = await self._run_once()
                ran_s = self._clock() - started
                if self._stopping.is_set():
                    break
                if self._once:
                    return status
                stable = ran_s >= self._backoff.stable_after_s
                self._was_stable = self._was_stable or stable
                if status in self._fatal and not self._was_stable:
                    log.error("%s %s and is not restarted", self.name, describe_exit(status))
                    return status
                failures = 1 if stable else failures + 1
                delay_s = self._backoff.delay_s(failures)
                if status is not None:
                    log.warning("%s %s after %.1f s", self.name, describe_exit(status), ran_s)
                log.info("%s: restarting it in %g s", self.name, delay_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
            return None
        finally:
            self.kill()
            self._idle.set()

    async def stop(self, grace_s: float) -> bool:
        """Send SIGTERM, and SIGKILL after `grace_s`; no restart. Returns False if the process survives that."""
        self._stopping.set()
        self._terminate()
        if not await self._ended_within(grace_s):
            log.warning("%s did not end within %g s, killing it", self.name, grace_s)
            self.kill()
            return await self._ended_within(_KILL_S + _LAST_OUTPUT_S)
        return True

    def kill(self) -> None:
        """Send SIGKILL to the process and the other processes of its group; no restart."""
        self._stopping.set()
        if self._process and self._process.returncode is None:
            _kill_group(self._process.pid)

    def _terminate(self) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _ended_within(self, timeout_s: float) -> bool:
        try:
            async with awake.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _run_once(self) -> int | None:
        """Start the process and read its output to the end. Returns the exit status; None if it could not start."""
        self.starts += 1
        try:
            self._before_start()
            async with self._started() as (process, output):
                if self._files is not None:
                    descriptors.set_soft_limit(process.pid, self._files)
                if self._stopping.is_set():  # `stop` was called while it was starting
                    self._terminate()
                reading = asyncio.create_task(self._read(output))
                try:
                    status = await process.wait()
                    if self._once:
                        _kill_group(process.pid)
                    await asyncio.wait({reading}, timeout=_LAST_OUTPUT_S)
                finally:
                    reading.cancel()
                return status
        except OSError as error:
            log.error("cannot start %s (%s): %s", self.name, self.argv[0], error.strerror or error)
            return None

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
        """The running process and its output. Holds this process's ends of the pipes until the end of the context."""
        with contextlib.ExitStack() as own_ends:
            with contextlib.ExitStack() as child_ends:
                stdin, held_open = os.pipe()
                child_ends.callback(os.close, stdin)
                own_ends.callback(os.close, held_open)
                output, stdout = os.pipe()
                child_ends.callback(os.close, stdout)
                reader = asyncio.StreamReader()
                transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                    lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
                )
                own_ends.callback(transport.close)
                self._process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stdout,
                    env=self.environ,
                    start_new_session=True,
                )
            try:
                yield self._process, reader
            finally:
                if self._process.returncode is not None:
                    self._process = None

    async def _read(self, output: asyncio.StreamReader) -> None:
        splitter = LineSplitter()
        data = b"-"
        while data:
            data = await output.read(_READ_BYTES)
            for line in splitter.feed(data, final=not data):
                try:
                    self._on_line(self.name, line)
                except Exception:  # an unread pipe would block the child, so reading continues
                    log.exception("a line of %s is lost", self.name)


def _kill_group(pid: int) -> None:
    """End what is left of a process's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
