"""What a node shows to its parents: the credential that it received, or the join token of its configuration."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from hierarchy.errors import UsageError
from hierarchy.runtime.blocking import AT_ONCE, Place, Trouble
from hierarchy.runtime.expiry import Lifetime
from hierarchy.runtime.files import file_version, try_to_write, write_private_file
from hierarchy.security.secret import JOIN_TOKEN, check_secret, read_secret, read_secret_file
from hierarchy.security.tokens import lifetime

CREDENTIAL_FILE = "HIERARCHY_CREDENTIAL_FILE"  # environment variable: instead of the file in the state folder
UNSAVED = "this node needs a new token after a restart"


class CredentialStore:
    """A credential in a file of mode 0600, and a join token. The store is false if it has neither.

    All uplinks of a node share it, since their parents are replicas.
    """

    def __init__(self, path: Path, credential: str = "", token: str = "", place: Place = AT_ONCE) -> None:
        """
        Args:
            path: of the credential's file, which need not exist yet.
            place: where it is written.
        """
        #: shown with the join token, which only this process may use again, at each instance of its parent
        self.process = secrets.token_hex(16)
        self._path = path
        self._place = place
        self._trouble = Trouble(path)
        self._unsaved = False
        self._credential = credential
        self._token = token
        self._read_from = ""  # the credential of which `_lifetime` is
        self._lifetime: Lifetime | None = None
        self._token_first = False  # whether the token is shown before the credential, which a parent refused

    @classmethod
    def open(cls, path: Path, ref: str | None, environ: Mapping[str, str], place: Place = AT_ONCE) -> CredentialStore:
        """Read the credential at `path` and the join token at `ref` (`file:PATH` or `env:NAME`).

        Raises:
            UsageError: the credential or the token cannot be read. With a credential, a missing token is not an
                error: its file may be removed after use.
        """
        credential = read_secret_file(path) if file_version(path) else ""
        token = ""
        try:
            if ref is not None:
                token = read_secret(ref, environ)
            elif JOIN_TOKEN in environ:
                token = check_secret(environ[JOIN_TOKEN], f"env:{JOIN_TOKEN}")
        except UsageError:
            if not credential:
                raise
        return cls(path, credential, token, place)

    def __bool__(self) -> bool:
        return bool(self._credential or self._token)

    def lifetime(self) -> Lifetime | None:
        """When the credential was issued and when it expires; None if there is none, or it is not readable."""
        if self._read_from != self._credential:  # decoded again only when it changes
            self._read_from = self._credential
            found = lifetime(self._credential)
            self._lifetime = None if found is None else Lifetime(*found)
        return self._lifetime

    def current(self) -> str:
        """What to show to a parent now; "" if there is nothing."""
        first, second = self._credential, self._token
        if self._token_first:
            first, second = second, first
        return first or second

    def mark_refused(self, shown: str) -> None:
        """Record that a parent refused `shown`, and show the other one next. A revoked node rejoins with a token."""
        if shown and shown == self.current():
            self._token_first = not self._token_first

    def save(self, credential: str) -> None:
        """Show this credential from now on, also after a restart."""
        if not credential or credential == self._credential:
            return
        self._credential = credential
        self._token_first = False
        self._unsaved = True
        self._place.begin(self._write)

    async def try_to_write(self) -> None:
        """Note in the log if the folder has no room, before a credential is to be saved."""
        with contextlib.suppress(TimeoutError):  # the log has it already
            await self._place.run(self._try_to_write)

    def _try_to_write(self) -> None:
        try:
            try_to_write(self._path.parent)
        except OSError as error:
            self._trouble.note(error, UNSAVED)

    async def refresh(self) -> None:
        """Write the credential, if it is not saved yet."""
        if self._unsaved:
            with contextlib.suppress(TimeoutError):  # the log has it already
                await self._place.run(self._write)

    def _write(self) -> None:
        """Blocks. A failure is logged once."""
        credential = self._credential
        try:
            write_private_file(self._path, check_secret(credential, "the parent's credential") + "\n")
        except (OSError, UsageError) as error:
            self._trouble.note(error, UNSAVED)
        else:
            self._unsaved = credential != self._credential
            self._trouble.over()
