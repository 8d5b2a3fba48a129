"""What a parent must remember: which join tokens were used and by which process, and which children were revoked.

It is one small JSON file. Replicas of a parent that share the file see each other's changes within a sweep; those that
do not share it tell each other (`record_keeper`). What is known is only ever added to, until it expires, so a file that
is older than what is in memory, or that was removed, takes nothing away from a running node.

What only asks or notes is quick, and for the event loop. What reads or writes the file blocks, and is for its thread
(`runtime.disk`): `use`, `save`, `revoke`, `confirm`, `refresh`. A lock guards the memory, and is never held meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hierarchy.errors import UsageError
from hierarchy.runtime.blocking import Trouble
from hierarchy.runtime.files import FileWatch, locked, try_to_write, write_private_file
from hierarchy.security.secret import open_guarded

LOCK_TIMEOUT_S = 2.0  # another replica needs milliseconds
RETRY_S = 5.0  # until what could not be written is tried again without a change
UNSAVED = "no child can join with a token, and revocations end with this node: free its disk, or correct `state_dir`"
FILE, LOCK = "state.json", "state.lock"  # in a node's state folder
log = logging.getLogger("hierarchy.security")


class Content(msgspec.Struct):
    """The content of the file."""

    used: dict[str, tuple[float, str]] = {}  # join token -> (its expiry in Unix seconds, the process that used it)
    revoked: dict[str, float] = {}  # child -> when it was revoked, in Unix seconds
    began: float = 0.0  # since when every record is here, in Unix seconds; 0: since ever
    oldest: float | None = None  # when a credential was issued that a child showed, before `began`, in Unix seconds

    def add(self, found: Content) -> None:
        """Add what another process knows."""
        self.used = {**found.used, **self.used}
        for node, at in found.revoked.items():
            self.revoked[node] = max(at, self.revoked.get(node, 0.0))
        self.began = min(self.began, found.began)
        if found.oldest is not None:
            self.oldest = found.oldest if self.oldest is None else min(found.oldest, self.oldest)
        if not self.began:  # no record is missing, whatever was shown
            self.oldest = None

    def without_expired(self, now: float) -> Content:
        """A copy without the tokens that have expired. now: Unix seconds."""
        used = {token: entry for token, entry in self.used.items() if entry[0] > now}
        return Content(used, dict(self.revoked), self.began, self.oldest)


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
        self._content = self._read() or Content(began=now())
        self._lock = threading.Lock()  # of the content
        self._learned = 0  # changes in memory
        self._saved = 0  # as many of them are in the file
        self._trouble = Trouble(path)
        self._retry_at = 0.0  # Unix seconds; before that, `refresh` does not try again to write

    @property
    def began(self) -> float:
        """Since when every record is here, in Unix seconds; 0: since ever."""
        return self._content.began

    @property
    def age_s(self) -> float:
        """Seconds since `began`."""
        return self._now() - self._content.began

    @property
    def is_incomplete(self) -> bool:
        """Whether records are missing: a child showed a credential that is older than the first record can be."""
        return self._content.oldest is not None and self._content.oldest < self._content.began

    @property
    def oldest_credential(self) -> float:
        """When the credential was issued that showed it, in Unix seconds."""
        return self._content.oldest or 0.0

    def used(self) -> dict[str, tuple[float, str]]:
        """Each used token: (its expiry in Unix seconds, the process that used it)."""
        with self._lock:
            return self._content.without_expired(self._now()).used

    def revoked(self) -> dict[str, float]:
        """When each revoked child was revoked, in Unix seconds."""
        return dict(self._content.revoked)

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

    def mark_revoked(self, node: str, *, at_least: float = 0.0) -> float:
        """Make void what was issued to `node` until now, and until `at_least` (Unix seconds). Returns that moment.

        It is in force from now on, and in the file after `save` or `refresh`.
        """
        with self._lock:
            at = self._content.revoked[node] = max(self._now(), at_least, self._content.revoked.get(node, 0.0))
            self._learned += 1
        return at

    def revoke(self, node: str) -> None:
        """`mark_revoked` and `save`."""
        self.mark_revoked(node)
        self.save()

    def save(self) -> None:
        """Write what is in memory. Raises OSError."""
        with self._changing():
            pass

    def try_to_write(self) -> None:
        """Note in the log if the folder has no room, before something is to be saved. Blocks."""
        try:
            try_to_write(self.path.parent)
        except OSError as error:
            self._trouble.note(error, UNSAVED)

    def is_revoked(self, node: str, since: float) -> bool:
        """Whether what began with a join token of `since` (Unix seconds) was revoked after that."""
        return since <= self._content.revoked.get(node, 0.0)

    def learn_use(self, token: str, expires: float, user: str) -> None:
        """Another instance knows that a process used a token. Saved with the next change, or by `refresh`."""
        with self._lock:
            if expires > self._now() and self._content.used.get(token) != (expires, user):
                self._content.used[token] = expires, user
                self._learned += 1

    def learn_revocation(self, node: str, at: float) -> bool:
        """Another instance revoked a child at that moment (Unix seconds). Returns whether that is new. Saved later."""
        with self._lock:
            if at <= self._content.revoked.get(node, 0.0):
                return False
            self._content.revoked[node] = at
            self._learned += 1
        return True

    def note_credential(self, issued: float) -> None:
        """A child shows a valid credential of `issued` (Unix seconds)."""
        with self._lock:
            content = self._content
            if issued < content.began and (content.oldest is None or issued < content.oldest):
                content.oldest = issued
                self._learned += 1

    def has_all_since(self, began: float) -> None:
        """Another instance that has every record since `began` (Unix seconds) has sent all of them."""
        with self._lock:
            if began < self._content.began:
                self._content.began = began
                self._learned += 1

    def forget_expired(self) -> None:
        """Forget the tokens that have expired; in the file they are until the next change."""
        now = self._now()
        with self._lock:
            self._content.used = {token: entry for token, entry in self._content.used.items() if entry[0] > now}

    def confirm(self) -> None:
        """Take the records as complete. Raises OSError."""
        with self._changing() as content:
            content.began, content.oldest = 0.0, None

    def refresh(self) -> bool:
        """Read the file again if another process changed it, and write what is not saved yet.

        Returns whether it was read. Raises `UsageError`.
        """
        changed = self._watch.changed()
        found = self._read() if changed else None
        if found is not None:
            with self._lock:
                self._content.add(found)
        elif changed and (self._content.used or self._content.revoked):
            log.error("%s: was removed while this node runs; it is written again", self.path)
            self._learned += 1
        if self._learned != self._saved and self._now() >= self._retry_at:
            self._save_or_note()
        return found is not None

    def _save_or_note(self) -> None:
        """Write the file. What cannot be written stays in memory, and is tried again."""
        try:
            self.save()
        except OSError:
            self._retry_at = self._now() + RETRY_S

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Content]:
        """Yield the present content, of the file and in memory, for changes, then write it without expired tokens."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.path.with_name(LOCK), LOCK_TIMEOUT_S):
                with self._lock:
                    content, learned = self._content.without_expired(self._now()), self._learned
                if (found := self._read()) is not None:
                    content.add(found)
                yield content
                content = content.without_expired(self._now())
                write_private_file(self.path, json.dumps(msgspec.to_builtins(content), indent=1) + "\n")
                self._watch.changed()  # this change is known
        except OSError as error:
            self._trouble.note(error, UNSAVED)
            raise
        with self._lock:
            content.add(self._content.without_expired(self._now()))  # it may have changed meanwhile
            self._content, self._saved = content, learned
        self._trouble.over()

    def _read(self) -> Content | None:
        """The content of the file; None if there is none. Raises `UsageError`."""
        try:
            with open_guarded(self.path, is_secret=False) as file:
                return decode(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        except msgspec.DecodeError:
            raise UsageError(f"{self.path}: is damaged; restore a copy, or revoke all children and remove it") from None


def decode(data: bytes) -> Content:
    """The content of such a file. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(data, type=Content)
