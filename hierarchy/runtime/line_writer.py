"""Writing lines to a descriptor whose reader may stop reading: whoever has a line to write never waits.

A pipe to a process that is stopped, a terminal after Ctrl-S and a file on a hung mount all block a write, for as long
as they like. So lines wait in memory, in their order, and one thread writes them. What does not fit is dropped and
counted, and a line says so at the place of the gap.

The thread is ours and not `logging.handlers.QueueListener`, since two things must hold that it does not promise: the
last lines have a limit on their time at the end of the process, and a line that must not be lost has room of its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

MAX_LINES = 10_000  # that wait
MAX_BYTES = 8 * 1024 * 1024  # of them
KEPT_LINES = 1000  # beyond that, for lines that must not be lost; each is a command of an operator
KEPT_BYTES = 1024 * 1024
LAST_S = 2.0  # for the last lines, at the end of the process


@dataclass(frozen=True)
class Gap:
    """Lines that are missing."""

    lines: int
    kept: int = 0  # of them, such as must not be lost
    reason: str = ""  # the system's, if they could not be written; else the reader did not take them in time

    def __str__(self) -> str:
        what = f"{self.lines} log line{'' if self.lines == 1 else 's'}"
        kept = f" ({self.kept} of the audit log)" if self.kept else ""
        verb = "is" if self.lines == 1 else "are"
        return f"{what}{kept} {verb} missing here: {self.reason or 'their reader did not read for too long'}"


class LineWriter:
    """Writes to a descriptor, in a thread. Also a stream for `logging.StreamHandler`."""

    def __init__(
        self,
        fd: int = 2,
        max_lines: int = MAX_LINES,
        describe: Callable[[Gap], str] = lambda gap: f"{gap}\n",
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """
        Args:
            max_lines, max_bytes: that may wait.
            describe: the line that stands for a gap, with its line end.
        """
        self.describe = describe
        self.fd: Final = fd
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._changed = threading.Condition()  # reentrant: a signal handler may log too
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes that wait
        self._is_writing = False
        self._missing = self._kept_missing = 0  # since the last line that was accepted
        self._failed = 0  # lines since the last one that was written
        self._failure = ""
        self._thread: threading.Thread | None = None

    def write(self, text: str, *, keep: bool = False) -> None:
        """Write text later; never waits. keep: it must not be lost."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if not self._has_room(len(data), keep=keep):
                self._missing += 1
                self._kept_missing += keep
            else:
                self._close_gap()
                self._append(data)
            self._start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Does nothing, as `logging` calls it after each line; see `drain`."""

    def isatty(self) -> bool:
        """Whether the lines go to a terminal."""
        with contextlib.suppress(OSError):
            return os.isatty(self.fd)
        return False

    def drain(self, timeout_s: float = LAST_S) -> bool:
        """Wait until all lines are written, for at most `timeout_s`. Returns whether they are."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def _is_idle(self) -> bool:
        return not (self._waiting or self._is_writing or self._missing)

    def _has_room(self, size: int, *, keep: bool) -> bool:
        lines = self._max_lines + (KEPT_LINES if keep else 0)
        return len(self._waiting) < lines and self._size + size <= self._max_bytes + (KEPT_BYTES if keep else 0)

    def _close_gap(self) -> None:
        """Where lines are missing, a line says so."""
        if self._missing:
            data = self.describe(Gap(self._missing, self._kept_missing)).encode("utf-8", "backslashreplace")
            self._missing = self._kept_missing = 0
            self._append(data)

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)

    def _start(self) -> None:
        # Not before the first line, and again in a process that was forked. A daemon: the end waits in `drain` only.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    # -- in the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._missing)
                if not self._waiting:
                    self._close_gap()
                data = self._waiting.popleft()
                self._size -= len(data)
                self._is_writing = True
            self._put(data)

    def _put(self, data: bytes) -> None:
        try:
            if self._failed:
                _write_all(self.fd, self.describe(Gap(self._failed, reason=self._failure)).encode())
                self._failed = 0
            _write_all(self.fd, data)
        except OSError as error:  # a full disk; or the reader is gone, and no process will read of it
            self._failed += 1
            self._failure = f"they could not be written ({error.strerror})"


def _write_all(fd: int, data: bytes) -> None:
    """Write, however long that takes, also where another process made the descriptor non-blocking. Raises OSError."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            select.select([], [fd], [])


class Stderr(io.TextIOBase):
    """`sys.stderr` of a daemon: what anything prints there waits in the same line as the log, and stops nothing."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._incomplete = ""

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._writer.isatty()

    def fileno(self) -> int:
        """The descriptor."""
        return self._writer.fd

    def write(self, text: str) -> int:
        """Write the lines that this completes."""
        lines, end, self._incomplete = (self._incomplete + text).rpartition("\n")
        if end:
            self._writer.write(lines + end)
        return len(text)

    def drain(self, timeout_s: float) -> bool:
        """Write an incomplete line too, and wait until all is written, for at most `timeout_s`."""
        rest, self._incomplete = self._incomplete, ""
        if rest:
            self._writer.write(rest)
        return self._writer.drain(timeout_s)


@contextlib.contextmanager
def own_stderr(fd: int = 2, last_s: float = LAST_S) -> Iterator[LineWriter]:
    """Let a thread write all that goes to `sys.stderr`, until the end of the context; then wait for the last lines.

    If they cannot be written within `last_s`, `sys.stderr` stays as it is: another write would have no end.
    """
    writer = LineWriter(fd)
    before, sys.stderr = sys.stderr, Stderr(writer)
    stream = sys.stderr
    try:
        yield writer
    finally:
        if stream.drain(last_s) and sys.stderr is stream:
            sys.stderr = before
