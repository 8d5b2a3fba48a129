"""What a node sends to its parents to identify itself: its credential or its join token."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.errors import UsageError
from hierarchy.runtime.files import write_private_file
from hierarchy.security.credential_store import CredentialStore
from hierarchy.security.secret import JOIN_TOKEN


def test_a_credential_comes_before_the_token_and_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "n" / "credential"
    credentials = CredentialStore.open(path, None, {JOIN_TOKEN: "token"})
    assert credentials
    assert credentials.current() == "token"
    credentials.save("credential-1")
    assert credentials.current() == "credential-1"
    assert path.stat().st_mode & 0o777 == 0o600
    assert CredentialStore.open(path, None, {}).current() == "credential-1"
    assert CredentialStore.open(path, "file:/gone/after/use", {}).current() == "credential-1"


def test_after_a_refusal_the_other_one_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    write_private_file(path, "revoked")
    credentials = CredentialStore.open(path, None, {JOIN_TOKEN: "new"})
    assert credentials.current() == "revoked"
    credentials.mark_refused("revoked")
    assert credentials.current() == "new"
    credentials.mark_refused("revoked")  # by another parent, which was shown the credential before
    assert credentials.current() == "new"
    credentials.mark_refused("new")
    assert credentials.current() == "revoked"
    credentials.save("fresh")
    assert credentials.current() == "fresh"


def test_an_empty_store(tmp_path: Path) -> None:
    credentials = CredentialStore.open(tmp_path / "credential", None, {})
    assert not credentials
    assert credentials.current() == ""
    with pytest.raises(UsageError, match="NOPE"):
        CredentialStore.open(tmp_path / "credential", "env:NOPE", {})
