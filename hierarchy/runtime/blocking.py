"""Operations on files that block: where they run, what is said of those that fail, and which paths do not answer.

`disk` has the threads in which those of a running node run. Commands need none of that, nor an event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol, TypeVar

LATE_S: Final = 5.0  # after which a node goes on; a disk that works needs milliseconds, one that spins up 3 s
log = logging.getLogger("hierarchy.disk")
T = TypeVar("T")


class Place(Protocol):
    """Where the operations on one file run."""

    async def run(self, work: Callable[[], T], late_s: float = LATE_S) -> T:
        """The result of `work`, which blocks.

        Raises:
            TimeoutError: it did not end within `late_s`, or an earlier one has not ended yet.
            Exception: what `work` raises.
        """

    def begin(self, work: Callable[[], object]) -> None:
        """Run `work` without waiting for it. It must not raise."""


class AtOnce:
    """Runs operations where they are requested: for programs that do nothing else meanwhile."""

    async def run(self, work: Callable[[], T], late_s: float = LATE_S) -> T:
        """The result."""
        return work()

    def begin(self, work: Callable[[], object]) -> None:
        """Run it now."""
        work()


AT_ONCE: Final[Place] = AtOnce()


class Trouble:
    """A file that cannot be written: said once for each reason, then counted, and said when it is over."""

    def __init__(self, path: Path) -> None:
        self.reason = ""  # "" if it can be written
        self._path = path
        self._times = 0

    def note(self, error: Exception, meaning: str) -> None:
        """It could not be written. meaning: for the node."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._times += 1
        if reason != self.reason:
            log.error("%s: cannot be written (%s); %s", self._path, reason, meaning)
        self.reason = reason

    def over(self) -> None:
        """It was written."""
        if self.reason:
            log.warning("%s: can be written again; %d attempts had failed", self._path, self._times)
        self.reason, self._times = "", 0


def silent_paths(paths: Iterable[Path], late_s: float = LATE_S) -> list[Path]:
    """Those of the paths whose file system does not answer within `late_s`, one for each folder.

    For the start, before there is an event loop. What hangs holds one thread for each folder.
    """
    folders: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        folders.setdefault(path.parent, []).append(path)

    def look(waiting: list[Path]) -> None:
        while waiting:
            with contextlib.suppress(OSError, ValueError):
                _ask(waiting[0])
            waiting.pop(0)

    threads = [threading.Thread(target=look, args=(waiting,), daemon=True) for waiting in folders.values()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + late_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [waiting[0] for waiting in folders.values() if waiting]


def _ask(path: Path) -> None:
    """Let the file system of a path answer. Its metadata alone may come from a cache, which no dead server empties."""
    if path.is_file() or path.is_dir():  # whoever writes to a pipe would notice
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def silence(late_s: float = LATE_S) -> str:
    """What is said of a path that did not answer within `late_s`."""
    return f"its file system has not answered for {late_s:.0f} s, as on a hung mount"
