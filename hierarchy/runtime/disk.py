"""File operations of a running node: each file has a thread of its own, so that a disk stops nothing but itself.

An operation on a hung mount ends when the mount answers, which may be never, and cannot be cancelled. So the event loop
does none. It hands each one to the thread of its file, waits for a few seconds, and goes on without it. Until that
operation ends, further ones on the same file fail at once, so a hung mount holds one thread a file and no more, and
none of those that look up names. The threads are daemons: the end of the process does not wait for them.

    idle ──run──▶ running ──ends──▶ idle
                     └──late──▶ stuck ──ends──▶ idle        stuck: `run` raises, and the log said so once
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from hierarchy.runtime import awake
from hierarchy.runtime.blocking import LATE_S, silence

MAX_WAITING: Final = 256  # operations on one file
log = logging.getLogger("hierarchy.disk")
T = TypeVar("T")


class _Operation(Generic[T]):
    """One operation. It counts until its caller gives up before it begins."""

    def __init__(self, work: Callable[[], T], result: asyncio.Future[T]) -> None:
        self.work = work
        self.result = result


class FileThread:
    """The thread of one file. Call it in the event loop.

    Attributes:
        problem: why operations on the file do not end at present; "" if they do.
    """

    def __init__(self, path: Path, meaning: str) -> None:
        """
        Args:
            meaning: what it means for the node that the file cannot be read or written, for the log.
        """
        self.path = path
        self.problem = ""
        self._meaning = meaning
        self._waiting: deque[_Operation[Any]] = deque()
        self._running: _Operation[Any] | None = None
        self._began_at = 0.0  # the one that runs

    async def run(self, work: Callable[[], T], late_s: float = LATE_S) -> T:
        """As `Place.run`."""
        if self.problem or len(self._waiting) >= MAX_WAITING:
            raise TimeoutError(errno.ETIMEDOUT, self.problem or "too many operations wait for it", str(self.path))
        operation: _Operation[T] = _Operation(work, asyncio.get_running_loop().create_future())
        self._waiting.append(operation)
        self._next()
        try:
            async with awake.timeout(late_s):
                return await operation.result
        except TimeoutError:
            if operation.result.done() and not operation.result.cancelled():
                raise  # it is the operation's own
            self._note_late(late_s)
            raise TimeoutError(errno.ETIMEDOUT, self.problem or "it is late", str(self.path)) from None

    def begin(self, work: Callable[[], object]) -> None:
        """As `Place.begin`. Dropped while the file is stuck."""
        task = asyncio.get_running_loop().create_task(self.run(work), name=f"file {self.path.name}")
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def _next(self) -> None:
        while self._waiting and self._running is None:
            operation = self._waiting.popleft()
            if operation.result.done():  # its caller has given up
                continue
            self._running, self._began_at = operation, time.monotonic()
            work = (operation, asyncio.get_running_loop())
            threading.Thread(target=self._work, args=work, name=f"file {self.path.name}", daemon=True).start()

    def _work(self, operation: _Operation[Any], loop: asyncio.AbstractEventLoop) -> None:
        """In the thread."""
        value, error = None, None
        try:
            value = operation.work()
        except Exception as failure:
            error = failure
        try:
            loop.call_soon_threadsafe(self._ended, operation, value, error)
        except RuntimeError:  # the loop is closed
            self._running = None

    def _ended(self, operation: _Operation[Any], value: object, error: Exception | None) -> None:
        self._running = None
        if self.problem:
            self.problem = ""
            log.warning("%s: answers again after %.0f s", self.path, time.monotonic() - self._began_at)
        if not operation.result.done():
            if error is None:
                operation.result.set_result(value)
            else:
                operation.result.set_exception(error)
        self._next()

    def _note_late(self, late_s: float) -> None:
        """Once for each operation that does not end; a long queue is no such thing."""
        since_s = time.monotonic() - self._began_at
        if self._running is not None and not self.problem and since_s >= late_s / 2:
            self.problem = silence(since_s)
            log.error(
                "%s: its file system has not answered for %.0f s, as on a hung mount; %s",
                self.path,
                since_s,
                self._meaning,
            )

    def __repr__(self) -> str:
        return f"<FileThread {self.path} {self.problem or ('running' if self._running else 'idle')}>"


class Disk:
    """The files of one node."""

    def __init__(self) -> None:
        self._files: dict[Path, FileThread] = {}

    def file(self, path: Path, meaning: str) -> FileThread:
        """The thread of a file. meaning: as for `FileThread`."""
        return self._files.setdefault(path, FileThread(path, meaning))

    def warnings(self) -> list[str]:
        """One line for each file that is stuck."""
        return [f"{file.path}: {file.problem}" for file in self._files.values() if file.problem]
