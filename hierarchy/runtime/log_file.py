"""The file to which the output of this process was redirected, opened again after a program such as logrotate moved it.

A node logs on stderr. `hierarchy serve >>node.log 2>&1` has a file there, and goes on to write into that file whatever
it is called later. So the name is remembered, and opened again on request: all writers of this process write to the
same descriptors, and need to know nothing of it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

OUTPUTS = (1, 2)  # descriptors of stdout and stderr
log = logging.getLogger("hierarchy.log")


class LogFile:
    """The file behind stderr.

    Attributes:
        path: its name when this object was created; "" where stderr is a terminal, a pipe, a socket or no file at all.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self.path = _name_of(fd)

    def reopen(self) -> bool:
        """Write into the file that has the name now, created if missing. False: it is the same one, or none.

        Raises:
            OSError: it cannot be opened; the file that was open stays in use.
        """
        if not self.path:
            return False
        before = os.fstat(self._fd)
        # Appended, since others may write into it, too; not through a link that somebody put there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        found = os.open(self.path, flags, stat.S_IMODE(before.st_mode))
        try:
            after = os.fstat(found)
            if _same(before, after):
                return False
            if not stat.S_ISREG(after.st_mode):
                raise FileExistsError(0, "is not a file", self.path)
            fcntl.fcntl(found, fcntl.F_SETFL, os.O_APPEND)  # without O_NONBLOCK, which was for opening a FIFO
            for fd in OUTPUTS if self._fd in OUTPUTS else (self._fd,):
                with suppress(OSError):  # closed
                    if _same(before, os.fstat(fd)):
                        os.dup2(found, fd)
        finally:
            os.close(found)
        return True

    def reopen_and_log(self) -> None:
        """As `reopen`; logs what came of it."""
        try:
            if self.reopen():
                log.info("the log was moved, and continues in %s", self.path)
        except OSError as error:
            log.warning("%s: cannot be opened again (%s); the log continues in the old file", self.path, error.strerror)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other)


def _name_of(fd: int) -> str:
    """The path of a regular file that is open; "" for anything else."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        if hasattr(fcntl, "F_GETPATH"):  # macOS
            found: bytes = fcntl.fcntl(fd, fcntl.F_GETPATH, b"\0" * 1024)
            return os.fsdecode(found.partition(b"\0")[0])
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return str(path) if path.is_absolute() and _same(path.stat(), os.fstat(fd)) else ""
    except OSError:  # closed, or deleted already
        return ""
