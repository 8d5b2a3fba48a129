"""What a node shows to its parents: the credential that it was given, or the join token that it was started with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hierarchy.errors import UsageError
from hierarchy.security.secret import check_secret, read_secret, read_secret_file, write_private_file
from hierarchy.security.state import stamp_of

JOIN_TOKEN = "HIERARCHY_JOIN_TOKEN"
log = logging.getLogger("hierarchy.security")


class CredentialStore:
    """A credential in a file of mode 0600, and a join token. Shared by a node's uplinks, whose parents are replicas.

    path: of the credential; it need not exist yet.
    """

    def __init__(self, path: Path, credential: str = "", token: str = "") -> None:
        self._path = path
        self._credential = credential
        self._token = token
        self._token_first = False

    @classmethod
    def open(cls, path: Path, ref: str | None, environ: Mapping[str, str]) -> CredentialStore:
        """ref: where the join token is.

        Raises:
            UsageError: the credential or the token cannot be read. A token that is missing is none, once there is a
                credential: its file may be removed after it was used.
        """
        credential = read_secret_file(path) if stamp_of(path) else ""
        token = ""
        try:
            if ref is not None:
                token = read_secret(ref, environ)
            elif JOIN_TOKEN in environ:
                token = check_secret(environ[JOIN_TOKEN], f"env:{JOIN_TOKEN}")
        except UsageError:
            if not credential:
                raise
        return cls(path, credential, token)

    def __bool__(self) -> bool:
        return bool(self._credential or self._token)

    def bearer(self) -> str:
        """What to show now; "" for nothing."""
        first, second = self._credential, self._token
        if self._token_first:
            first, second = second, first
        return first or second

    def refused(self, shown: str) -> None:
        """It was not accepted: show the other one next, since a revoked node is let in again with a new token."""
        if shown and shown == self.bearer():
            self._token_first = not self._token_first

    def keep(self, credential: str) -> None:
        """From now on show this one, also after a restart."""
        if not credential or credential == self._credential:
            return
        self._credential = credential
        self._token_first = False
        try:
            write_private_file(self._path, check_secret(credential, "the parent's credential") + "\n")
        except (OSError, UsageError) as error:
            log.error(
                "%s: the credential could not be kept (%s): after a restart a new token is needed", self._path, error
            )
