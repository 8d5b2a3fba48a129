"""What a parent must not forget: which join tokens were used and by whom, and whose credentials were revoked.

One small JSON file. Replicas of a parent that share it see each other's changes within a sweep.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hierarchy.errors import UsageError
from hierarchy.security.secret import write_private_file

Stamp = tuple[int, int, int]


class _Content(msgspec.Struct):
    """used: token -> (its expiry, who used it). revoked: node -> when. Unix seconds."""

    used: dict[str, tuple[float, str]] = {}
    revoked: dict[str, float] = {}


class State:
    """The file at `path`, which need not exist yet. now: Unix seconds.

    Raises:
        UsageError: it is there, and is no such file: better not to start than to forget whom it shut out.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now = now
        self._stamp = stamp_of(path)
        self._content = self._read()

    def used_by(self, token: str) -> str | None:
        """Who used a token; None if nobody did."""
        entry = self._content.used.get(token)
        return None if entry is None else entry[1]

    def use(self, token: str, expires: float, user: str) -> bool:
        """Note that `user` used a token. False if somebody else was first. Raises OSError."""
        with self._changing() as content:
            first = content.used.setdefault(token, (expires, user))
        return first[1] == user

    def revoke(self, node: str) -> None:
        """Whatever was issued to `node` until now is void. Raises OSError."""
        with self._changing() as content:
            content.revoked[node] = self._now()

    def is_revoked(self, node: str, issued: float) -> bool:
        """Was what was issued to `node` at that time revoked since?"""
        return issued <= self._content.revoked.get(node, 0.0)

    def refresh(self) -> bool:
        """Read the file again if it was changed. Returns whether it was. Raises `UsageError`."""
        stamp = stamp_of(self.path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._content = self._read()
        return True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Content]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self._read()
            yield content
            now = self._now()
            content.used = {token: entry for token, entry in content.used.items() if entry[0] > now}
            write_private_file(self.path, json.dumps(msgspec.to_builtins(content), indent=1) + "\n")
            self._content, self._stamp = content, stamp_of(self.path)

    def _read(self) -> _Content:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        except msgspec.DecodeError:
            raise UsageError(f"{self.path}: is damaged; put back a copy, or revoke all and remove it") from None


def stamp_of(path: Path) -> Stamp | None:
    """What changes with a file's content; None if it cannot be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
