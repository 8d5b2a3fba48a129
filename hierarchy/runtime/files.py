"""Files that change while a process runs: noticing changes, locking, and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK_POLL_S = 0.02
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")  # as `tempfile.mkstemp` names it
LOCKED_S = 0.2  # after which whoever writes such a file has locked it
ROOM = 16 * 1024  # bytes that a small file needs
FileVersion = tuple[int, int, int] | None  # last change (ns), size (bytes), inode


class FileWatch:
    """Notices that files changed, by their metadata.

    Polling costs two microseconds a file. It also works where the kernel reports no events: on NFS, for a file that
    an editor replaces by renaming another one, and for a symbolic link that points elsewhere (a Kubernetes ConfigMap).
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: list[FileVersion] | None = self._versions()

    def changed(self) -> bool:
        """Whether a file changed, appeared or disappeared since the last call, or since the watch was created."""
        found = self._versions()
        changed, self._seen = found != self._seen, found
        return changed

    def expect_change(self) -> None:
        """Let the next call of `changed` return True: the files may differ in what their metadata does not show."""
        self._seen = None

    def _versions(self) -> list[FileVersion]:
        return [file_version(path) for path in self._paths]


def file_version(path: Path) -> FileVersion:
    """A value that changes when the file does, from its metadata; None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextlib.contextmanager
def locked(path: Path, timeout_s: float | None = None, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, created if missing. The kernel releases it if this process dies.

    Args:
        timeout_s: how long to wait for another process; None for ever.
        on_wait: called once if another process holds the lock.

    Raises:
        TimeoutError: another process held the lock for `timeout_s`.
        OSError: the file cannot be created, or is a symbolic link.
    """
    if path.is_symlink():  # filelock before 3.20 follows it, and empties the file behind it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    from filelock import FileLock, Timeout  # here, since it takes 50 ms and most commands lock nothing

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        try:
            lock.acquire(timeout=-1 if timeout_s is None else timeout_s, poll_interval=LOCK_POLL_S)
        except Timeout:
            raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked", str(path)) from None
    try:
        yield
    finally:
        lock.release()


class Busy(Exception):
    """Another process holds a file."""


class Hold:
    """A lock that says that a process uses something, until `release` or the process's end. Many may share it.

    The kernel keeps it, so none is left behind by a process that was killed.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """
        Args:
            path: the file to lock; created with mode 0600 if missing.
            alone: no other process may hold it at the same time.

        Raises:
            Busy: another process holds it; with `alone` for any purpose, without it alone.
            OSError: the file cannot be created or locked, or is a symbolic link.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise Busy(str(path)) from None
            raise

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def try_to_write(folder: Path) -> None:
    """Write a little to a file without a name in a folder, which is created if missing. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(ROOM))
        file.flush()
        os.fsync(file.fileno())  # some file systems find only now that they are full


def has_room(folder: Path) -> bool:
    """Whether a small file can be created in a folder, as far as its file system says. Raises OSError."""
    found = os.statvfs(folder)
    has_files = not found.f_files or found.f_favail > 0  # some have no limit, and say 0 of 0
    return has_files and (not found.f_blocks or found.f_bavail * found.f_frsize >= ROOM)


def write_private_file(path: Path, text: str | bytes) -> None:
    """Write a file of mode 0600. Readers find either the old content or the complete new one. Raises OSError.

    Until it is complete, it is a locked file `.NAME.` and eight characters, see `remove_unfinished`.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(OSError):  # some file systems know no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path, now: float) -> list[str]:
    """Remove what killed processes of this user left of their `write_private_file` in a folder. Returns the names.

    now: Unix seconds. What another process writes at this moment is locked, so it stays.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_file = entry.is_file(follow_symlinks=False)
            if is_file and UNFINISHED.fullmatch(entry.name) and _is_left(Path(entry.path), now):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()
                    removed.append(entry.name)
    return removed


def _is_left(path: Path, now: float) -> bool:
    """Is it a file of this user that nobody writes any more?"""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or now - found.st_mtime < LOCKED_S:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or its file system knows no locks
        return False
    finally:
        os.close(descriptor)
    return True
