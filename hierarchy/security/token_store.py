"""What a parent must remember: which join tokens were used and by which process, and which children were revoked.

It is one small JSON file. Replicas of a parent that share the file see each other's changes within a sweep.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hierarchy.errors import UsageError
from hierarchy.runtime.files import FileWatch, locked, write_private_file
from hierarchy.security.secret import open_guarded

LOCK_TIMEOUT_S = 2.0  # the event loop waits meanwhile; another replica needs milliseconds


class _Content(msgspec.Struct):
    used: dict[str, tuple[float, str]] = {}  # join token -> (its expiry in Unix seconds, the process that used it)
    revoked: dict[str, float] = {}  # child -> when it was revoked, in Unix seconds


class TokenStore:
    """Used join tokens and revoked children, in the file at `path`, which need not exist yet."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: Unix seconds.

        Raises:
            UsageError: the file is damaged; a node that starts without it would accept revoked children.
        """
        self.path = path
        self._now = now
        self._watch = FileWatch(path)
        self._content = self._read()

    def used_by(self, token: str) -> str | None:
        """The process that used a token; None if it is unused."""
        entry = self._content.used.get(token)
        return None if entry is None else entry[1]

    def use(self, token: str, expires: float, user: str) -> bool:
        """Record that the process `user` used a token. Returns False if another process was first.

        Args:
            expires: when the token expires, in Unix seconds; the record is dropped then.

        Raises:
            OSError: the file cannot be written.
        """
        with self._changing() as content:
            first = content.used.setdefault(token, (expires, user))
        return first[1] == user

    def revoke(self, node: str) -> None:
        """Make void what was issued to `node` until now. Raises OSError."""
        with self._changing() as content:
            content.revoked[node] = self._now()

    def is_revoked(self, node: str, issued: float) -> bool:
        """Whether what was issued to `node` at `issued` (Unix seconds) has been revoked since."""
        return issued <= self._content.revoked.get(node, 0.0)

    def refresh(self) -> bool:
        """Read the file again if it changed. Returns whether it did. Raises `UsageError`."""
        if not self._watch.changed():
            return False
        self._content = self._read()
        return True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Content]:
        """Yield the present content of the file for changes, then write it back without expired tokens."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self.path.with_suffix(".lock"), LOCK_TIMEOUT_S):
            content = self._read()
            yield content
            now = self._now()
            content.used = {token: entry for token, entry in content.used.items() if entry[0] > now}
            write_private_file(self.path, json.dumps(msgspec.to_builtins(content), indent=1) + "\n")
            self._content = content
            self._watch.changed()  # this change is known

    def _read(self) -> _Content:
        try:
            with open_guarded(self.path, is_secret=False) as file:
                return msgspec.json.decode(file.read(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        except msgspec.DecodeError:
            raise UsageError(f"{self.path}: is damaged; restore a copy, or revoke all children and remove it") from None
