"""Child processes that are started again when they die, and that do not outlive us.

Two facts shape this module. asyncio's `Process.wait()` can wait for the pipes too, which a grandchild may hold open
for ever: so the pipes are our own. And whoever does not read a child's output stops the child, once the pipe is full:
so its lines are always read, however long they are, and handed to a callback that must not block.
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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

OnLine = Callable[[str, str], None]  #: (name of the process, one line of its output without the line end)

USAGE_ERROR = 2  #: exit status of a process whose configuration or command line is wrong
MAX_LINE_CHARS = 16 * 1024  #: a longer line is handed on in pieces
_READ_BYTES = 64 * 1024
_LAST_WORDS_S = 1.0  # for output still in the pipe when the process has ended
_REAP_S = 2.0  # a killed process is gone in milliseconds, unless the kernel itself is stuck


@dataclass(frozen=True)
class Backoff:
    """The wait before a restart: `first_s`, doubling to `longest_s`; anew after a life of `settled_s`."""

    first_s: float = 0.5
    longest_s: float = 10.0
    settled_s: float = 10.0

    def delay_s(self, failures: int) -> float:
        """After the `failures`-th short life in a row, counted from 1."""
        return float(min(self.longest_s, self.first_s * 2 ** min(failures - 1, 32)))


def describe_exit(status: int) -> str:
    """`ended with status 1`, `ended with status 2 (usage error)`, `was ended by SIGKILL`."""
    if status >= 0:
        return f"ended with status {status}" + (" (usage error)" if status == USAGE_ERROR else "")
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


class LineSplitter:
    """Bytes as they come, to lines of text; pure. `\\r\\n` ends a line too; what is not UTF-8 is replaced."""

    def __init__(self, max_chars: int = MAX_LINE_CHARS) -> None:
        self.max_chars = max_chars
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def feed(self, data: bytes, final: bool = False) -> Iterator[str]:
        """The lines that `data` completes; with `final`, the last one too though nothing ended it."""
        *lines, self._rest = (self._rest + self._decode(data, final)).split("\n")
        for line in lines:
            yield from self._pieces(line.removesuffix("\r"))
        if len(self._rest) > self.max_chars or (final and self._rest):
            line, self._rest = self._rest, ""
            yield from self._pieces(line.removesuffix("\r") if final else line)

    def _pieces(self, line: str) -> Iterator[str]:
        for start in range(0, max(len(line), 1), self.max_chars):
            yield line[start : start + self.max_chars]


class SupervisedProcess:
    """One child process, kept running. `run()` it in a task; `stop()` ends it.

    It gets a session of its own, so a terminal's Ctrl-C reaches only us, and a stdin that stays open as long as we
    live: a child that was told `--exit-with-parent` ends when it reads the end of it, even after our `kill -9`.
    `env` is set on top of our own environment. A status in `fatal` before any life of `backoff.settled_s` says that
    starting it again cannot help, and `run` returns it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        env: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
        fatal: frozenset[int] = frozenset({USAGE_ERROR}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.starts = 0  #: how often it was started
        self._on_line = on_line
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._backoff = backoff or Backoff()
        self._fatal = fatal
        self._clock = clock
        self._process: Process | None = None
        self._settled = False
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<SupervisedProcess {self.name} pid={self.pid} starts={self.starts}>"

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process else None

    async def run(self) -> int | None:
        """Keep it running until `stop` (returns None), or until it ends with a fatal status (returns that)."""
        self._idle.clear()
        failures = 0
        try:
            while not self._stopping.is_set():
                born = self._clock()
                status = await self._live()
                lived_s = self._clock() - born
                if self._stopping.is_set():
                    break
                settled = lived_s >= self._backoff.settled_s
                self._settled = self._settled or settled
                if status in self._fatal and not self._settled:
                    log.error("%s %s, so it is not started again", self.name, describe_exit(status))
                    return status
                failures = 1 if settled else failures + 1
                delay_s = self._backoff.delay_s(failures)
                if status is not None:
                    log.warning("%s %s after %.1f s", self.name, describe_exit(status), lived_s)
                log.info("%s: starting it again in %g s", self.name, delay_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
            return None
        finally:
            self.kill()
            self._idle.set()

    async def stop(self, grace_s: float) -> bool:
        """SIGTERM, and after `grace_s` SIGKILL; no restart. False if the process is still there after that."""
        self._stopping.set()
        self._terminate()
        if not await self._ended_within(grace_s):
            log.warning("%s did not end within %g s, killing it", self.name, grace_s)
            self.kill()
            return await self._ended_within(_REAP_S + _LAST_WORDS_S)
        return True

    def kill(self) -> None:
        """SIGKILL to the process and to what it started in its own group; no restart."""
        self._stopping.set()
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _terminate(self) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _ended_within(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _live(self) -> int | None:
        """One life: start, read to the end, reap. The exit status, or None if it could not be started."""
        self.starts += 1
        try:
            async with self._started() as (process, output):
                if self._stopping.is_set():  # asked while it was being started
                    self._terminate()
                reading = asyncio.create_task(self._read(output))
                try:
                    status = await process.wait()
                    await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
                finally:
                    reading.cancel()
                return status
        except OSError as error:
            log.error("cannot start %s (%s): %s", self.name, self.argv[0], error.strerror or error)
            return None

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
        with contextlib.ExitStack() as ours:
            with contextlib.ExitStack() as theirs:
                stdin, held_open = os.pipe()
                theirs.callback(os.close, stdin)
                ours.callback(os.close, held_open)
                output, stdout = os.pipe()
                theirs.callback(os.close, stdout)
                reader = asyncio.StreamReader()
                transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                    lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
                )
                ours.callback(transport.close)
                self._process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stdout,
                    env=self._env,
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
                except Exception:  # whatever the callback does, an unread pipe would stop the child
                    log.exception("a line of %s is lost", self.name)
